"""The front: accepts what arrives in the gateway and takes each connection through its decisions, once, in this order.

    accept ─ source known? ─ a tcp:// rule for it? ───────────────────────────▶ relay   (any bytes)
           ─ first bytes: TLS or HTTP? ─ one host, the one behind the address?
           ─ policy permits host and port? ─┬─────────────────────────────────▶ splice  (TLS untouched)
             any no: a refusal and a record └─────────────────────────────────▶ inspect (opened, decided per request)
             (over TLS it is opened, too, so that what every request gets is an answer that says why)

What is sent to the explicit proxy goes the same way from its second step on. The front never dials an address by
itself, only a host through dial.py. Nothing in one connection may end the accept loop.
"""

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from proxy.addresses import Refused
from proxy.destination import Denied, Destination, asked_of_proxy, stated_host
from proxy.dial import DialError, Dialler
from proxy.passage import Passage, Way
from proxy.policy import Decision, decide_connection, relays, way
from proxy.records import NetworkRecord, Records
from proxy.request import response
from proxy.sandboxes import MAX_CONNECTIONS, Sandbox, Sandboxes
from proxy.sniff import Hello, Http, NeedMore, Other, Start, sniff
from proxy.splice import Splice
from proxy.synthetic import PROXY_ADDRESS, PROXY_PORT, SYNTHETIC, Synthetic

log = logging.getLogger(__name__)

SO_ORIGINAL_DST = 80  # linux/netfilter_ipv4.h
FIRST_BYTES_SECONDS = 10.0  # a protocol in which the server speaks first ends here
MAX_PIECES = 256  # every piece is parsed again from the start, so their number has a limit
MAX_ALL_CONNECTIONS = 8_192
ACCEPT_AT_ONCE = 4  # then the other workers have their turn
TLS_ACCESS_DENIED = bytes((21, 3, 3, 0, 2, 2, 49))  # a fatal alert: clients say "access denied", not "reset"
CONNECTED = b"HTTP/1.1 200 Connection established\r\n\r\n"
OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

Inspect = Callable[[Passage, socket.socket], Awaitable[None]]


@dataclass(eq=False, slots=True)
class _Visitor:
    """A connection on its way to a decision: what it has sent, and what it speaks."""

    sandbox: Sandbox
    socket: socket.socket
    data: bytes = b""
    host: str = ""  # what it says that it is for
    start: Start = field(default_factory=NeedMore)

    @property
    def cacheable(self) -> bool:
        """A Java that setup unpacks itself has a list of authorities of its own, to which nobody has added ours."""
        return not (isinstance(self.start, Hello) and self.start.java)


class Front:
    def __init__(
        self, sandboxes: Sandboxes, records: Records, dialler: Dialler, synthetic: Synthetic, inspect: Inspect
    ) -> None:
        self._sandboxes, self._records, self._dialler, self._inspect = sandboxes, records, dialler, inspect
        self._synthetic = synthetic
        self._tasks: set[asyncio.Task[None]] = set()

    def serve(self, listener: socket.socket) -> None:
        """Accept from now on, beside the other workers that listen on the same socket."""
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # which what is accepted inherits
        asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(ACCEPT_AT_ONCE):
            try:
                client, (source, _) = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in OUT_OF_RESOURCES:
                    log.error("accepting a connection failed: %s; trying again", error)
                    loop.remove_reader(listener)
                    loop.call_later(0.2, self.serve, listener)
                return
            client.setblocking(False)
            # Begun at once: what a client sends first is mostly there already.
            task = asyncio.Task(self._visit(client, source), loop=loop, eager_start=True)
            if not task.done():
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _visit(self, client: socket.socket, source: str) -> None:
        sandbox = self._sandboxes.get(source)
        if sandbox is None:
            _reset(client)
            return
        own_limit = sandbox.accepted >= MAX_CONNECTIONS
        if own_limit or len(self._tasks) > MAX_ALL_CONNECTIONS:
            _reset(client)
            whose = f"more than {MAX_CONNECTIONS} connections" if own_limit else "too many connections of all sandboxes"
            self._deny(sandbox, "", 0, Denied(f"{whose} at once"))
            return
        sandbox.accepted += 1
        try:
            await self._attend(_Visitor(sandbox, client))
        except OSError as error:
            log.info("a connection of %s ended: %s", source, error)
        except Exception:
            log.exception("a connection of %s failed", source)
        finally:
            sandbox.accepted -= 1
            client.close()

    async def _attend(self, visitor: _Visitor) -> None:
        destination = self._arrived(visitor)
        try:
            if destination.shown == str(PROXY_ADDRESS) and destination.port == PROXY_PORT:
                destination = await self._asked(visitor)
                if not destination.absolute:
                    await self._open_tunnel(visitor, destination)
            passage = self._relayed(visitor, destination) or await self._admit(visitor, destination)
        except Denied as denied:
            self._deny(visitor.sandbox, visitor.host or destination.shown, destination.port, denied)
            await _explain(visitor.socket, visitor.start, denied)
            return
        visitor.sandbox.connections.add(passage)
        try:
            await (self._inspect if passage.how == "inspect" else self._carry)(passage, visitor.socket)
        finally:
            visitor.sandbox.connections.discard(passage)

    def _arrived(self, visitor: _Visitor) -> Destination:
        """Where the connection was made to."""
        address, port = original_destination(visitor.socket)
        source = visitor.sandbox.address
        if address not in SYNTHETIC:
            return Destination.fixed(str(address), port)
        host = self._synthetic.name(source, address)
        return Destination(
            host, port, host or str(address), lambda name: self._synthetic.stands_for(source, address, name)
        )

    async def _asked(self, visitor: _Visitor) -> Destination:
        """Where a client of the explicit proxy wants to go."""
        await _first_bytes(visitor)
        if not isinstance(visitor.start, Http):
            raise Denied("this is a proxy for HTTP: it takes CONNECT, and requests whose target is an http:// URL")
        return asked_of_proxy(visitor.start)

    async def _open_tunnel(self, visitor: _Visitor, destination: Destination) -> None:
        """Answer CONNECT; what comes through is decided like any other connection. Raises Denied where nothing could
        pass: a client shows the answer to CONNECT, and not always a later one."""
        assert isinstance(visitor.start, Http)
        policy, host, port = visitor.sandbox.policy, destination.shown, destination.port
        decisions = [decide_connection(policy, host, port, tls=tls) for tls in (True, False)]
        relayed = relays(policy, host, port)
        if not any(decision.allowed for decision in (*decisions, *([relayed] if relayed else []))):
            raise Denied(decisions[0].reason, decisions[0].rule)
        await asyncio.get_running_loop().sock_sendall(visitor.socket, CONNECTED)
        visitor.data = visitor.data[visitor.start.size :]
        visitor.start = sniff(visitor.data)

    def _relayed(self, visitor: _Visitor, destination: Destination) -> Passage | None:
        """The passage of a connection that a tcp:// rule lets through whatever it speaks."""
        if destination.host is None or destination.absolute:
            return None
        decision = relays(visitor.sandbox.policy, destination.host, destination.port)
        if decision is None:
            return None
        if not decision.allowed:
            raise Denied(decision.reason, decision.rule)
        return self._passage(visitor, destination, destination.host, "relay", decision.rule)

    async def _admit(self, visitor: _Visitor, destination: Destination) -> Passage:
        policy, port = visitor.sandbox.policy, destination.port
        if destination.host is not None:
            decision = decide_connection(policy, destination.host, port, tls=True)
            if not decision.allowed and not decide_connection(policy, destination.host, port, tls=False).allowed:
                await self._glance(visitor)
                return self._refusing(visitor, destination, decision)
        await _first_bytes(visitor)
        rule = f"tcp://{destination.host}:{port}" if destination.host else ""
        if isinstance(visitor.start, NeedMore):
            what = f"neither a TLS handshake nor an HTTP request was sent within {FIRST_BYTES_SECONDS:.0f} s"
            raise Denied(what, rule)
        if isinstance(visitor.start, Other):
            raise Denied(visitor.start.reason, rule)
        visitor.host = host = stated_host(destination, visitor.start)
        tls = isinstance(visitor.start, Hello)
        decision = decide_connection(visitor.sandbox.policy, host, port, tls=tls)
        if not decision.allowed:
            return self._refusing(visitor, destination, decision)
        how: Way = way(visitor.sandbox.policy, host, port, tls=tls, cacheable=visitor.cacheable)
        if isinstance(visitor.start, Hello) and visitor.start.ech:
            # A dummy and a real encrypted hello look the same. Opened by us, which can't decrypt either, a client
            # with a dummy goes on, and one with a real hidden name finds no way to it.
            how = "inspect"
        return self._passage(visitor, destination, host, how, decision.rule)

    def _refusing(self, visitor: _Visitor, destination: Destination, decision: Decision) -> Passage:
        """A passage on which every request is refused, in words; raises Denied for what isn't TLS."""
        if isinstance(visitor.start, Other | NeedMore) and decision.rule:
            raise Denied(decision.reason, f"tcp://{destination.shown}:{destination.port}")
        if not isinstance(visitor.start, Hello):
            raise Denied(decision.reason, decision.rule)
        visitor.host = host = stated_host(destination, visitor.start)
        return self._passage(visitor, destination, host, "inspect", decision.rule)

    async def _glance(self, visitor: _Visitor) -> None:
        """A look at what a refused connection speaks, so that the refusal comes in its own words. Not a long one:
        where the server would speak first there is nothing to see."""
        with suppress(OSError):
            await _first_bytes(visitor, 0.5)

    def _passage(self, visitor: _Visitor, to: Destination, host: str, how: Way, rule: str) -> Passage:
        tls = isinstance(visitor.start, Hello)
        return Passage(
            visitor.sandbox, host, to.port, tls, how, rule, visitor.data, self._records, to.absolute, visitor.cacheable
        )

    async def _carry(self, passage: Passage, client: socket.socket) -> None:
        """Splice or relay: the same bytes, another record."""
        method = "TCP" if passage.how == "relay" else "TLS"
        sandbox = passage.sandbox
        try:
            server = await self._dialler.connect(
                passage.name, passage.port, sandbox.look_ups, sandbox.policy.denied_networks
            )
            passage.dialled(server)
        except (Refused, Denied) as refused:
            denied = Denied(str(refused))
            passage.denied(denied, method=method)
            await _explain(client, Hello(passage.name, False) if passage.tls else Other(""), denied)
            return
        except DialError as error:
            passage.allowed(str(error), method=method)
            _reset(client)
            return
        passage.carrier = splice = Splice()
        try:
            await splice.run(client, server, passage.already)
        finally:
            passage.allowed(method=method, size=splice.passed)

    def _deny(self, sandbox: Sandbox, name: str, port: int, denied: Denied) -> None:
        record = NetworkRecord(
            sandbox.address, sandbox.policy.phase, name, port, "deny", rule=denied.rule, reason=denied.reason
        )
        self._records.add(record)


def original_destination(client: socket.socket) -> tuple[IPv4Address, int]:
    """Where the client wanted to go before the gateway's redirect; raises OSError."""
    port, address = struct.unpack("!2xH4s8x", client.getsockopt(socket.SOL_IP, SO_ORIGINAL_DST, 16))
    return IPv4Address(address), port


async def _first_bytes(visitor: _Visitor, seconds: float = FIRST_BYTES_SECONDS) -> None:
    """Read until it is clear what the client speaks, or it takes too long."""
    with suppress(BlockingIOError):  # mostly it is all there, and there is nothing to wait for
        _take(visitor, visitor.socket.recv(65_536))
    if not isinstance(visitor.start, NeedMore):
        return
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            for _ in range(MAX_PIECES):
                if not _take(visitor, await loop.sock_recv(visitor.socket, 65_536)):
                    return


def _take(visitor: _Visitor, piece: bytes) -> bool:
    """Whether more is needed to know what the client speaks, and may come."""
    if not piece and not visitor.data:  # opened and closed again, as port scanners and health checks do
        raise ConnectionAbortedError("it was closed before it asked for anything")
    visitor.data += piece
    visitor.start = sniff(visitor.data)
    return bool(piece) and isinstance(visitor.start, NeedMore)


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
