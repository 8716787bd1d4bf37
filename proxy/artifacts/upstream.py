"""Requests to servers: dialled by dial.py only, over verified TLS, a connection used again for the next one.

    send ─▶ an idle connection, or a new one ─▶ Exchange: the head is there ─▶ pieces() ─▶ close()

It follows no redirect, decodes nothing, and adds nothing to a request but Host.
"""

import asyncio
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator

from proxy.addresses import Refused
from proxy.artifacts.ask import Ask, Head, Pairs
from proxy.artifacts.inflow import Inflow
from proxy.artifacts.wire import Broken, Silent, Wire
from proxy.dial import DialError, Dialler
from proxy.sandboxes import Turns

MAX_EXCHANGES, MAX_EXCHANGES_OF_ONE = 512, 128  # of all tenants, of one
MAX_IDLE, MAX_IDLE_OF_ONE, IDLE_SECONDS = 32, 16, 30.0
TLS_SECONDS = 15.0

Origin = tuple[str, str, int]


class Failure(Exception):
    """A request that got no answer: what a client is to be told, with which status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Exchange:
    """One answer as it comes. Whoever has it closes it; one whose body wasn't read to its end costs the connection."""

    def __init__(self, upstream: "Upstream", ask: Ask, wire: Wire, head: Head, asked_at: float) -> None:
        self._upstream, self._ask, self._wire = upstream, ask, wire
        self.head, self.asked_at, self.received_at = head, asked_at, time.time()

    async def pieces(self) -> AsyncIterator[bytes | bytearray | memoryview]:
        """The body, each piece good until the next; raises Broken."""
        while (piece := await self._wire.piece()) is not None:
            yield piece

    async def close(self, *, bodiless: bool = False) -> None:
        """`bodiless`: the answer has none, as a 304; its end is still to be read."""
        try:
            if bodiless:
                await self._wire.piece()
        except Broken:
            pass
        finally:
            self._upstream.done(self._ask, self._wire)


class Upstream:
    def __init__(self, dialler: Dialler, trust: ssl.SSLContext) -> None:
        self._dialler, self._trust, self._turns = dialler, trust, Turns()
        self._idle: dict[Origin, list[tuple[Wire, asyncio.TimerHandle]]] = {}
        self._under_way: Counter[str] = Counter()  # exchanges by tenant

    async def send(self, ask: Ask, fields: Pairs) -> Exchange:
        """A GET for what is asked, with these fields; raises Failure."""
        if self._under_way.total() >= MAX_EXCHANGES or self._under_way[ask.tenant] >= MAX_EXCHANGES_OF_ONE:
            raise Failure(503, "too many downloads are under way")
        self._under_way[ask.tenant] += 1
        try:
            return await self._send(ask, (("host", ask.authority), *fields))
        except BaseException:
            self._left(ask)
            raise

    def _left(self, ask: Ask) -> None:
        self._under_way -= Counter([ask.tenant])  # which keeps no zeros

    async def _send(self, ask: Ask, fields: Pairs) -> Exchange:
        asked_at = time.time()
        while (idle := await self._take_idle(_origin(ask))) is not None:
            try:
                return Exchange(self, ask, idle, await self._ask(idle, ask, fields), asked_at)
            except Silent as error:
                raise Failure(504, f"{ask.host} gave no answer: {error}") from error
            except Broken:
                continue  # most likely closed just now, as servers do with idle connections
        wire = await self._dial(ask)
        try:
            return Exchange(self, ask, wire, await self._ask(wire, ask, fields), asked_at)
        except Broken as error:
            raise Failure(504 if isinstance(error, Silent) else 502, f"{ask.host} gave no answer: {error}") from error

    async def _ask(self, wire: Wire, ask: Ask, fields: Pairs) -> Head:
        try:
            return await wire.ask(ask.target, fields)
        except BaseException:
            wire.abort()
            raise

    async def _dial(self, ask: Ask) -> Wire:
        try:
            outgoing = await self._dialler.connect(ask.host, ask.port, self._turns)
        except Refused as error:
            raise Failure(403, f"{ask.host} must not be reached: {error}") from error
        except DialError as error:
            raise Failure(502, str(error)) from error
        trust, name = (self._trust, ask.host) if ask.scheme == "https" else (None, None)
        try:
            async with asyncio.timeout(TLS_SECONDS):
                loop = asyncio.get_running_loop()
                _, inflow = await loop.create_connection(Inflow, sock=outgoing, ssl=trust, server_hostname=name)
                return Wire(inflow)
        except TimeoutError as error:
            raise Failure(504, f"the TLS handshake with {ask.host} took longer than {TLS_SECONDS:.0f} s") from error
        except OSError as error:
            raise Failure(502, f"the TLS handshake with {ask.host} failed: {error}") from error

    async def _take_idle(self, origin: Origin) -> Wire | None:
        while idle := self._idle.get(origin):
            wire, expiry = idle[-1]
            expiry.cancel()
            self._forget(origin, wire)
            if await wire.is_quiet():
                return wire
            wire.abort()
        return None

    def done(self, ask: Ask, wire: Wire) -> None:
        """An exchange is over: its connection waits for the next one, or is closed."""
        self._left(ask)
        origin = _origin(ask)
        of_one, of_all = len(self._idle.get(origin, ())), sum(map(len, self._idle.values()))
        if of_one >= MAX_IDLE_OF_ONE or of_all >= MAX_IDLE or not wire.reusable:
            wire.abort()
            return
        expiry = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire, origin, wire)
        self._idle.setdefault(origin, []).append((wire, expiry))

    def _expire(self, origin: Origin, wire: Wire) -> None:
        self._forget(origin, wire)
        wire.abort()

    def _forget(self, origin: Origin, wire: Wire) -> None:
        left = [(each, expiry) for each, expiry in self._idle[origin] if each is not wire]
        self._idle.pop(origin)
        if left:
            self._idle[origin] = left


def _origin(ask: Ask) -> Origin:
    return ask.scheme, ask.host, ask.port
