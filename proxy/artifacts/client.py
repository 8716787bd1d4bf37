"""A worker's connection: its requests one after the other, and their answers, files by sendfile.

It speaks HTTP/1.1 and knows nothing of caches. A peer that is silent or doesn't read costs a time-out, nothing else.
"""

import asyncio
import os
import socket
from typing import Any

import h11

from proxy.artifacts.ask import Ask, BadAsk, Pairs, parse_ask
from proxy.artifacts.spool import BrokenOff, Piece

IDLE_SECONDS, STUCK_SECONDS = 60.0, 60.0
MAX_HEAD = 16_384


class Gone(Exception):
    """The worker has closed the connection, doesn't read, or can't be told in HTTP what there is to say."""


class Client:
    """Takes over the socket, which doesn't block. `tenant`: the sandbox whose requests come over it."""

    def __init__(self, sock: socket.socket, tenant: str) -> None:
        self._sock, self._tenant, self._loop = sock, tenant, asyncio.get_running_loop()
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def ask(self) -> Ask | None:
        """The next request, None when there is none any more; raises BadAsk, or Gone."""
        if self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE:
            self._h11.start_next_cycle()
        if self._h11.our_state is not h11.IDLE:
            return None
        event = await self._event()
        if not isinstance(event, h11.Request):
            return None
        fields = tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in event.headers)
        ask = parse_ask(event.method.decode("latin-1"), event.target.decode("latin-1"), fields, self._tenant)
        if not isinstance(await self._event(), h11.EndOfMessage):
            raise BadAsk("the request has a body")
        return ask

    async def _event(self) -> object:
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                while (event := self._h11.next_event()) is h11.NEED_DATA:
                    self._h11.receive_data(await self._loop.sock_recv(self._sock, MAX_HEAD))
                return event
        except h11.RemoteProtocolError as error:
            raise BadAsk(str(error)) from error
        except OSError as error:  # a time-out, too
            raise Gone from error

    async def head(self, status: int, fields: Pairs) -> None:
        """Begin an answer. Without content-length its body goes out in chunks."""
        await self._send(b"".join(self._framed(h11.Response(status_code=status, headers=list(fields)))))

    async def body(self, data: bytes | bytearray | memoryview | Piece) -> None:
        # h11 frames whatever has a length, and hands it back untouched.
        for part in self._framed(h11.Data(data=data)):  # type: ignore[arg-type]
            await (self._send_file(part) if isinstance(part, Piece) else self._send(part))

    async def end(self) -> None:
        await self._send(b"".join(self._framed(h11.EndOfMessage())))

    def _framed(self, event: h11.Event) -> list[Any]:
        try:
            return self._h11.send_with_data_passthrough(event) or []
        except h11.LocalProtocolError as error:
            raise Gone(str(error)) from error

    async def _send(self, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[self._sock.send(rest) :]
            except BlockingIOError:
                await self._writable()
            except OSError as error:
                raise Gone from error

    async def _send_file(self, piece: Piece) -> None:
        offset, end = piece.offset, piece.offset + piece.count
        while offset < end:
            try:
                sent = os.sendfile(self._sock.fileno(), piece.fd, offset, end - offset)
            except BlockingIOError:
                await self._writable()
                continue
            except OSError as error:
                raise Gone from error
            if not sent:
                raise BrokenOff("the file is shorter than it was")
            offset += sent

    async def _writable(self) -> None:
        writable, fd = asyncio.Event(), self._sock.fileno()
        self._loop.add_writer(fd, writable.set)
        try:
            async with asyncio.timeout(STUCK_SECONDS):
                await writable.wait()
        except TimeoutError as error:
            raise Gone from error
        finally:
            self._loop.remove_writer(fd)

    def close(self) -> None:
        self._sock.close()
