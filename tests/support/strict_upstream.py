"""Servers that judge: they remember every connection, datagram and request, and what no strict parser would accept.

Must not be lenient anywhere: what arrives malformed was let through by the filter.

    port 80, 8080     HTTP/1.1, by h11                     443, 8443   the same in TLS; HTTP/2, by h2, for *.h2.test
    other ports       note what comes, answer SINK         UDP         note what comes, answer SINK
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11

from tests.support.certificates import Authority

NAMES = ("up.test", "*.up.test", "other.test", "private.test", "*.private.test", "h2.test", "*.h2.test")
SINK = b"you have reached a server that nobody may reach\n"
TCP_SINKS = (22, 81, 853, 5432, 8081)
UDP_SINKS = (53, 123, 443, 853, 5353, 9999)


@dataclass(frozen=True)
class Seen:
    """A request as a server has understood it; `sni` is None without TLS."""

    sni: str | None
    http: str
    method: str
    target: str
    host: str
    fields: tuple[tuple[bytes, bytes], ...] = field(compare=False)
    body: bytes = field(compare=False)


class StrictUpstream:
    """On each of the addresses. `seen`: requests; `broken`: what was malformed; `sunk`: what reached a sink."""

    def __init__(self, directory: Path, addresses: Sequence[str]) -> None:
        self.seen: list[Seen] = []
        self.broken: list[str] = []
        self.sunk: list[tuple[str, int, bytes]] = []
        self.connections = 0
        self.authority = Authority("The strict servers of Hutch's tests")
        self.ca = self.authority.pem
        self._addresses = addresses
        self._pem = directory / "server.pem"
        self._pem.write_bytes(self.authority.server(NAMES))
        (directory / "files").mkdir(exist_ok=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self._servers: list[Any] = []

    def __enter__(self) -> StrictUpstream:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(20)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(20)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def forget(self) -> None:
        for noted in (self.seen, self.broken, self.sunk):
            noted.clear()  # type: ignore[attr-defined]
        self.connections = 0

    async def _start(self) -> None:
        plain, secret = self._contexts()
        for address in self._addresses:
            for port in (80, 8080):
                self._servers.append(await asyncio.start_server(self._http, address, port, limit=1 << 20))
            for port in (443, 8443):
                self._servers.append(await asyncio.start_server(self._http, address, port, ssl=plain, limit=1 << 20))
            for port in TCP_SINKS:
                self._servers.append(await asyncio.start_server(self._sink, address, port))
            for port in UDP_SINKS:
                with contextlib.suppress(OSError):  # a resolver of the host's own may be there
                    transport, _ = await self._loop.create_datagram_endpoint(
                        lambda a=address, p=port: _Datagrams(self, a, p),  # type: ignore[misc]
                        local_addr=(address, port),
                    )
                    self._servers.append(transport)
        self._second = secret

    def _contexts(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        """One that speaks HTTP/1.1 only, and gives over to one that speaks HTTP/2 too for the names that do."""
        plain, both = (ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for _ in range(2))
        for context, protocols in ((plain, ["http/1.1"]), (both, ["h2", "http/1.1"])):
            context.load_cert_chain(self._pem)
            context.set_alpn_protocols(protocols)

        def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            connection.hutch_sni = name  # type: ignore[attr-defined]
            if name and name.endswith("h2.test"):
                connection.context = both

        plain.sni_callback = choose
        return plain, both

    async def _stop(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.sleep(0.05)

    # ── sinks ────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _sink(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        address, port = writer.get_extra_info("sockname")
        entry = len(self.sunk)
        self.sunk.append((address, port, b""))
        with contextlib.suppress(OSError):
            writer.write(SINK)
            while data := await reader.read(65_536):
                if entry < len(self.sunk):
                    self.sunk[entry] = (address, port, self.sunk[entry][2] + data)
                writer.write(data)
        writer.close()

    # ── HTTP ─────────────────────────────────────────────────────────────────────────────────────────────────────

    async def _http(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        tls = writer.get_extra_info("ssl_object")
        sni = getattr(tls, "hutch_sni", None) if tls else None
        try:
            await (self._http2 if tls and tls.selected_alpn_protocol() == "h2" else self._http1)(reader, writer, sni)
        except h2.exceptions.ProtocolError as error:
            self.broken.append(repr(error))
        except OSError:
            pass
        finally:
            self._tasks.discard(task)
            writer.close()

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sni: str | None) -> None:
        connection = h11.Connection(h11.SERVER)
        head: h11.Request | None = None
        raw = body = b""
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                self.broken.append(f"{error} in {raw[-500:]!r}")
                return
            match event:
                case h11.NEED_DATA:
                    data = await reader.read(65_536)
                    if not data and connection.their_state is not h11.IDLE:
                        return  # a client that goes away in the middle of a request has not sent one
                    raw += data if len(raw) < 100_000 else b""
                    connection.receive_data(data)
                case h11.Request():
                    head, body = event, b""
                case h11.Data():
                    body += event.data
                case h11.EndOfMessage() if head is not None:
                    fields = tuple(head.headers) + tuple((b"trailer " + name, value) for name, value in event.headers)
                    host = b"|".join(value for name, value in fields if name == b"host").decode("latin-1")
                    method, target = head.method.decode(), head.target.decode("latin-1")
                    self.seen.append(Seen(sni, "1.1", method, target, host, fields, body))
                    status, extra, content = _answer(target, len(body))
                    length = [] if status < 200 else [(b"content-length", b"%d" % len(content))]
                    if status == 101:
                        await self._switched(reader, writer, connection)
                        return
                    response = h11.Response(status_code=status, headers=[*extra, *length])  # type: ignore[arg-type]
                    writer.write(connection.send(response) or b"")
                    if method != "HEAD":
                        writer.write(connection.send(h11.Data(data=content)) or b"")
                    writer.write(connection.send(h11.EndOfMessage()) or b"")
                    await writer.drain()
                    if connection.states[h11.CLIENT] is h11.MUST_CLOSE or connection.our_state is h11.MUST_CLOSE:
                        return
                    connection.start_next_cycle()
                case _:
                    return

    async def _switched(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: h11.Connection
    ) -> None:
        """A server that plays into the tenant's hands: it changes the protocol, asked or not, and notes what comes."""
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + SINK)
        data = connection.trailing_data[0]
        with contextlib.suppress(TimeoutError):
            while piece := await asyncio.wait_for(reader.read(65_536), 1.0):
                data += piece
        if data:
            self.sunk.append(("upgraded", 0, data))

    async def _http2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sni: str | None) -> None:
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
        connection.initiate_connection()
        writer.write(connection.data_to_send())
        requests: dict[int, tuple[tuple[tuple[bytes, bytes], ...], bytearray]] = {}
        while data := await reader.read(65_536):
            for event in connection.receive_data(data):
                match event:
                    case h2.events.RequestReceived():
                        assert event.stream_id is not None
                        fields = tuple((bytes(name), bytes(value)) for name, value in event.headers or ())
                        requests[event.stream_id] = (fields, bytearray())
                    case h2.events.DataReceived():
                        assert event.stream_id is not None
                        requests[event.stream_id][1].extend(event.data or b"")
                        connection.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                    case h2.events.TrailersReceived():
                        assert event.stream_id is not None
                        extra = tuple((b"trailer " + bytes(name), bytes(value)) for name, value in event.headers or ())
                        requests[event.stream_id] = (requests[event.stream_id][0] + extra, requests[event.stream_id][1])
                    case h2.events.StreamEnded():
                        assert event.stream_id is not None
                        self._answer2(connection, event.stream_id, *requests.pop(event.stream_id), sni)
            writer.write(connection.data_to_send())
            await writer.drain()

    def _answer2(
        self, connection: h2.connection.H2Connection, stream: int, fields: Any, body: bytearray, sni: str | None
    ) -> None:
        pseudo = {name: value.decode("latin-1") for name, value in fields if name.startswith(b":")}
        hosts = [pseudo.get(b":authority", ""), *(v.decode("latin-1") for n, v in fields if n == b"host")]
        host = "|".join(dict.fromkeys(filter(None, hosts)))
        target = pseudo[b":path"]
        self.seen.append(Seen(sni, "2", pseudo[b":method"], target, host, fields, bytes(body)))
        status, extra, content = _answer(target, len(body))
        with contextlib.suppress(h2.exceptions.ProtocolError):  # the stream has been reset
            connection.send_headers(stream, [(b":status", b"%d" % status), *extra])
            connection.send_data(stream, b"" if pseudo[b":method"] == "HEAD" else content, end_stream=True)


def _answer(target: str, size: int) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    if target.startswith("/moved/"):
        return 302, [(b"location", target.removeprefix("/moved/").encode())], b"moved\n"
    if target.startswith("/switch"):
        return 101, [], b""
    return 200, [], f"reached with {size}\n".encode()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, upstream: StrictUpstream, address: str, port: int) -> None:
        self._upstream, self._place = upstream, (address, port)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._upstream.sunk.append((*self._place, data))
        self._transport.sendto(SINK, addr)
