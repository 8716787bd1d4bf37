"""Network records: what a sandbox asked for and what was decided, on their way to the daemon.

Nothing here waits: a daemon that doesn't read costs records (counted), never a sandbox's traffic.
"""

import asyncio
import json
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

MAX_TEXT = 1024
MAX_PENDING = 2_000  # of one sandbox, so that no sandbox can push out another's records
SAME_DENIAL_SECONDS = 1.0
MAX_REMEMBERED = 4_096


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def printable(text: str) -> str:
    """A tenant's string that can't control a terminal, forge a line or fill a disk."""
    if len(text) <= MAX_TEXT and text.isascii() and text.isprintable():
        return text
    return text[:MAX_TEXT].encode("ascii", "backslashreplace").decode().translate(_ESCAPES)


_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(0x20), 0x7F)}


@dataclass(frozen=True, slots=True)
class NetworkRecord:
    """One decision. `bytes` counts both directions; `path` comes without its query, which may hold credentials."""

    sandbox: str
    phase: str
    name: str
    port: int
    decision: str  # allow | deny
    rule: str = ""
    reason: str = ""
    method: str | None = None
    path: str | None = None
    bytes: int = 0
    at: str = field(default_factory=_now)

    def event(self) -> dict[str, Any]:
        values = ((key, getattr(self, key)) for key in self.__slots__)
        texts = {key: printable(value) if isinstance(value, str) else value for key, value in values}
        return {"event": "network", **texts}


class Records:
    """The outgoing half of the control socket: acknowledgements and records in the order of their making."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._queue: deque[tuple[str | None, bytes]] = deque()
        self._pending: Counter[str] = Counter()
        self._lost: Counter[str] = Counter()
        self._denials: OrderedDict[tuple[str, str, int, str], float] = OrderedDict()
        self._filled = asyncio.Event()

    def answer(self, message: dict[str, Any]) -> None:
        """An answer to the daemon: never dropped, since the daemon asks one thing at a time."""
        self._put(None, message)

    def add(self, record: NetworkRecord) -> None:
        if record.decision == "deny" and self._just_seen(record):
            return
        if self._pending[record.sandbox] >= MAX_PENDING:
            self._lost[record.sandbox] += 1
            return
        self._pending[record.sandbox] += 1
        self._put(record.sandbox, record.event())

    def _just_seen(self, record: NetworkRecord) -> bool:
        """Resolvers ask again, for two types, on every server: one refusal in a row of equal ones is enough."""
        key, now = (record.sandbox, record.name, record.port, record.reason), self._clock()
        seen = self._denials.pop(key, -SAME_DENIAL_SECONDS)
        self._denials[key] = now if now - seen >= SAME_DENIAL_SECONDS else seen
        if len(self._denials) > MAX_REMEMBERED:
            self._denials.popitem(last=False)
        return now - seen < SAME_DENIAL_SECONDS

    def forget(self, sandbox: str) -> None:
        """The next sandbox with this address starts anew: nothing of what it does was seen before, or counts for it."""
        self._tell_lost(sandbox)
        for key in [key for key in self._denials if key[0] == sandbox]:
            del self._denials[key]

    def _put(self, sandbox: str | None, message: dict[str, Any]) -> None:
        self._queue.append((sandbox, json.dumps(message).encode() + b"\n"))
        self._filled.set()

    async def next(self) -> bytes:
        """The next line for the daemon, waiting for one if there is none."""
        while not self._queue:
            self._filled.clear()
            await self._filled.wait()
        sandbox, line = self._queue.popleft()
        if sandbox is not None:
            self._sent(sandbox)
        return line

    def _sent(self, sandbox: str) -> None:
        self._pending[sandbox] -= 1
        if self._pending[sandbox] > 0:
            return
        del self._pending[sandbox]
        self._tell_lost(sandbox)

    def _tell_lost(self, sandbox: str) -> None:
        if lost := self._lost.pop(sandbox, 0):
            reason = f"{lost} further records were dropped: the sandbox made them faster than they could be written"
            self._pending[sandbox] += 1
            self._put(sandbox, NetworkRecord(sandbox, "", "", 0, "deny", reason=reason).event())
