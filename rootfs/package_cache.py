"""The packages that a build has downloaded, kept until it is done: one that broke off doesn't fetch them again.

Whatever is here is checked again by apt, against the signed index, before it is used.

    state/packages/<recipe>/   mounted over the tree's /var/cache/apt/archives while it is built; apt itself empties it at the end
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rootfs.tree import remove_tree

_AGE = 86400.0  # seconds that the packages of a build which was not taken up again are kept


@contextmanager
def packages(root: Path, recipe: str) -> Iterator[Path | None]:
    """Where a build may keep its packages; None while another build of the recipe does. What is left after a failure stays."""
    directory = root / "packages" / recipe
    directory.mkdir(parents=True, exist_ok=True)
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
        else:
            os.utime(directory)
            yield directory
            remove_tree(directory)
    finally:
        os.close(fd)


def sweep(root: Path) -> int:
    """Remove what was left a day ago or longer; returns the bytes freed."""
    freed = 0
    for directory in (root / "packages").glob("*"):
        with suppress(FileNotFoundError):  # a build has just ended
            if time.time() - directory.stat().st_mtime <= _AGE:
                continue
            with packages(root, directory.name) as found:
                freed += remove_tree(found).bytes if found else 0
    return freed
