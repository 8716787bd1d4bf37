"""mitmproxy's I/O for one connection, with our dialling, our hooks, and limits to what it holds in memory.

It opens no connection but to the passage's own host and port, or to the artifact cache.
"""

import asyncio
import logging
import socket
import sys
from asyncio import StreamReader, StreamReaderProtocol, StreamWriter
from typing import TYPE_CHECKING, Any

from mitmproxy import connection, http, tls
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layers, server, tunnel
from mitmproxy.proxy.layers.http import HTTPMode, HttpStream

from proxy.addresses import Refused
from proxy.destination import Denied, is_address
from proxy.dial import DialError
from proxy.inspect import framing  # noqa: F401  puts mitmproxy right
from proxy.inspect.held import Discard, all_layers, holds_too_much
from proxy.inspect.hooks import ARTIFACTS, Hooks
from proxy.passage import Passage
from proxy.records import printable
from proxy.turns import Reader, Work

if TYPE_CHECKING:
    from proxy.inspect.inspector import Inspector

log = logging.getLogger(__name__)

STUCK_SECONDS = 60.0
READ_BUFFER = 65_536


class Handler(server.LiveConnectionHandler):
    def __init__(
        self, inspector: "Inspector", passage: Passage, work: Work, reader: StreamReader, writer: StreamWriter
    ) -> None:
        super().__init__(reader, writer, inspector.options, inspector.mode)
        self._inspector, self._passage, self._work = inspector, passage, work
        self._hooks = Hooks(passage, inspector.dialler, inspector.has_artifacts, self._discard_body)
        context = self.layer.context
        context.server.address = (passage.name, passage.port)
        context.server.tls = passage.tls
        context.server.sni = passage.name if passage.tls else None
        stack = tunnel.LayerStack()
        if passage.tls:
            stack /= layers.ServerTLSLayer(context)
            stack /= layers.ClientTLSLayer(context)
        stack /= layers.HttpLayer(context, HTTPMode.transparent)
        self.layer = stack[0]

    def tell_refusal(self) -> None:
        """Record that a connection which may not be has come to its end without a request."""
        if not self._hooks.seen and not (decision := self._passage.decide()).allowed:
            self._hooks.seen = True
            self._passage.denied(Denied(decision.reason, decision.rule), method="TLS")

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """Call on_<name>, of this class for TLS, of Hooks for HTTP. An error must never let anything through."""
        method = getattr(self, f"on_{hook.name}", None) or getattr(self._hooks, f"on_{hook.name}", None)
        try:
            with self._work:
                pending = method(*hook.args()) if method is not None else None
            if asyncio.iscoroutine(pending):
                await pending
        except Exception:
            log.exception("%s of a connection to %s failed, closing it", hook.name, self._passage.name)
            self.abort()
            raise

    def on_tls_clienthello(self, data: tls.ClientHelloData) -> None:
        sni = data.client_hello.sni
        if sni is None and is_address(self._passage.name):
            return
        if sni is None or sni.lower().removesuffix(".") != self._passage.name:
            raise Denied("mitmproxy reads another server name in the TLS handshake than the front did")

    def on_tls_start_client(self, data: tls.TlsData) -> None:
        # As servers choose. mitmproxy takes what a client names first, and that is HTTP/1 for some that want HTTP/2.
        if b"h2" in self.client.alpn_offers:
            self.client.alpn = b"h2"
        self._inspector.tls.tls_start_client(data)

    def on_tls_start_server(self, data: tls.TlsData) -> None:
        # The server speaks what the client speaks, or HTTP/1: a request is never translated to HTTP/2.
        chosen = self.client.alpn
        data.conn.alpn_offers = (b"h2", b"http/1.1") if chosen == b"h2" else (chosen,) if chosen else ()
        self._inspector.tls.tls_start_server(data)

    def on_tls_failed_client(self, data: tls.TlsData) -> None:
        if not self._passage.decide().allowed:
            return  # it is told as a refusal, at its end
        self._hooks.seen = True
        self._passage.allowed(f"the TLS handshake failed: {data.conn.error}", method="TLS")

    def on_websocket_start(self, it: http.HTTPFlow) -> None:
        for layer in all_layers(self.layer):
            if isinstance(layer, layers.WebsocketLayer) and layer.flow is it:
                self._hooks.server_frames(it, layer.server_ws)

    def on_tcp_start(self, _: Any) -> None:
        raise Denied("mitmproxy would relay raw bytes")

    # ── dialling ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Dial for mitmproxy: the last decision, and never anything but the passage's own host and port."""
        server_side = command.connection
        async with self.max_conns[server_side.address or ("", 0)]:
            try:
                reader, writer = await self._dial(server_side)
            except (Denied, Refused, DialError, OSError) as error:
                server_side.error = str(error)
                await self.server_event(events.OpenConnectionCompleted(command, server_side.error))
                return
            server_side.state = ConnectionState.OPEN
            server_side.peername = writer.get_extra_info("peername") or ("", 0)
            server_side.sockname = writer.get_extra_info("sockname") or ("", 0)
            self.transports[server_side] = server.ConnectionIO(asyncio.current_task(), reader, writer)
            await self.server_event(events.OpenConnectionCompleted(command, None))
            await self.handle_connection(server_side)

    async def _dial(self, server_side: connection.Server) -> tuple[StreamReader, StreamWriter]:
        passage, policy = self._passage, self._passage.sandbox.policy
        if server_side.address == ARTIFACTS and not server_side.tls and not server_side.via:
            if not passage.permitted(policy):
                raise Denied("another policy has come, and this connection doesn't fit it")
            return await self._open(self._artifacts())
        if server_side.address != (passage.name, passage.port) or server_side.tls is not passage.tls or server_side.via:
            raise Denied("mitmproxy asks for another server than the one this connection is for")
        if not (decision := passage.decide()).allowed:
            raise Denied(decision.reason)
        outgoing = await self._inspector.dialler.connect(
            passage.name, passage.port, passage.sandbox.look_ups, policy.denied_networks
        )
        passage.dialled(outgoing)
        return await self._open(outgoing)

    async def _open(self, sock: socket.socket) -> tuple[StreamReader, StreamWriter]:
        loop = asyncio.get_running_loop()
        reader = Reader(self._passage.sandbox.turn, self._work, READ_BUFFER)
        transport, protocol = await loop.create_connection(lambda: StreamReaderProtocol(reader, loop=loop), sock=sock)
        return reader, StreamWriter(transport, protocol, reader, loop)

    def _artifacts(self) -> socket.socket:
        """A connection to the artifact cache: our end of a pair whose other end it has been sent."""
        if self._inspector.artifacts is None:
            raise DialError("there is no artifact cache")
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                tenant = self._passage.sandbox.address.encode()
                socket.send_fds(self._inspector.artifacts, [tenant], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise DialError(f"the artifact cache can't be reached: {error.strerror}") from error
        ours.setblocking(False)
        return ours

    def close_connection(self, connection: connection.Connection, half_close: bool = False) -> None:
        """mitmproxy closes without a hook where it can't make out a request at all: that is a refusal, too."""
        if connection is self.client and connection.state & ConnectionState.CAN_READ:
            self.tell_refusal()
            if not self._hooks.seen:
                self._hooks.seen = True
                self._passage.denied(Denied("what was sent is no valid HTTP request"), method=None)
        super().close_connection(connection, half_close)

    # ── limits ───────────────────────────────────────────────────────────────────────────────────────────────────

    def abort(self) -> None:
        for io in list(self.transports.values()):
            if isinstance(io.writer, StreamWriter):
                io.writer.transport.abort()
            if io.handler is not None:
                io.handler.cancel("aborted")

    def log(self, message: str, level: int = logging.INFO, exc_info: Any = None) -> None:
        """mitmproxy logs what it can't do, and its crashes, and leaves the connection open for ever: close it."""
        if exc_info is None:
            return
        if isinstance(missing := sys.exception(), NotImplementedError):
            self._passage.denied(Denied(str(missing)), method=None)
        else:
            log.error("%s (a connection to %s)", printable(message), self._passage.name, exc_info=exc_info)
        self.abort()

    async def server_event(self, event: events.Event) -> None:
        """All of mitmproxy's work. It waits for nothing in there."""
        with self._work:
            await super().server_event(event)

    async def handle_connection(self, connection: connection.Connection) -> None:
        reader = self.transports[connection].reader
        try:
            await super().handle_connection(connection)
        finally:
            assert isinstance(reader, Reader)
            reader.give_back()

    async def drain_writers(self) -> None:
        """Called after each read. mitmproxy waits for the sockets' buffers here; its own, inside HTTP/2 streams and
        paused layers, would grow as long as somebody sends: wait for these too, and give up on who never reads."""
        task, waited, pause = asyncio.current_task(), 0.0, 0.02
        reading = next((conn for conn, io in self.transports.items() if io.handler is task), None)
        if reading is not None and isinstance(reader := self.transports[reading].reader, Reader):
            await reader.done(counts=not reading.tls or reading.tls_established)
        await super().drain_writers()  # type: ignore[no-untyped-call]
        while holds_too_much(self.layer, reading, self._inspector.open):
            if waited > STUCK_SECONDS:
                self.abort()
                return
            await asyncio.sleep(pause)
            waited, pause = waited + pause, min(pause * 1.2, 0.5)  # thousands may be stuck

    def _discard_body(self, flow: http.HTTPFlow) -> None:
        """Drop what the client still sends of a request that was answered here."""
        for stream in all_layers(self.layer):
            if isinstance(stream, HttpStream) and getattr(stream, "flow", None) is flow:
                stream.request_body_buf = Discard()  # type: ignore[no-untyped-call]
