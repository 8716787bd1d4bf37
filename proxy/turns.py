"""Fair turns of the event loop: what a sandbox makes expensive costs itself, and not its neighbours.

    read ─ its sandbox's turn ─ handled ─ was that heavy? ─ no: go on, with a larger piece
                                                          ─ yes: small pieces, and nobody of the sandbox until it has rested

64 kB of the smallest frames of HTTP/2 take longer than what hundreds of honest requests do. Where nothing is heavy, turns
cost nothing: between a read and the end of its handling the loop goes round once.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

_LEAST, _MOST = 4_096, 65_536  # bytes of a piece
_CHEAP, _HEAVY = 0.001, 0.004  # seconds of this thread's work for one
_REST = 2.0  # × the work: so a sandbox's heavy traffic leaves most of a worker to others


@dataclass(slots=True)
class Turn:
    """A sandbox's: one of its connections at a time. `alone`: whether nobody else is there who could be kept waiting."""

    alone: Callable[[], bool] = lambda: False
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Work:
    """Seconds of this thread that were spent on one connection: `with` it, where nothing waits inside."""

    def __init__(self) -> None:
        self._spent = self._began = 0.0

    def __enter__(self) -> None:
        self._began = time.thread_time()

    def __exit__(self, *_: object) -> None:
        self._spent += time.thread_time() - self._began

    def take(self) -> float:
        """What it has been since the last time."""
        spent, self._spent = self._spent, 0.0
        return spent


class Reader(asyncio.StreamReader):
    """Of one side of a connection, to one piece after another. `done`, or `give_back` at the end, gives the turn back."""

    def __init__(self, turn: Turn, work: Work, limit: int) -> None:
        super().__init__(limit, asyncio.get_running_loop())
        self._turn, self._work = turn, work
        self._size, self._has_turn = _LEAST, False

    async def read(self, n: int = -1) -> bytes:
        """A piece, and the turn to handle it; at the end b"", which needs none."""
        piece = await super().read(min(n, self._size) if n >= 0 else n)
        if piece:
            await self._turn.lock.acquire()
            self._has_turn = True
        return piece

    async def done(self, *, counts: bool) -> None:
        """The piece has been handled. Not all counts: a handshake is work of ours."""
        if not self._has_turn:
            return
        await asyncio.sleep(0)  # what it has started is handled in tasks
        took = self._work.take()
        if took < _CHEAP:
            self._size = min(_MOST, 2 * self._size)
        while took > _HEAVY and counts:
            self._size = _LEAST
            await asyncio.sleep(0 if self._turn.alone() else _REST * took)
            took = self._work.take()  # by those tasks, meanwhile
        self.give_back()

    def give_back(self) -> None:
        """Nothing is handled any more."""
        if self._has_turn:
            self._has_turn = False
            self._turn.lock.release()
