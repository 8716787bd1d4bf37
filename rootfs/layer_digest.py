"""The job that digests what a layer's files look like: `python -I -m rootfs.layer_digest`, spoken to as in job.py.

Must not follow a link, write anything, or read a file: it takes as long as looking at all of them. What is missing, new, cut,
replaced or given away makes another digest; a copy that keeps owners and times (cp -a, tar) does not, in whatever order it lies.
Nor do contents that changed while size and time did not: to notice that is for file systems with checksums.

    {"layer": DIR, "gently": bool} → {"digest": HEX}; empty when the layer can't be read to its end
"""

import hashlib
import os
import stat
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rootfs.errors import ImageError
from rootfs.job import Progress, run_job
from rootfs.tree import Found, walk

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NICE = 10


def look(layer: Path) -> str:
    """The digest of a tree. Raises OSError, ImageError."""
    digest = hashlib.sha256()
    top = os.open(layer, _DIRECTORY)
    try:
        digest.update(_look_at(Found(top, ".", ".", os.fstat(top))))
        for found in walk(top):
            digest.update(_look_at(found))
    finally:
        os.close(top)
    return digest.hexdigest()


def _look_at(found: Found) -> bytes:
    """One entry, unambiguously: neither a path nor a target can contain what ends them.

    A directory's size is its file system's business, and of a time a copy may have kept the seconds only.
    """
    info = found.info
    target = os.readlink(found.name, dir_fd=found.directory) if stat.S_ISLNK(info.st_mode) else ""
    size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
    numbers = f"{info.st_mode:o} {info.st_uid} {info.st_gid} {size} {int(info.st_mtime)} {info.st_rdev}"
    return os.fsencode(f"{found.path}\0{numbers}\0{target}\0")


def job(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    if request["gently"]:
        os.nice(_NICE)
    try:
        return {"digest": look(Path(request["layer"]))}
    except (OSError, ImageError):  # a damaged disk says so itself
        return {"digest": ""}


if __name__ == "__main__":
    sys.exit(run_job(job))
