"""How much a file system has left, and what a directory takes of it.

Must not follow what a tenant wrote: the names in his trees are for `du` alone, and only its sum is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_DESCRIPTORS: Final = 200_000  # a second of looking
_PATIENCE: Final = 120.0  # seconds that a tree of millions of files may take


@dataclass(frozen=True)
class Space:
    """Bytes and files: what is free, or what is used."""

    bytes: int
    files: int


def free(path: Path) -> Space:
    """What is left of the file system that `path` is on, without what is reserved for root."""
    found = os.statvfs(path)
    # Some file systems make inodes as they go: they tell none.
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else 1 << 62)


def size(path: Path) -> int:
    """Bytes of that file system."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


async def used(directory: Path) -> Space | None:
    """What is in a directory, each file once; nothing for what is gone. None when it takes too long to count."""
    total, files = await asyncio.gather(_sum(directory, "--block-size=1"), _sum(directory, "--inodes"))
    return None if total is None or files is None else Space(total, files)


async def _sum(directory: Path, what: str) -> int | None:
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig=KILL", "--", "du", "--summarize", "--one-file-system", what, "--", str(directory),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PATIENCE):
            said, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    number = said.split(b"\t")[0]
    return int(number) if number.isdigit() else 0  # files vanish while it counts; the sum comes all the same


def removed_but_open(pids: Iterable[int]) -> int | None:
    """Bytes of files on the root file system of these processes that have no name any more, but are held open. None when more
    is open than can be looked at: a tenant has as many descriptors as processes and his memory allow.
    """
    found: dict[tuple[int, int], int] = {}
    left = _DESCRIPTORS
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            root = Path(f"/proc/{pid}/root").stat().st_dev
            names = os.listdir(f"/proc/{pid}/fd")
            if (left := left - len(names)) < 0:
                return None
            for name in names:
                with contextlib.suppress(OSError):
                    info = Path(f"/proc/{pid}/fd/{name}").stat()
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0 and info.st_dev == root:
                        found[info.st_dev, info.st_ino] = 512 * info.st_blocks
    return sum(found.values())
