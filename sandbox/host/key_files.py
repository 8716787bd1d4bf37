"""Files that hold a key: readable by their owner alone from their first byte, there whole or not at all.

It must not repair what somebody else can read: such a key is no secret any more, and whoever runs the host must know.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from sandbox.host.errors import HostError


def read_key(path: Path) -> str | None:
    """The file's text, or None when it isn't there. Raises HostError when others may read it, or nobody can."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"cannot read the key {path}: {error.strerror}", "run the daemon as root") from error
    with open(fd, encoding="ascii", errors="replace") as file:
        found = os.fstat(fd)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise HostError(
                f"the key {path} is not its owner's alone",
                f"chown root {path} && chmod 600 {path}, if it is still secret",
            )
        return file.read()


def write_key(path: Path, text: str) -> None:
    """Store a new key. Raises HostError."""
    temporary = path.with_suffix(".new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # of a daemon that was killed here
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with open(fd, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(fd)
        temporary.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise HostError(f"cannot store the key {path}: {error.strerror}", "free some space (hutch gc)") from error


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
