"""What a server sends, in two buffers that take turns: one is being filled while the other is used.

The receiving end of a connection without StreamReader, which copies everything three times. It holds two buffers'
worth and no more: while both are full nothing is read, and the server has to wait.
"""

import asyncio
from typing import cast

SIZE = 131_072


class Inflow(asyncio.BufferedProtocol):
    def __init__(self) -> None:
        self._filling, self._in_use = bytearray(SIZE), bytearray(SIZE)
        self._filled = 0
        self._ended = False
        self._error: OSError | None = None
        self._arrived = asyncio.Event()
        self._transport: asyncio.Transport | None = None

    async def take(self) -> memoryview:
        """What has come, waiting for it if need be; empty at the end. It is good until the next call; raises OSError."""
        while not self._filled and not self._ended:
            self._arrived.clear()
            await self._arrived.wait()
        if not self._filled and self._error is not None:
            raise self._error
        self._filling, self._in_use = self._in_use, self._filling
        count, self._filled = self._filled, 0
        if count == SIZE and not self._ended and self._transport is not None:
            self._transport.resume_reading()
        return memoryview(self._in_use)[:count]

    async def is_quiet(self) -> bool:
        """Whether nothing has come, neither bytes nor the end."""
        for _ in range(2):  # what is in the socket reaches us in the second turn of the loop
            await asyncio.sleep(0)
        return not self._filled and not self._ended

    def send(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # ── called by the event loop ─────────────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without being called so

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._filling)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if self._filled == SIZE and self._transport is not None:
            self._transport.pause_reading()
        self._arrived.set()

    def eof_received(self) -> None:
        self._ended = True
        self._arrived.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = exc if isinstance(exc, OSError) else None
        self._arrived.set()
