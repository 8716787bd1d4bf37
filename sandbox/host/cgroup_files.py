"""Reads, writes, makes and removes single cgroup directories and control files, with errors that name them.

Must not know what a limit or a sandbox is. Paths are the daemon's own: no part of them is a tenant's choice.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from sandbox.host.errors import HostError


class CgroupError(HostError):
    """A cgroup operation failed."""


def make_group(path: Path, exist_ok: bool) -> None:
    try:
        path.mkdir(mode=0o755)
    except FileExistsError as error:
        if not exist_ok:
            raise CgroupError(
                f"create cgroup {path}: it is there already", "stop who uses it, or sweep first"
            ) from error
    except OSError as error:
        remedy = (
            "run the daemon as root" if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS) else "see cgroups(7)"
        )
        raise CgroupError(f"create cgroup {path}: {error.strerror} ({_code(error)})", remedy) from error


def remove_group(path: Path) -> bool:
    """Remove one group; True if it is gone, False if it still has processes or groups in it."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno == errno.EBUSY:
            return False
        raise CgroupError(f"remove cgroup {path}: {error.strerror} ({_code(error)})", "see cgroups(7)") from error
    return True


def write(path: Path, value: str, operation: str) -> None:
    """Write one control file; FileNotFoundError and ProcessLookupError pass, other failures become CgroupError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except (FileNotFoundError, ProcessLookupError):
        raise
    except OSError as error:
        raise CgroupError(
            f"{operation}: write {value!r} to {path}: {error.strerror} ({_code(error)})",
            "run as root; see cgroups(7)",
        ) from error


def read(path: Path) -> str:
    # A group may vanish between listing and reading; then it has no processes and no counts.
    try:
        return path.read_text()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return ""
        raise CgroupError(f"read {path}: {error.strerror} ({_code(error)})", "run as root") from error


def number(path: Path) -> int:
    text = read(path).strip()
    return int(text) if text.isdigit() else 0


def table(path: Path) -> dict[str, int]:
    lines = (line.split() for line in read(path).splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


def descend(top: Path) -> Iterator[Path]:
    """The group and all below it, parents first; a list instead of recursion, for tenants nest as deep as they like."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            with os.scandir(path) as entries:
                children = [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
        yield path
        waiting.extend(children)


def _code(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))
