"""The front: accepts what arrives in the gateway and takes each connection through its decisions, once, in this order.

    accept ─ source known? ─ destination = synthetic address of a name? ─ first bytes: TLS or HTTP?
           ─ policy permits name and port? ─ SNI = name? ─┬─ splice  (bytes untouched)
              any no: a refusal and a record              └─ inspect (opened by mitmproxy, decided per request)

It never dials an address by itself, only a name through dial.py. Nothing in one connection may end the accept loop.
"""

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address

from proxy.addresses import Refused
from proxy.dial import DialError, Dialler
from proxy.names import BadName, canonical
from proxy.passage import Denied, Passage
from proxy.policy import way
from proxy.records import NetworkRecord, Records
from proxy.request import response
from proxy.sandboxes import MAX_CONNECTIONS, SYNTHETIC, Sandbox, Sandboxes
from proxy.sniff import Hello, NeedMore, Other, Start, sniff
from proxy.splice import Splice

log = logging.getLogger(__name__)

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
FIRST_BYTES_SECONDS = 10.0  # a protocol in which the server speaks first ends here
MAX_PIECES = 256  # every piece is parsed again from the start, so their number has a limit
MAX_ALL_CONNECTIONS = 8_192
TLS_ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))  # a fatal alert: clients say "access denied", not "reset"
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Inspect = Callable[[Passage, socket.socket], Awaitable[None]]


class Front:
    def __init__(self, sandboxes: Sandboxes, records: Records, dialler: Dialler, inspect: Inspect) -> None:
        self._sandboxes, self._records, self._dialler, self._inspect = sandboxes, records, dialler, inspect
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, listener: socket.socket) -> None:
        """Accept for ever."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, (source, _) = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    log.error("accepting a connection failed: %s; trying again", error)
                    await asyncio.sleep(0.2)
                continue
            task = loop.create_task(self._visit(client, source))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _visit(self, client: socket.socket, source: str) -> None:
        sandbox = self._sandboxes.get(source)
        if sandbox is None or sandbox.accepted >= MAX_CONNECTIONS or len(self._tasks) > MAX_ALL_CONNECTIONS:
            _reset(client)
            if sandbox is not None:
                self._deny(sandbox, "", 0, Denied(f"more than {MAX_CONNECTIONS} connections at once"))
            return
        sandbox.accepted += 1
        try:
            await self._attend(sandbox, client)
        except OSError as error:
            log.info("a connection of %s ended: %s", source, error)
        except Exception:
            log.exception("a connection of %s failed", source)
        finally:
            sandbox.accepted -= 1
            client.close()

    async def _attend(self, sandbox: Sandbox, client: socket.socket) -> None:
        address, port = original_destination(client)
        name = sandbox.names.name(address) if address in SYNTHETIC else None
        if name is None:
            self._deny(sandbox, str(address), port, Denied("addresses can't be reached, only names"))
            _reset(client)
            return
        start, already = await _first_bytes(client)
        try:
            passage = self._admit(sandbox, name, port, start, already)
        except Denied as denied:
            self._deny(sandbox, name, port, denied)
            await _explain(client, start, denied)
            return
        sandbox.opened(passage)
        try:
            await (self._splice if passage.how == "splice" else self._inspect)(passage, client)
        finally:
            sandbox.closed(passage)

    def _admit(self, sandbox: Sandbox, name: str, port: int, start: Start, already: bytes) -> Passage:
        decision = sandbox.decide(name, port)
        if not decision.allowed:
            raise Denied(decision.reason, decision.rule)
        if isinstance(start, NeedMore):
            raise Denied(f"neither a TLS handshake nor an HTTP request was sent within {FIRST_BYTES_SECONDS:.0f} s")
        if isinstance(start, Other):
            raise Denied(start.reason)
        tls = isinstance(start, Hello)
        how = way(sandbox.policy, tls=tls)
        if isinstance(start, Hello):
            check_sni(start, name)
            if start.ech:
                # A dummy and a real encrypted hello look the same. Opened by us, which can't decrypt either, a client
                # with a dummy goes on, and one with a real hidden name finds no way to it.
                how = "inspect"
        return Passage(sandbox, name, port, tls, how, decision.rule, already, self._records)

    async def _splice(self, passage: Passage, client: socket.socket) -> None:
        try:
            server = await self._dialler.connect(passage.name, passage.port, passage.sandbox.look_ups)
        except Refused as refused:
            denied = Denied(str(refused))
            passage.denied(denied, method="TLS")
            await _explain(client, Hello(passage.name, False), denied)
            return
        except DialError as error:
            passage.allowed(str(error), method="TLS")
            _reset(client)
            return
        passage.carrier = splice = Splice()
        try:
            await splice.run(client, server, passage.already)
        finally:
            passage.allowed(method="TLS", size=splice.passed)

    def _deny(self, sandbox: Sandbox, name: str, port: int, denied: Denied) -> None:
        record = NetworkRecord(
            sandbox.address, sandbox.policy.phase, name, port, "deny", rule=denied.rule, reason=denied.reason
        )
        self._records.add(record)


def check_sni(hello: Hello, name: str) -> None:
    """Raises Denied unless the handshake is for the name that was resolved."""
    if hello.sni is None:
        raise Denied("the TLS handshake names no server (no SNI)")
    try:
        sni = canonical(hello.sni)
    except BadName as error:
        raise Denied(f"the server name in the TLS handshake is malformed: {error}") from error
    if sni != name:
        raise Denied(f"the TLS handshake is for {sni}, the connection was made to {name}")


def original_destination(client: socket.socket) -> tuple[IPv4Address, int]:
    """Where the client wanted to go before the gateway's redirect; raises OSError."""
    port, address = struct.unpack("!2xH4s8x", client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return IPv4Address(address), port


async def _first_bytes(client: socket.socket) -> tuple[Start, bytes]:
    """Read until it is clear what the client speaks, or it takes too long."""
    loop, data, start = asyncio.get_running_loop(), b"", sniff(b"")
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_BYTES_SECONDS):
            for _ in range(MAX_PIECES):
                piece = await loop.sock_recv(client, 65_536)
                if not piece and not data:  # opened and closed again, as port scanners and health checks do
                    raise ConnectionAbortedError("it was closed before it asked for anything")
                data += piece
                start = sniff(data)
                if not piece or not isinstance(start, NeedMore):
                    break
    return start, data


async def _explain(client: socket.socket, start: Start, denied: Denied) -> None:
    """Tell the client why, in the protocol that it speaks. A reset is all that others get."""
    if isinstance(start, NeedMore | Other):
        _reset(client)
        return
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(2.0):
            await loop.sock_sendall(client, TLS_ACCESS_DENIED if isinstance(start, Hello) else response(denied.reason))
            client.shutdown(socket.SHUT_WR)
            # Closing with unread data resets, and a reset may overtake the explanation.
            while await loop.sock_recv(client, 65_536):
                pass


def _reset(client: socket.socket) -> None:
    with suppress(OSError):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
