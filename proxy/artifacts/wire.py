"""One HTTP/1.1 connection to a server: a GET, its head, its body in pieces, and the next.

h11 reads heads and what comes in chunks. A body of known length is only counted, so that it goes from the socket to a
file without being copied in between. It neither dials nor decides. Whatever goes wrong is a Broken; a server that keeps
silent is a Silent.
"""

import asyncio

import h11

from proxy.artifacts.ask import Head, Pairs, parse_head
from proxy.artifacts.inflow import Inflow

HEAD_SECONDS, STUCK_SECONDS = 60.0, 60.0
MAX_HEAD = 65_536
_BODILESS = (204, 304)


class Broken(Exception):
    """A connection that broke, or on which no HTTP is spoken. The message says how."""


class Silent(Broken):
    """A connection on which nothing comes."""


class Wire:
    def __init__(self, inflow: Inflow) -> None:
        self._inflow = inflow
        self._h11 = h11.Connection(h11.CLIENT)
        # While a body is counted: what is missing of it, and what of it came together with the head.
        self._missing: int | None = None
        self._early = b""

    async def ask(self, target: str, fields: Pairs) -> Head:
        """Send a GET and wait for the head of its answer; raises Broken. The body of the one before has been read."""
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
        request = h11.Request(method="GET", target=target, headers=list(fields))
        self._inflow.send((self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b""))
        while isinstance(event := await self._event(HEAD_SECONDS), h11.InformationalResponse):
            pass
        if not isinstance(event, h11.Response):
            raise Broken("it closed the connection without an answer")
        if sum(len(name) + len(value) for name, value in event.headers) > MAX_HEAD:  # it came in one piece
            raise Broken(f"the head of its answer is longer than {MAX_HEAD} bytes")
        head = parse_head(event.status_code, event.headers)
        self._missing = 0 if head.status in _BODILESS else head.length
        self._early = b"" if self._missing is None else self._h11.trailing_data[0]
        return head

    async def piece(self) -> bytes | bytearray | memoryview | None:
        """Some more of the body, None at its end; raises Broken. It is good until the next call."""
        if self._missing is None:
            event = await self._event(STUCK_SECONDS)
            return event.data if isinstance(event, h11.Data) else None
        if not self._missing:
            return None
        early, self._early = self._early, b""
        data = early or await self._take(STUCK_SECONDS)
        if not data:
            raise Broken(f"it closed the connection with {self._missing} bytes missing")
        piece, self._early = data[: self._missing], bytes(data[self._missing :])  # too many: never used again
        self._missing -= len(piece)
        return piece

    async def _event(self, seconds: float) -> object:
        try:
            while (event := self._h11.next_event()) is h11.NEED_DATA:
                self._h11.receive_data(await self._take(seconds))  # type: ignore[arg-type]
            return event
        except h11.ProtocolError as error:
            raise Broken(str(error) or type(error).__name__) from error

    async def _take(self, seconds: float) -> memoryview:
        try:
            async with asyncio.timeout(seconds):
                return await self._inflow.take()
        except TimeoutError as error:
            raise Silent(f"it sent nothing for {seconds:.0f} s") from error
        except OSError as error:
            raise Broken(str(error) or type(error).__name__) from error

    @property
    def reusable(self) -> bool:
        """Whether another request may follow: both sides agree where the last answer ended, and that it isn't the last."""
        if self._missing is None:
            return self._h11.their_state is self._h11.our_state is h11.DONE and not self._h11.trailing_data[0]
        return not self._missing and not self._early and self._h11.our_state is h11.DONE

    async def is_quiet(self) -> bool:
        """Whether nothing has come while it was idle: neither its end, nor what would be taken for the next answer."""
        return await self._inflow.is_quiet()

    def abort(self) -> None:
        self._inflow.abort()
