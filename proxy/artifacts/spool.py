"""The growing file of a download under way: one writes, several read, nobody holds more of it in memory than a piece.

    write ──▶ [ file ] ──▶ Reader, Reader, …

Its size has a limit. A body that turns out longer (only one of unknown length can) is not to be kept; from then on the
file is used in a circle, and the writer waits for the slowest reader, or leaves one behind that keeps others waiting. Such
a body is read into memory, piece by piece: what sendfile has put into a socket are the file's own pages, and would change
under who hasn't read them yet.
It neither makes nor removes the file.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

PIECE, PIECE_IN_MEMORY = 1_048_576, 262_144
PATIENCE_SECONDS = 5.0  # with a reader that takes nothing, while another has read all there is


class BrokenOff(Exception):
    """The download ended before the body did. The message says why."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes that can be read from a file."""

    fd: int
    offset: int
    count: int

    def __len__(self) -> int:
        return self.count


class Spool:
    """`may_hold(size)`, for a body of unknown length, says whether the file may become as long; `first` bytes it may."""

    def __init__(self, fd: int, first: int, may_hold: Callable[[int], bool] | None) -> None:
        self._fd, self._first, self._may_hold = fd, first, may_hold
        self._circle = 0  # the file's size from when it is used in a circle
        self._failure: BaseException | None = None
        self.ended = False
        self._readers: set[Reader] = set()
        self._changed = asyncio.Event()
        self.written = 0

    @property
    def whole(self) -> bool:
        """Whether the file holds all of the body."""
        return self.ended and self._failure is None and not self._circle

    @property
    def read_by(self) -> int:
        return len(self._readers)

    def reader(self) -> "Reader | None":
        """A reader from the first byte on; None if that can't be had any more. To be closed by its owner."""
        if self._circle or self._failure is not None:
            return None
        reader = Reader(self, os.dup(self._fd))
        self._readers.add(reader)
        return reader

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            room = await self._room(len(rest))
            try:
                count = os.pwrite(self._fd, rest[:room], self._offset(self.written))
            except OSError:
                if self._circle or not self.written or self._may_hold is None:
                    raise
                self._circle = self.written  # a full disk: go on with the space that there is
                continue
            self.written += count
            rest = rest[count:]
            self._notify()

    async def _room(self, wanted: int) -> int:
        if not self._circle:
            end = self.written + wanted
            if self._may_hold is None or end <= self._first or self._may_hold(end):
                return wanted
            self._circle = max(self.written, self._first)
        while not (free := self._circle - (self.written - self._slowest())):
            await self._wait_for_the_slowest()
        return min(wanted, free, self._circle - self._offset(self.written))

    async def _wait_for_the_slowest(self) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await self._change()
        except TimeoutError:
            slowest, fastest = self._slowest(), max(reader.position for reader in self._readers)
            if slowest < fastest == self.written:
                self._readers -= {reader for reader in self._readers if reader.position == slowest}
                self._notify()

    def _offset(self, position: int) -> int:
        return position % self._circle if self._circle else position

    def _slowest(self) -> int:
        return min((reader.position for reader in self._readers), default=self.written)

    def end(self, failure: BaseException | None = None) -> None:
        """No more comes. With a failure, what is there is not the whole body."""
        if not self.ended:
            self.ended, self._failure = True, failure
            self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def _change(self) -> None:
        await self._changed.wait()

    async def next(self, reader: "Reader") -> Piece | bytes | None:
        if reader not in self._readers:
            raise BrokenOff("it was read so slowly that others had to wait")
        while reader.position == self.written:
            if self._failure is not None:
                raise BrokenOff(str(self._failure)) from self._failure
            if self.ended:
                return None
            await self._change()
        offset, left = self._offset(reader.position), self.written - reader.position
        if self._may_hold is None:
            return Piece(reader.fd, offset, min(PIECE, left))
        before_the_turn = self._circle - offset if self._circle else left
        return os.pread(reader.fd, min(PIECE_IN_MEMORY, left, before_the_turn), offset)

    def advance(self, reader: "Reader", count: int) -> None:
        reader.position += count
        if self._circle:
            self._notify()

    def leave(self, reader: "Reader") -> None:
        self._readers.discard(reader)
        self._notify()


class Reader:
    """One client's way through a spool."""

    def __init__(self, spool: Spool, fd: int) -> None:
        self._spool, self.fd, self.position = spool, fd, 0

    async def pieces(self) -> AsyncIterator[Piece | bytes]:
        """Raises BrokenOff where the download did."""
        while (piece := await self._spool.next(self)) is not None:
            yield piece
            self._spool.advance(self, len(piece))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
            self._spool.leave(self)
