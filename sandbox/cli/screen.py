"""The two streams of a running command as the user sees them: what the sandbox printed, and Hutch's own lines between.

Bytes go out at once and unchanged, except to a terminal, where they are made harmless first. It must not know tasks,
phases or the API, and holds nothing back but unfinished escapes.
"""

from __future__ import annotations

import os
from typing import Protocol

from sandbox.cli.output import STDERR, STDOUT, colours, paint, printable, write_all


class _Filter(Protocol):
    def feed(self, data: bytes, final: bool = False) -> bytes: ...


class Screen:
    """Where a command's stdout and stderr go; with `json` both go to stderr, since stdout is for JSON alone."""

    def __init__(self, json: bool = False) -> None:
        self._fds = {"stdout": STDERR if json else STDOUT, "stderr": STDERR}
        self._filters = {stream: _sanitizer() for stream, fd in self._fds.items() if os.isatty(fd)}
        # Descriptors that show on the same terminal share one cursor.
        self._cursors = {fd: "terminal" if os.isatty(fd) else str(fd) for fd in self._fds.values()}
        self._mid_line: dict[str, bool] = {}

    def output(self, stream: str, data: bytes) -> None:
        """What the sandbox printed on its "stdout" or "stderr"."""
        if stream in self._filters:
            data = self._filters[stream].feed(data)
        self._write(self._fds[stream], data)

    def heading(self, text: str, style: str = "bold") -> None:
        """A line of Hutch's own on stderr, after closing the line and the colours that a command left open."""
        self._finish()
        start = b"\x1b[0m" if colours(STDERR) else b""
        if self._mid_line.get(self._cursors[STDERR]):
            start += b"\n"
        line = paint(printable(text), style, STDERR)
        self._write(STDERR, start + line.encode("utf-8", "surrogateescape") + b"\n")

    def notice(self, text: str) -> None:
        """Something worth knowing, less than a heading."""
        self.heading(f"-- {text}", "dim")

    def _finish(self) -> None:
        for stream, pending in self._filters.items():
            self._write(self._fds[stream], pending.feed(b"", final=True))

    def _write(self, fd: int, data: bytes) -> None:
        if data:
            self._mid_line[self._cursors[fd]] = not data.endswith(b"\n")
            write_all(fd, data)


def _sanitizer() -> _Filter:
    # Imported here: `re` and the patterns cost some milliseconds that redirected output need not pay.
    from sandbox.cli.sanitize import Sanitizer

    return Sanitizer()
