"""Faults for tests: makes a named step of a task or sandbox fail, or kills the daemon at it. Does nothing in use.

HUTCH_FAULT, read once, names a file; its content is "<step>" for an error or "<step> kill" for a SIGKILL. A file, so that one
daemon can be led through all steps. Tests find the steps by the calls of `at` in the sources.
"""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path
from typing import Final

_FILE: Final = os.environ.get("HUTCH_FAULT")


def at(step: str) -> None:
    """Here the step named `step` has just been done, and what follows may not be."""
    if _FILE is None:
        return
    wanted = Path(_FILE).read_text()
    if wanted == step:
        raise OSError(errno.EIO, f"injected after the step {step!r}")
    if wanted == f"{step} kill":
        os.kill(os.getpid(), signal.SIGKILL)
