"""A task's journal: events.ndjson in its directory, appended by the one who runs the task, read by everybody else.

Readers never touch the task: they read the file and wait for it to grow. What a sandbox wrote is stored as base64, so
nothing that it prints can look like an event.
"""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

from proxy.replacing import Replacer
from sandbox.core.hiding import NOTHING
from sandbox.core.model import Phase, now

_CHUNK: Final = 1 << 18
_LINE_MAX: Final = 4 << 20  # bytes: more than any event has
_END: Final = b'{"type": "end"'
MAX_OUTPUT: Final = 64 << 20  # bytes a phase may print; the rest is read and dropped, so that the phase goes on
MAX_RECORDS: Final = 20_000  # network records of a task


class Journal:
    """The events of one task, open for appending."""

    def __init__(self, path: Path) -> None:
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 - closed by close()
        self._size = _drop_torn_line(path) if self._file.tell() else 0
        self._waiting: list[asyncio.Future[None]] = []
        self._left = MAX_OUTPUT
        self._records = 0
        self._streams: dict[tuple[str, str], Replacer] = {}
        self.hiding = NOTHING
        self.path = path
        self.closed = False

    def output(self, phase: str, stream: str, data: bytes) -> None:
        """Append what a phase printed."""
        if self.hiding is not NOTHING:
            data = self._streams.setdefault((phase, stream), self.hiding.stream()).feed(data)
        self._output(phase, stream, data)

    def _output(self, phase: str, stream: str, data: bytes) -> None:
        if self._left <= 0 or not data:
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
        for (name, stream), replacer in self._streams.items():
            self._output(name, stream, replacer.flush())
        self._streams.clear()
        seconds = round(phase.seconds, 3)
        self._append(
            {"type": "phase", "phase": phase.name, "state": "ended", "exit_code": phase.exit_code, "seconds": seconds}
        )

    def notice(self, text: str) -> None:
        """Something that the user should know."""
        self._append(self.hiding.json({"type": "notice", "text": text}))

    def network(self, record: dict[str, Any]) -> None:
        """A decision of the filter."""
        self._records += 1
        if self._records <= MAX_RECORDS:
            self._append({"type": "network", **record})
        elif self._records == MAX_RECORDS + 1:
            self.notice(f"more than {MAX_RECORDS} records of the network; the rest is only counted")

    def end(self, task: dict[str, Any]) -> None:
        """The last event."""
        self._append(self.hiding.json({"type": "end", "task": task}))

    def _append(self, event: dict[str, Any]) -> None:
        line = json.dumps(event).encode() + b"\n"
        if self._file.write(line) != len(line):  # a disk that has just become full takes a part
            os.ftruncate(self._file.fileno(), self._size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
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


def _drop_torn_line(path: Path) -> int:
    """Cut off what a daemon that was killed has written of its last line; the size that is left."""
    with open(path, "r+b") as file:
        start = max(0, file.seek(0, os.SEEK_END) - _LINE_MAX)
        file.seek(start)
        size = start + file.read().rfind(b"\n") + 1
        file.truncate(size)
    return size


async def read_events(
    path: Path, journal: Journal | None, end: Callable[[], dict[str, Any] | None] = lambda: None
) -> AsyncIterator[bytes]:
    """The journal's bytes from the beginning; with a live `journal`, until it is closed.

    The last line always is the end event of a task that has ended: where the journal has none (a full disk, a daemon that was
    killed at that moment), it is made of the task that `end` returns.
    """
    last = b""
    async for piece in _read(path, journal):
        yield piece
        last = (last + piece)[(last + piece).rstrip(b"\n").rfind(b"\n") + 1 :]
    task = None if last.startswith(_END) else end()
    if task is not None:
        yield json.dumps({"type": "end", "task": task}).encode() + b"\n"


async def of_type(kind: str, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Only the events of one type, of a journal's bytes in pieces of any size."""
    start, rest = b'{"type": "%b"' % kind.encode(), b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        if found := [line for line in lines if line.startswith(start)]:
            yield b"\n".join(found) + b"\n"


async def _read(path: Path, journal: Journal | None) -> AsyncIterator[bytes]:
    if not path.exists():  # removed by hand, or its removal was interrupted
        return
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
