"""One HTTP/1.1 connection to a server, as h11 understands it: a GET, its head, its body in pieces, and the next.

It neither dials nor decides. Whatever goes wrong is a Broken; a server that keeps silent is a Silent.
"""

import asyncio

import h11

from proxy.artifacts.ask import Head, Pairs, parse_head

HEAD_SECONDS, STUCK_SECONDS = 60.0, 60.0
MAX_HEAD = 65_536
READ_BYTES = 131_072


class Broken(Exception):
    """A connection that broke, or on which no HTTP is spoken. The message says how."""


class Silent(Broken):
    """A connection on which nothing comes."""


class Wire:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)

    async def ask(self, target: str, fields: Pairs) -> Head:
        """Send a GET and wait for the head of its answer; raises Broken."""
        request = h11.Request(method="GET", target=target, headers=list(fields))
        self._writer.write((self._h11.send(request) or b"") + (self._h11.send(h11.EndOfMessage()) or b""))
        while isinstance(event := await self._event(HEAD_SECONDS), h11.InformationalResponse):
            pass
        if not isinstance(event, h11.Response):
            raise Broken("it closed the connection without an answer")
        if sum(len(name) + len(value) for name, value in event.headers) > MAX_HEAD:  # it came in one piece
            raise Broken(f"the head of its answer is longer than {MAX_HEAD} bytes")
        return parse_head(event.status_code, event.headers)

    async def piece(self) -> bytes | None:
        """Some more of the body, None at its end; raises Broken."""
        event = await self._event(STUCK_SECONDS)
        return bytes(event.data) if isinstance(event, h11.Data) else None

    async def _event(self, seconds: float) -> object:
        try:
            async with asyncio.timeout(seconds):
                while (event := self._h11.next_event()) is h11.NEED_DATA:
                    self._h11.receive_data(await self._reader.read(READ_BYTES))
                return event
        except TimeoutError as error:
            raise Silent(f"it sent nothing for {seconds:.0f} s") from error
        except (OSError, h11.ProtocolError) as error:
            raise Broken(str(error) or type(error).__name__) from error

    def next_cycle(self) -> bool:
        """Be ready for the next request; False if this connection can't be used again."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE or self._h11.trailing_data[0]:
            return False
        self._h11.start_next_cycle()
        return True

    async def is_quiet(self) -> bool:
        """Whether nothing has come while it was idle: neither its end, nor what would be taken for the next answer."""
        try:
            async with asyncio.timeout(0):
                await self._reader.read(1)
        except TimeoutError:
            return True
        except OSError:
            pass
        return False

    def abort(self) -> None:
        self._writer.transport.abort()
