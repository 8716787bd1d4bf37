"""Pipes between the daemon and processes in sandboxes, read and written without blocking the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import Final

CHUNK: Final = 65536
type Sink = Callable[[str, bytes], Awaitable[None]]


class Pipe:
    """A pipe whose ends are closed exactly once. `owner` is the host id that may open it again through /proc/self/fd."""

    def __init__(self, owner: int | None = None) -> None:
        self._ends: list[int | None] = list(os.pipe2(os.O_CLOEXEC))
        if owner is not None:
            os.fchown(self.read, owner, owner)

    @property
    def read(self) -> int:
        """The reading end."""
        return self._end(0)

    @property
    def write(self) -> int:
        """The writing end."""
        return self._end(1)

    def _end(self, side: int) -> int:
        end = self._ends[side]
        if end is None:
            raise ValueError("this end of the pipe is closed")
        return end

    def close_read(self) -> None:
        """Close the reading end, if open."""
        self._close(0)

    def close_write(self) -> None:
        """Close the writing end, if open."""
        self._close(1)

    def close(self) -> None:
        """Close what is still open."""
        self._close(0)
        self._close(1)

    def _close(self, side: int) -> None:
        end, self._ends[side] = self._ends[side], None
        if end is not None:
            os.close(end)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def readable(fd: int) -> None:
    """Wait until `fd` can be read."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(fd)


async def writable(fd: int) -> None:
    """Wait until `fd` can be written."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(fd, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_writer(fd)


async def read_some(fd: int) -> bytes:
    """Read what is there, waiting for at least a byte; b"" at the end (a closed terminal counts as the end)."""
    os.set_blocking(fd, False)
    while True:
        try:
            return os.read(fd, CHUNK)
        except BlockingIOError:
            await readable(fd)
        except OSError:  # EIO: the other side of a terminal is gone
            return b""


async def read_all(fd: int) -> bytes:
    """Read until the end."""
    pieces = []
    while piece := await read_some(fd):
        pieces.append(piece)
    return b"".join(pieces)


async def write_all(fd: int, data: bytes) -> bool:
    """Write `data`; False when nobody reads any more."""
    os.set_blocking(fd, False)
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await writable(fd)
        except OSError:
            return False
    return True


async def pump(fd: int, name: str, sink: Sink) -> None:
    """Hand everything from `fd` to `sink` until the end; the reader's pace is the writer's."""
    while data := await read_some(fd):
        await sink(name, data)


async def finish(pumps: list[asyncio.Task[None]], patience: float) -> None:
    """Wait for pumps whose process has ended; what a background process still holds open is given `patience` seconds."""
    if pumps:
        await asyncio.wait(pumps, timeout=patience)
    for pump_task in pumps:
        pump_task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pump_task
