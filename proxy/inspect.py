"""Carries a passage through mitmproxy, which opens TLS and parses HTTP; the only file that imports mitmproxy.

mitmproxy parses and translates, and decides nothing: it gets no event loop, listener, file or resolver of its own.
Whatever goes wrong in a hook ends the connection, where mitmproxy's own addon manager would log it and go on.

    client ══TLS══▶ ClientTLSLayer ▶ HttpLayer ▶ hooks of _Handler ──▶ open_connection = dial.py ══TLS══▶ server
"""

import asyncio
import logging
import socket
import ssl
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from mitmproxy import certs, connection, ctx, flow, http, options, tls
from mitmproxy.addonmanager import Loader
from mitmproxy.addons.proxyserver import Proxyserver
from mitmproxy.addons.tlsconfig import TlsConfig
from mitmproxy.connection import ConnectionState
from mitmproxy.proxy import commands, events, layers, mode_specs, server, tunnel
from mitmproxy.proxy.layers import http as http_layers
from mitmproxy.proxy.layers.http import HTTPMode, HttpStream
from mitmproxy.proxy.layers.http._events import RequestHeaders
from mitmproxy.proxy.layers.http._http1 import Http1Client, Http1Connection
from mitmproxy.proxy.layers.http._http2 import Http2Connection
from mitmproxy.proxy.utils import ReceiveBuffer

from proxy.addresses import Refused
from proxy.dial import DialError, Dialler
from proxy.passage import Denied, Passage
from proxy.records import printable
from proxy.request import DENIED_HEADER, Head, body, path_of, refusal, strip_upgrades

log = logging.getLogger(__name__)

HELD_BYTES = 256 * 1024 * 1024  # by all connections together, for peers that don't read
LEAST_HELD, MOST_HELD = 256 * 1024, 8 * 1024 * 1024  # by one of them
STUCK_SECONDS = 60.0
READ_BUFFER = 262_144


class BadAuthority(ValueError):
    """The CA or the trusted certificates can't be used. The message says which and why."""


class Inspector:
    """mitmproxy set up once: the CA, whom to trust upstream, and the options."""

    def __init__(self, ca_pem: str, upstream_trust: str, dialler: Dialler) -> None:
        self.dialler, self.open = dialler, 0
        self.options = options.Options()
        self.tls = TlsConfig()
        for addon in (self.tls, Proxyserver()):  # type: ignore[no-untyped-call]
            addon.load(Loader(SimpleNamespace(options=self.options)))  # type: ignore[no-untyped-call]
        self.options.update(  # type: ignore[no-untyped-call]
            connection_strategy="lazy",  # nothing is dialled before a request has been allowed
            rawtcp=False,
            http3=False,
            ssl_verify_upstream_trusted_ca=_readable_bundle(upstream_trust),
            upstream_cert=False,
        )
        ctx.options = self.options
        self.tls.certstore = _cert_store(ca_pem)
        self.mode = mode_specs.ProxyMode.parse("transparent")

    async def carry(self, passage: Passage, client: socket.socket) -> None:
        """Serve the passage to its end. Takes over the socket."""
        loop = asyncio.get_running_loop()
        reader = StreamReader(READ_BUFFER, loop)
        reader.feed_data(passage.already)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, client)
        self.open += 1
        try:
            writer = StreamWriter(transport, protocol, reader, loop)
            passage.carrier = handler = _Handler(self, passage, reader, writer)
            await handler.handle_client()
        finally:
            self.open -= 1
            transport.close()

    def fair_share(self) -> int:
        """How many bytes one connection may hold for peers that don't read."""
        return max(LEAST_HELD, min(MOST_HELD, HELD_BYTES // max(1, self.open)))


def _readable_bundle(path: str) -> str:
    try:
        if not ssl.create_default_context(cafile=path).cert_store_stats()["x509_ca"]:
            raise BadAuthority(f"{path} contains no CA certificate, so that no server could be trusted")
    except (OSError, ssl.SSLError) as error:
        raise BadAuthority(f"the trusted certificates in {path} can't be read: {error}") from error
    return path


def _cert_store(ca_pem: str) -> certs.CertStore:
    """A store made in memory: mitmproxy would otherwise keep the key in a directory."""
    try:
        key: Any = load_pem_private_key(ca_pem.encode(), None)
        ca = x509.load_pem_x509_certificate(ca_pem.encode())
    except ValueError as error:
        raise BadAuthority(f"ca_pem is not a key and a certificate in PEM form: {error}") from error
    return certs.CertStore(key, certs.Cert(ca), None, b"", certs.DHParams(b""))


class _Discard(ReceiveBuffer):
    """Takes in the body of a refused request without keeping it, so that the client gets to read the refusal."""

    def __iadd__(self, other: Any) -> "_Discard":
        return self


class _FramedHttp1Client(Http1Client):
    """HTTP/1 to the server, with the end of each body marked.

    Where a client speaks HTTP/2 and the server doesn't, mitmproxy streams a body of unknown length with neither
    length nor chunks, so that the server takes it for the next requests: ones that nobody has checked.
    """

    def send(self, event: Any) -> Any:
        if isinstance(event, RequestHeaders) and event.request.is_http2 and not event.end_stream:
            if_unknown = {} if "content-length" in event.request.headers else {"transfer-encoding": "chunked"}
            event.request.headers.update(if_unknown)
        yield from super().send(event)


http_layers.Http1Client = _FramedHttp1Client  # type: ignore[attr-defined]  # where mitmproxy's HttpClient looks it up


class _Handler(server.LiveConnectionHandler):
    """mitmproxy's I/O for one connection, with our dialling, our hooks, and limits to what it holds in memory."""

    def __init__(self, inspector: Inspector, passage: Passage, reader: StreamReader, writer: StreamWriter) -> None:
        super().__init__(reader, writer, inspector.options, inspector.mode)
        self._inspector, self._passage, self._seen_request = inspector, passage, False
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

    # ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def handle_hook(self, hook: commands.StartHook) -> None:
        """Call on_<name>. An error in it must never let anything through."""
        method = getattr(self, f"on_{hook.name}", None)
        try:
            if method is not None and asyncio.iscoroutine(pending := method(*hook.args())):
                await pending
        except Exception:
            log.exception("%s of a connection to %s failed, closing it", hook.name, self._passage.name)
            self.abort()
            raise

    def on_tls_clienthello(self, data: tls.ClientHelloData) -> None:
        if (sni := data.client_hello.sni) is None or sni.lower().removesuffix(".") != self._passage.name:
            raise Denied("mitmproxy reads another server name in the TLS handshake than the front did")

    def on_tls_start_client(self, data: tls.TlsData) -> None:
        self._inspector.tls.tls_start_client(data)

    def on_tls_start_server(self, data: tls.TlsData) -> None:
        # The server speaks what the client speaks, or HTTP/1: a request is never translated to HTTP/2.
        chosen = self.client.alpn
        data.conn.alpn_offers = (b"h2", b"http/1.1") if chosen == b"h2" else (chosen,) if chosen else ()
        self._inspector.tls.tls_start_server(data)

    def on_tls_failed_client(self, data: tls.TlsData) -> None:
        self._seen_request = True
        self._passage.allowed(f"the TLS handshake failed: {data.conn.error}", method="TLS")

    async def on_requestheaders(self, it: http.HTTPFlow) -> None:
        """The decision about one request. What is not refused here is streamed to the one server of the passage."""
        it.metadata["size"], self._seen_request = 0, True
        try:
            await self._check(it)
        except Denied as denied:
            self._respond(it, 403, denied.reason)
            self._passage.denied(denied, method=it.request.method, path=path_of(it.request.path))
        except DialError as error:
            self._respond(it, 502, str(error))
            self._passage.allowed(str(error), method=it.request.method, path=path_of(it.request.path))
        else:
            strip_upgrades(it.request.headers)
            it.request.stream = lambda data: _count(it, data)

    async def _check(self, it: http.HTTPFlow) -> None:
        decision = self._passage.decide()
        if not decision.allowed:
            raise Denied(decision.reason, decision.rule)
        if why := refusal(_head(it.request), self._passage.name, self._passage.port):
            raise Denied(why)
        if it.error is not None:  # mitmproxy has found it malformed, answers 400, and only wants it to be seen
            raise Denied(it.error.msg)
        try:
            await self._inspector.dialler.resolve(self._passage.name, self._passage.sandbox.look_ups)
        except Refused as refused:
            raise Denied(str(refused)) from refused

    def _respond(self, it: http.HTTPFlow, status: int, reason: str) -> None:
        it.metadata["answered"] = True
        fields = {"content-type": "text/plain"} | ({DENIED_HEADER: printable(reason)} if status == 403 else {})
        it.response = http.Response.make(status, body(reason, "denied" if status == 403 else "failed"), fields)
        for stream in self._layers():
            if isinstance(stream, HttpStream) and getattr(stream, "flow", None) is it:
                stream.request_body_buf = _Discard()  # type: ignore[no-untyped-call]

    def on_responseheaders(self, it: http.HTTPFlow) -> None:
        if it.response is None or "answered" in it.metadata:
            return
        if it.response.status_code == 101 and it.response.headers.get("upgrade", "").lower() != "websocket":
            it.error = flow.Error(flow.Error.KILLED_MESSAGE)  # an opaque tunnel otherwise
            return
        it.response.headers.pop("alt-svc", None)  # leads to QUIC, which goes nowhere, and to other names
        it.response.stream = lambda data: _count(it, data)

    def on_response(self, it: http.HTTPFlow) -> None:
        if "answered" not in it.metadata and it.websocket is None:
            self._record(it)

    def on_error(self, it: http.HTTPFlow) -> None:
        if "answered" not in it.metadata:
            self._record(it, it.error.msg if it.error else "")

    def on_websocket_message(self, it: http.HTTPFlow) -> None:
        assert it.websocket is not None
        it.metadata["size"] += len(it.websocket.messages[-1].content)
        it.websocket.messages.clear()  # else all of them would be kept to the end

    def on_websocket_end(self, it: http.HTTPFlow) -> None:
        self._record(it)

    def on_tcp_start(self, _: Any) -> None:
        raise Denied("mitmproxy would relay raw bytes")

    def _record(self, it: http.HTTPFlow, reason: str = "") -> None:
        size = it.metadata.get("size", 0)
        self._passage.allowed(reason, method=it.request.method, path=path_of(it.request.path), size=size)

    # ── dialling ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def open_connection(self, command: commands.OpenConnection) -> None:
        """Dial for mitmproxy: the last decision, and never anything but the passage's own name and port."""
        server_side = command.connection
        async with self.max_conns[server_side.address or ("", 0)]:
            try:
                reader, writer = await self._dial(server_side)
            except (Denied, Refused, DialError, OSError) as error:
                server_side.error = str(error)
                await self.server_event(events.OpenConnectionCompleted(command, server_side.error))
                return
            server_side.state = ConnectionState.OPEN
            server_side.peername = writer.get_extra_info("peername")
            server_side.sockname = writer.get_extra_info("sockname")
            self.transports[server_side] = server.ConnectionIO(asyncio.current_task(), reader, writer)
            await self.server_event(events.OpenConnectionCompleted(command, None))
            await self.handle_connection(server_side)

    async def _dial(self, server_side: connection.Server) -> tuple[StreamReader, StreamWriter]:
        passage = self._passage
        if server_side.address != (passage.name, passage.port) or server_side.tls is not passage.tls or server_side.via:
            raise Denied("mitmproxy asks for another server than the one this connection is for")
        if not (decision := passage.decide()).allowed:
            raise Denied(decision.reason)
        outgoing = await self._inspector.dialler.connect(passage.name, passage.port, passage.sandbox.look_ups)
        return await asyncio.open_connection(sock=outgoing, limit=READ_BUFFER)

    def close_connection(self, connection: connection.Connection, half_close: bool = False) -> None:
        """mitmproxy closes without a hook where it can't make out a request at all: that is a refusal, too."""
        if connection is self.client and connection.state & ConnectionState.CAN_READ and not self._seen_request:
            self._seen_request = True
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

    async def drain_writers(self) -> None:
        """Called after each read. mitmproxy waits for the sockets' buffers here; its own, inside HTTP/2 streams and
        paused layers, would grow as long as somebody sends: wait for these too, and give up on who never reads."""
        await super().drain_writers()  # type: ignore[no-untyped-call]
        task, waited = asyncio.current_task(), 0.0
        reading = next((conn for conn, io in self.transports.items() if io.handler is task), None)
        while self._held(reading) > self._inspector.fair_share():
            if waited > STUCK_SECONDS:
                self.abort()
                return
            await asyncio.sleep(0.02)
            waited += 0.02

    def _held(self, reading: connection.Connection | None) -> int:
        """Bytes held that reading from this connection would add to. What it holds for the connection itself
        doesn't count: its window updates have to be read to get rid of that."""
        total = 0
        for layer in self._layers():
            total += sum(len(getattr(event, "data", b"")) for event in layer._paused_event_queue)
            if isinstance(layer, Http1Connection):
                total += len(layer.buf)
            elif isinstance(layer, Http2Connection) and layer.conn is not reading:
                total += sum(len(part.data) for parts in layer.h2_conn.stream_buffers.values() for part in parts)
            elif isinstance(layer, layers.WebsocketLayer):
                total += sum(len(part) for ws in (layer.client_ws, layer.server_ws) for part in ws.frame_buf)
        return total

    def _layers(self) -> Iterator[Any]:
        todo: list[Any] = [self.layer]
        while todo:
            yield (layer := todo.pop())
            if (child := getattr(layer, "child_layer", None)) is not None:
                todo.append(child)
            if isinstance(layer, layers.HttpLayer):
                todo += [*layer.connections.values(), *layer.streams.values()]


def _count(it: http.HTTPFlow, data: bytes) -> bytes:
    it.metadata["size"] += len(data)
    return data


def _head(request: http.Request) -> Head:
    hosts = tuple(request.headers.get_all("host"))
    values = tuple(value for _, value in request.headers.fields)
    return Head(request.is_http2, request.method, request.authority, request.path, hosts, values)
