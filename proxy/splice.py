"""Relays the bytes of one connection untouched, both ways, with backpressure and half-closes.

It never looks at a byte. Each way holds at most one piece that the other side could not take yet; until then it reads
no further. Plain system calls on readiness, without transports, tasks or timers: setting up a connection is what counts
where there are thousands of short ones.

    client ══▶ Way ══▶ server        readable: recv, send; all gone? again : wait until writable
    client ◀══ Way ◀══ server        end of file: shut the other side down for writing; both: done
"""

import asyncio
import socket
import struct
from contextlib import suppress

BUFFER = 262_144
IDLE_SECONDS = 24 * 3600  # terminals, notebooks and databases say nothing for hours; their number has a limit anyway
_RESET = struct.pack("ii", 1, 0)
# Filled and emptied within one callback, so that one does for all connections of the process.
_PIECE = memoryview(bytearray(BUFFER))


class _Way:
    """One direction."""

    def __init__(self, splice: "Splice", source: socket.socket, target: socket.socket, rest: bytes = b"") -> None:
        self._splice, self._source, self._target = splice, source, target
        self._from, self._to = source.fileno(), target.fileno()
        self._loop = asyncio.get_running_loop()
        self._rest = memoryview(rest)
        self.passed = len(rest)
        self.ended = False

    def start(self) -> None:
        if self._rest:
            self._writable()
        else:
            self._loop.add_reader(self._from, self._readable)

    def stop(self) -> None:
        self._loop.remove_reader(self._from)
        self._loop.remove_writer(self._to)

    def _readable(self) -> None:
        try:
            size = self._source.recv_into(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            self._splice.broken()
            return
        if size == 0:
            self._loop.remove_reader(self._from)
            self._end()
            return
        self.passed += size
        sent = self._send(_PIECE[:size])
        if 0 <= sent < size:
            self._rest = memoryview(bytes(_PIECE[sent:size]))
            self._loop.remove_reader(self._from)
            self._loop.add_writer(self._to, self._writable)

    def _writable(self) -> None:
        sent = self._send(self._rest)
        if sent < 0:
            return
        self._rest = self._rest[sent:]
        if self._rest:
            self._loop.add_writer(self._to, self._writable)
        else:
            self._loop.remove_writer(self._to)
            self._loop.add_reader(self._from, self._readable)

    def _send(self, data: memoryview) -> int:
        """How many bytes the other side took; -1 if it is gone."""
        try:
            return self._target.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._splice.broken()
            return -1

    def _end(self) -> None:
        self.ended = True
        try:
            self._target.shutdown(socket.SHUT_WR)
        except OSError:
            self._splice.broken()
        else:
            self._splice.ended()


class Splice:
    """Two sockets and what the client has already sent. Owns the sockets from the call of `run` on."""

    def __init__(self) -> None:
        self._ways: tuple[_Way, ...] = ()
        self._sockets: tuple[socket.socket, ...] = ()
        self._done: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def passed(self) -> int:
        """Bytes in both directions."""
        return sum(way.passed for way in self._ways)

    async def run(self, client: socket.socket, server: socket.socket, already: bytes) -> None:
        """Relay until both directions have ended, one side is lost, or nothing has passed for too long."""
        loop = asyncio.get_running_loop()
        self._done = loop.create_future()
        self._sockets = (client, server)
        self._ways = (_Way(self, client, server, already), _Way(self, server, client))
        self._watch(loop)
        try:
            for way in self._ways:
                if not self._done.done():
                    way.start()
            await self._done
        finally:
            self._close()

    def ended(self) -> None:
        """One direction has ended."""
        if all(way.ended for way in self._ways):
            self._finish()

    def broken(self) -> None:
        """One side is lost: a reset stays a reset."""
        for sock in self._sockets:
            with suppress(OSError):
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._finish()

    def abort(self) -> None:
        """Nothing passes any more when this has returned."""
        self.broken()
        self._close()

    def _watch(self, loop: asyncio.AbstractEventLoop, before: int = -1) -> None:
        """End it when nothing has passed since the last look."""
        if self.passed == before:
            self.broken()
        else:
            self._timer = loop.call_later(IDLE_SECONDS, self._watch, loop, self.passed)

    def _finish(self) -> None:
        if self._sockets:  # else their numbers may be others' by now
            for way in self._ways:
                way.stop()
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def _close(self) -> None:
        self._finish()
        if self._timer is not None:
            self._timer.cancel()
        sockets, self._sockets = self._sockets, ()
        for sock in sockets:
            sock.close()
