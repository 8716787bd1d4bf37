"""What a worker knows of its sandboxes: their policies and open connections, by source address.

State without I/O, with one writer (control.py for policies). An unknown source address has no entry and gets nothing.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from proxy.policy import Policy
from proxy.turns import Turn

MAX_CONNECTIONS = 512


class Connection(Protocol):
    """An open way from a sandbox to a server. `task` ends when all of it has been recorded."""

    task: asyncio.Task[None] | None

    def permitted(self, policy: Policy) -> bool: ...
    def abort(self) -> None:
        """No byte passes any more in either direction once this has returned."""


class Turns:
    """One sandbox's look-ups of names on the host: some at a time, some more waiting, and no others.

    They are slow, and share a number of threads with those of all sandboxes.
    """

    AT_ONCE, WAITING = 8, 64

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(self.AT_ONCE)
        self._taken = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[bool]:
        """Wait for a turn; gives False at once if too many wait already."""
        if self._taken >= self.AT_ONCE + self.WAITING:
            yield False
            return
        self._taken += 1
        try:
            async with self._slots:
                yield True
        finally:
            self._taken -= 1


class Queries:
    """One sandbox's queries of the resolver: so many at once, and so many a second, so that its flood silences no other."""

    BURST, PER_SECOND = 2_000, 500

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left, self._at = float(self.BURST), clock()

    def take(self) -> bool:
        """Whether one more is answered."""
        now = self._clock()
        self._left, self._at = min(self.BURST, self._left + (now - self._at) * self.PER_SECOND), now
        if self._left < 1:
            return False
        self._left -= 1
        return True


@dataclass(slots=True)
class Sandbox:
    address: str
    policy: Policy
    connections: set[Connection] = field(default_factory=set)
    accepted: int = 0  # connections that hold a place, including those that have no name yet
    look_ups: Turns = field(default_factory=Turns)
    queries: Queries = field(default_factory=Queries)
    turn: Turn = field(default_factory=Turn)


class Sandboxes:
    def __init__(self) -> None:
        self._by_address: dict[str, Sandbox] = {}

    def get(self, address: str) -> Sandbox | None:
        return self._by_address.get(address)

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(self._by_address.values())

    def set(self, address: str, policy: Policy) -> None:
        """From here on the policy is in force: for what is new, and for what is open."""
        sandbox = self._by_address.get(address)
        if sandbox is None:
            sandbox = self._by_address[address] = Sandbox(address, policy)
            sandbox.turn.alone = partial(self._alone, sandbox)
            return
        sandbox.policy = policy
        for connection in [open_ for open_ in sandbox.connections if not open_.permitted(policy)]:
            connection.abort()

    def _alone(self, sandbox: Sandbox) -> bool:
        return not any(other.accepted for other in self if other is not sandbox)

    def drop(self, address: str) -> list[Connection]:
        """Forget the sandbox; returns what was open. The next one with this address starts from nothing."""
        if (sandbox := self._by_address.pop(address, None)) is None:
            return []
        # A connection that is still before its decision holds this object: it must find nothing allowed in it.
        sandbox.policy = replace(sandbox.policy, access="off")
        closed = list(sandbox.connections)
        for connection in closed:
            connection.abort()
        return closed
