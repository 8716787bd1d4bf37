"""Relays the bytes of one connection untouched, both ways, with backpressure and half-closes.

It never looks at a byte, and holds no more than the transports' own buffers: who can't write stops reading.

    client ──▶ Pipe ──peer──▶ Pipe ──▶ server        (one Pipe for each side; what one receives the other sends)
"""

import asyncio
import socket
from typing import cast

BUFFER = 65_536
IDLE_SECONDS = 600.0


class Pipe(asyncio.Protocol):
    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.peer: Pipe = self
        self.waiting = bytearray()  # to be sent as soon as there is a transport
        self.received = 0  # bytes from this side
        self.ended = False  # no more to come from this side
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=BUFFER)
        # The other side may stand already, have sent something, and even be gone again.
        self.transport.write(bytes(self.waiting))
        self.waiting.clear()
        if self.peer.ended:
            self.transport.write_eof()
        if self.peer.lost.done():
            self.transport.close()

    def send(self, data: bytes) -> None:
        if self.transport is None:
            self.waiting += data
        else:
            self.transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        self.peer.send(data)

    def pause_writing(self) -> None:
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer.transport is not None and not self.peer.transport.is_closing():
            self.peer.transport.resume_reading()

    def eof_received(self) -> bool:
        self.ended = True
        other = self.peer.transport
        if other is not None and not other.is_closing() and other.can_write_eof():
            other.write_eof()
        if self.peer.ended and other is not None:
            other.close()
        return not self.peer.ended  # kept open for the answer, closed (after flushing) when both have ended

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
        other = self.peer.transport
        if other is None or other.is_closing():
            return
        if exc is not None or not self.ended:
            other.abort()  # a reset stays a reset
        elif self.peer.ended:
            other.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class Splice:
    """Two sockets and what the client has already sent. Owns the sockets from the call of `run` on."""

    def __init__(self) -> None:
        self.client, self.server = Pipe(), Pipe()
        self.client.peer, self.server.peer = self.server, self.client

    @property
    def passed(self) -> int:
        return self.client.received + self.server.received

    def abort(self) -> None:
        self.client.abort()
        self.server.abort()

    async def run(self, client: socket.socket, server: socket.socket, already: bytes) -> None:
        """Relay until both directions have ended, one side is lost, or nothing has passed for too long."""
        loop = asyncio.get_running_loop()
        try:
            self.client.data_received(already)
            await loop.create_connection(lambda: self.server, sock=server)
            await loop.connect_accepted_socket(lambda: self.client, client)
            await self._until_done()
        finally:
            self.abort()

    async def _until_done(self) -> None:
        ends = asyncio.gather(self.client.lost, self.server.lost)
        seen = -1
        while not ends.done() and self.passed != seen:
            seen = self.passed
            await asyncio.wait([ends], timeout=IDLE_SECONDS)
        ends.cancel()
