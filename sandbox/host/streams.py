"""Pipes between the daemon and processes in sandboxes, read and written without blocking the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

CHUNK: Final = 65536
_PIPE_MAX: Final = 1 << 20  # bytes: what a tenant may make of a pipe's 64 KiB
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

    def take_read(self) -> int:
        """The reading end, which the caller closes from now on."""
        end, self._ends[0] = self.read, None
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


class Pump:
    """Hands everything from `fd` to `sink` until the end; the reader's pace is the writer's. Closes `fd` when it has ended.

    Nobody else may close it: while the event loop watches it, its number must not become that of another file.
    """

    def __init__(self, fd: int, name: str, sink: Sink) -> None:
        self.moved = 0
        self.handing_over = False
        self.task = asyncio.get_running_loop().create_task(self._run(fd, name, sink))
        self.task.add_done_callback(lambda _: os.close(fd))

    async def _run(self, fd: int, name: str, sink: Sink) -> None:
        while data := await read_some(fd):
            self.handing_over = True
            await sink(name, data)
            self.moved += len(data)
            self.handing_over = False
            # A pipe that is filled as fast as we empty it never makes us wait: everybody else has their turn here.
            await asyncio.sleep(0)


async def finish(pumps: Sequence[Pump], patience: float) -> None:
    """End pumps whose process has ended, once they have handed over what it wrote.

    What a background process holds open is given up after `patience` seconds without a byte; one that goes on writing, after as
    much as a pipe may hold.
    """
    try:
        before = sum(pump.moved for pump in pumps)
        while (moved := sum(pump.moved for pump in pumps)) - before <= _PIPE_MAX:
            running = {pump.task for pump in pumps if not pump.task.done()}
            if not running:
                return
            await asyncio.wait(running, timeout=patience)
            idle = not any(pump.handing_over for pump in pumps) and moved == sum(pump.moved for pump in pumps)
            if idle:
                return
    finally:
        await stop(pumps)


async def stop(pumps: Sequence[Pump]) -> None:
    """End pumps at once, wherever they are."""
    for pump in pumps:
        pump.task.cancel()
    await asyncio.gather(*(pump.task for pump in pumps), return_exceptions=True)
