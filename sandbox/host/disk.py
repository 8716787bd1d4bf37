"""How much a file system has left, and what a directory takes of it.

Must not follow what a tenant wrote: the names in his trees are for `du` alone, and only its sum is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PATIENCE: Final = 120.0  # seconds that a tree of millions of files may take


@dataclass(frozen=True)
class Space:
    """Bytes and files: what is free, or what is used."""

    bytes: int
    files: int


def free(path: Path) -> Space:
    """What root may still use of the file system that `path` is on."""
    found = os.statvfs(path)
    # Some file systems make inodes as they go: they tell none.
    return Space(found.f_bavail * found.f_frsize, found.f_favail if found.f_files else 1 << 62)


def size(path: Path) -> int:
    """Bytes of that file system."""
    found = os.statvfs(path)
    return found.f_blocks * found.f_frsize


async def used(directory: Path) -> Space:
    """What is in a directory, each file once. Zero for what is gone, or takes too long to count."""
    total, files = await asyncio.gather(_sum(directory, "--block-size=1"), _sum(directory, "--inodes"))
    return Space(total, files)


async def _sum(directory: Path, what: str) -> int:
    process = await asyncio.create_subprocess_exec(
        "setpriv", "--pdeathsig=KILL", "--", "du", "--summarize", "--one-file-system", what, "--", str(directory),
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(_PATIENCE):
            said, _ = await process.communicate()
    except TimeoutError:
        said = b""
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    number = said.split(b"\t")[0]
    return int(number) if number.isdigit() else 0  # files vanish while it counts; the sum comes all the same
