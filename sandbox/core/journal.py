"""A task's journal: events.ndjson in its directory, appended by the one who runs the task, read by everybody else.

Readers never touch the task: they read the file and wait for it to grow. What a sandbox wrote is stored as base64, so
nothing that it prints can look like an event.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from sandbox.core.model import Phase, now

_CHUNK: Final = 1 << 18
MAX_OUTPUT: Final = 64 << 20  # bytes a phase may print; the rest is read and dropped, so that the phase goes on
MAX_RECORDS: Final = 20_000  # network records of a task


class Journal:
    """The events of one task, open for appending."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        self._size = path.stat().st_size
        self._waiting: list[asyncio.Future[None]] = []
        self._left = MAX_OUTPUT
        self._records = 0
        self.path = path
        self.closed = False

    def output(self, phase: str, stream: str, data: bytes) -> None:
        """Append what a phase printed."""
        if self._left <= 0:
            return
        self._left -= len(data)
        event = {"type": "output", "phase": phase, "stream": stream, "data": base64.b64encode(data).decode()}
        self._append(event)
        if self._left <= 0:
            self.notice(f"{phase}: more than {MAX_OUTPUT >> 20} MiB of output; the rest is not kept")

    def phase_started(self, phase: str) -> None:
        """A phase begins; it may print as much as any other."""
        self._left = MAX_OUTPUT
        self._append({"type": "phase", "phase": phase, "state": "started", "at": now()})

    def phase_ended(self, phase: Phase) -> None:
        """A phase has ended."""
        seconds = round(phase.seconds, 3)
        self._append(
            {"type": "phase", "phase": phase.name, "state": "ended", "exit_code": phase.exit_code, "seconds": seconds}
        )

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        self._append({"type": "notice", "text": text})

    def network(self, record: dict[str, Any]) -> None:
        """A decision of the filter."""
        self._records += 1
        if self._records <= MAX_RECORDS:
            self._append({"type": "network", **record})

    def end(self, task: dict[str, Any]) -> None:
        """The last event."""
        self._append({"type": "end", "task": task})

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        self._file.write(line)
        self._size += len(line)
        self._wake()

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def wait_for_more(self, seen: int) -> None:
        """Return when the file is longer than `seen` bytes, or closed."""
        while not self.closed and self._size <= seen:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future

    def close(self) -> None:
        """No more events; readers come to their end."""
        self.closed = True
        self._file.close()
        self._wake()


async def read_events(path: Path, journal: Journal | None) -> AsyncIterator[bytes]:
    """The journal's bytes from the beginning; with a live `journal`, until it is closed."""
    with open(path, "rb") as file:
        while True:
            piece = file.read(_CHUNK)
            if piece:
                yield piece
            elif journal is None or journal.closed:
                rest = file.read()
                if rest:
                    yield rest
                return
            else:
                await journal.wait_for_more(file.tell())
