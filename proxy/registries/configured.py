"""All indexes of an image: what its package managers' configuration says, and their own defaults where it says nothing.

Pure: it looks at files only through `Files`.
"""

from collections.abc import Callable, Mapping, Sequence

from proxy.registries import apt, npm, pip
from proxy.registries.index import Files, Index, prefixes

MAX_INDEXES = 32


def configured(image: Files, env: Mapping[str, str], host: Files, host_prefixes: Sequence[str]) -> tuple[Index, ...]:
    """The indexes of an image under these variables, at most MAX_INDEXES. Nothing is asked.

    `host`: where the defaults of package managers that the image hasn't got are read; a setup script may install them.
    """

    def default(read: Callable[[Files, Sequence[str]], Index | None]) -> Index | None:
        return read(image, prefixes(env)) or read(host, host_prefixes)

    found = [
        *pip.indexes(image, env, default(pip.default)),
        *npm.indexes(image, env, default(npm.default), default(npm.yarn_default)),
        *apt.indexes(image),
    ]
    return tuple(dict.fromkeys(found))[:MAX_INDEXES]
