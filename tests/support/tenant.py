"""A hostile tenant: sockets of this process in a sandbox's network namespace, so that an attack costs milliseconds.

Must not judge. It speaks raw bytes; nothing here repairs, follows or retries what a test sends.

    direct        to the synthetic address of a name         \\
                                                              the filter's accept()
    via proxy     CONNECT or a whole URL at 198.18.0.1:8080  /
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import dns.message
import dns.rcode

PROXY = ("198.18.0.1", 8080)
PATIENCE = 12.0
Way = Literal["direct", "proxy"]
WAYS: tuple[Way, ...] = ("direct", "proxy")


class Tenant:
    """Of one sandbox: the name of its namespace and its gateway's address. `ca`: whom it trusts (nobody checks else)."""

    def __init__(self, namespace: str, gateway: str) -> None:
        self.gateway = gateway
        # A thread that has entered the namespace makes the sockets; they belong to it wherever they are used.
        self._thread = ThreadPoolExecutor(1)
        self._thread.submit(_enter, namespace).result(10)

    def close(self) -> None:
        self._thread.shutdown()

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        made = self._thread.submit(socket.socket, family, kind, protocol).result(10)
        made.settimeout(PATIENCE)
        return made

    def ask(self, name: str, kind: str = "A", server: str = "") -> tuple[str, list[str]]:
        """The code and the records of the resolver's answer."""
        query = dns.message.make_query(name, kind)
        with self.socket(kind=socket.SOCK_DGRAM) as sock:
            sock.sendto(query.to_wire(), (server or self.gateway, 53))
            reply = dns.message.from_wire(sock.recv(65_535))
        return dns.rcode.to_text(reply.rcode()), [item.to_text() for answer in reply.answer for item in answer]

    def address(self, name: str) -> str:
        """The synthetic address of a name, or what was given if that is an address; ConnectionRefusedError if there is none."""
        if name.replace(".", "").isdigit():
            return name
        code, addresses = self.ask(name)
        if not addresses:
            raise ConnectionRefusedError(f"{name}: {code}")
        return addresses[0]

    def connect(self, host: str, port: int, way: Way = "direct") -> socket.socket:
        """A connection, through CONNECT where it goes by the proxy; ConnectionRefusedError if that is refused."""
        sock = self.socket()
        try:
            sock.connect((self.address(host), port) if way == "direct" else PROXY)
            if way == "proxy":
                sock.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode())
                head = read_head(sock)
                if b" 200 " not in head.split(b"\r\n")[0]:
                    raise ConnectionRefusedError(head.decode("latin-1"))
        except BaseException:
            sock.close()
            raise
        return sock

    def tls(
        self,
        host: str,
        port: int = 443,
        way: Way = "direct",
        *,
        sni: str | None = "",
        alpn: str = "",
        prepare: Callable[[ssl.SSLContext], None] = lambda context: None,
    ) -> ssl.SSLSocket:
        """TLS on such a connection. `sni`: another server name than the host's, or None for none."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if alpn:
            context.set_alpn_protocols([alpn])
        prepare(context)
        sock = self.connect(host, port, way)
        try:
            return context.wrap_socket(sock, server_hostname=host if sni == "" else sni)
        except BaseException:
            sock.close()
            raise


def _enter(namespace: str) -> None:
    with Path(f"/run/netns/{namespace}").open() as handle:
        os.setns(handle.fileno(), os.CLONE_NEWNET)


@contextlib.contextmanager
def tenant(namespace: str, gateway: str) -> Iterator[Tenant]:
    made = Tenant(namespace, gateway)
    try:
        yield made
    finally:
        made.close()


def read_head(sock: socket.socket) -> bytes:
    """Up to the end of a head, or of the connection."""
    head = b""
    while b"\r\n\r\n" not in head and (piece := sock.recv(1)):
        head += piece
    return head


def read_all(
    sock: socket.socket, seconds: float = PATIENCE, enough: Callable[[bytes], bool] = lambda data: False
) -> bytes:
    """Everything until the end, a reset, `enough` or the time is over."""
    data = b""
    sock.settimeout(seconds)
    with contextlib.suppress(OSError):
        while not enough(data) and (piece := sock.recv(65_536)):
            data += piece
    return data


def exchange(sock: socket.socket, data: bytes, seconds: float = PATIENCE) -> bytes:
    """Send all and read to the end, or to that of a refusal; closes the socket."""
    with sock:
        with contextlib.suppress(OSError):
            sock.sendall(data)
        return read_all(sock, seconds, lambda said: b"\nHutch: " in said and said.endswith(b"\n"))
