"""The job that makes a layer of what a runtime's script has written: `python -I -m rootfs.runtime_layer`, spoken to as in job.py.

Must not follow a link, and removes nothing but below `upper`. Such layers lie over each other: so that none hides what is in
another, a directory that is new over the image is not opaque.

    {"upper": DIR, "lower": [DIR, top first], "keep": [PATH], "drop": [PATH]} → {"bytes": n}
"""

import os
import stat
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rootfs.job import Progress, run_job
from rootfs.tree import Found, remove_tree, tree_size, walk

_OPAQUE = "trusted.overlay.opaque"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def prune(directory: Path, keep: Iterable[str]) -> None:
    """Remove everything below the directory but these paths, relative to it."""
    kept = [path.partition("/") for path in keep]
    for name in os.listdir(directory):
        if any(first == name and not rest for first, _, rest in kept):
            continue
        below = [rest for first, _, rest in kept if first == name]
        if below and _is_directory(directory / name):
            prune(directory / name, below)
        else:
            remove_tree(directory / name)


def drop(top: Path, paths: Iterable[str]) -> None:
    """Remove these paths, relative to the top; one that a link leads to is none."""
    for path in paths:
        if _has(top, path):
            remove_tree(top / path)


def unhide(top: Path, lower: Sequence[Path]) -> None:
    """Take the opaque mark off every directory that hides nothing of the layers below."""
    fd = os.open(top, _DIRECTORY)
    try:
        for found in walk(fd):
            if not stat.S_ISDIR(found.info.st_mode) or any(_has(layer, found.path) for layer in lower):
                continue
            if _OPAQUE in os.listxattr(place := _place(found), follow_symlinks=False):
                os.removexattr(place, _OPAQUE, follow_symlinks=False)
    finally:
        os.close(fd)


def _has(top: Path, path: str) -> bool:
    """Whether something stands there, on a way of directories alone: a link in an image may lead anywhere on the host."""
    parents = [top, *(top / parent for parent in list(Path(path).parents)[-2::-1])]
    return all(map(_is_directory, parents)) and os.path.lexists(top / path)


def _place(found: Found) -> str:
    return f"/proc/self/fd/{found.directory}/{found.name}"


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode) if os.path.lexists(path) else False


def job(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    upper = Path(request["upper"])
    prune(upper, request["keep"])
    drop(upper, request["drop"])
    unhide(upper, [Path(layer) for layer in request["lower"]])
    return {"bytes": tree_size(upper)}


if __name__ == "__main__":
    sys.exit(run_job(job))
