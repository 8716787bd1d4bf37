"""Mirrors that nobody has used for long. Must not read one: what is here may be a stranger's; it is only removed.

state/git/<key>/lock    touched by every fetch; stays, so that a fetch that waits for it has the right one
"""

import fcntl
import os
import time
from pathlib import Path

from rootfs.tree import remove_tree

_REPOSITORIES = ("mirror.git", "results.git")


def touch(home: Path) -> None:
    """Note that a mirror is used."""
    os.utime(home / "lock")


def sweep(state: Path, age: float) -> int:
    """Remove the mirrors that were not used for `age` seconds; returns the bytes freed."""
    freed = 0
    for lock in (state / "git").glob("*/lock"):
        if time.time() - lock.stat().st_mtime <= age or not any(
            (lock.parent / name).exists() for name in _REPOSITORIES
        ):
            continue
        fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            freed += sum(remove_tree(lock.parent / name).bytes for name in _REPOSITORIES)
        except BlockingIOError:
            continue  # it is being fetched
        finally:
            os.close(fd)
    return freed
