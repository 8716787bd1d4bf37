"""The job protocol: one JSON request on stdin, JSON lines on stdout, the last one a result or an error.

Must not know what a job does.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, TextIO

from rootfs.errors import ImageError

_REQUEST_MAX = 4 << 20
_INTERVAL = 0.2  # seconds between progress lines that say the same thing with another number


class Progress:
    """Writes progress lines; lines with the same text are thinned out. Threads may share it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last = ("", 0.0)
        self._lock = threading.Lock()

    def __call__(self, text: str, done: int | None = None, total: int | None = None) -> None:
        with self._lock:
            last_text, last_time = self._last
            if text == last_text and done != total and monotonic() - last_time < _INTERVAL:
                return
            self._last = (text, monotonic())
            line: dict[str, Any] = {"progress": text}
            if done is not None:
                line["done"] = done
            if total is not None:
                line["total"] = total
            write_line(self._stream, line)


def write_line(stream: TextIO, line: Mapping[str, Any]) -> None:
    stream.write(json.dumps(line) + "\n")
    stream.flush()


class Stopped(BaseException):
    """SIGTERM, as an exception so that staging is cleaned on the way out."""


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped


def run_job(job: Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]) -> int:
    """Read the request, run the job, write its last line; returns the exit code."""
    signal.signal(signal.SIGTERM, _stop)
    os.umask(0o077)
    try:
        request = json.loads(sys.stdin.buffer.read(_REQUEST_MAX))
        if not isinstance(request, dict):
            raise ImageError("cannot start the job: its request isn't a JSON object", "send one object on stdin")
        write_line(sys.stdout, {"result": job(request, Progress(sys.stdout))})
    except Stopped:
        return _fail("the job was stopped", 143)
    except ImageError as error:
        return _fail(error.message, 1, error.remedy)
    except KeyError as error:
        return _fail(f"cannot start the job: its request has no {error}", 1, "add it")
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        return _fail(f"the job failed: {type(error).__name__}: {error}", 1)
    return 0


def _fail(message: str, code: int, remedy: str = "") -> int:
    with suppress(BrokenPipeError):  # whoever wanted to know has gone
        write_line(sys.stdout, {"error": {"message": message, "remedy": remedy}})
    return code
