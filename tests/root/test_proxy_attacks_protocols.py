"""Protocols that must lead nowhere: ICMP, SCTP and others, datagrams, DNS by other ways; and redirects.

Judged at the host, whose sockets would hear them, after a control that they do.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.attacks import Attacks, assert_nothing_arrived, at_once, servers, tls_by_hand, works
from tests.support.filter_lab import PRIVATE, PUBLIC, Lab, lab
from tests.support.strict_upstream import SINK, UDP_SINKS, StrictUpstream
from tests.support.tenant import PROXY, Tenant, exchange, tenant

ACCESSES = ("limited", "unrestricted")


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(servers=StrictUpstream) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def hostile(net: Lab) -> Iterator[Tenant]:
    with tenant(net.network.sandboxes[0], "10.203.0.1") as made:
        yield made


def raw_listener(protocol: int) -> socket.socket:
    """On the host, for everything of a protocol that comes to the public address."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    listener.bind((PUBLIC, 0))
    listener.settimeout(0.3)
    return listener


def arrives(listener: socket.socket, sender: socket.socket, data: bytes) -> bool:
    with contextlib.suppress(OSError):
        sender.sendto(data, (PUBLIC, 0))
    try:
        while True:
            if data in listener.recv(65_535):
                return True
    except TimeoutError:
        return False


@pytest.mark.parametrize(
    ("name", "protocol"), [("ICMP", 1), ("IPIP", 4), ("6in4", 41), ("GRE", 47), ("SCTP", 132), ("test", 253)]
)
def test_other_protocols(net: Lab, hostile: Tenant, name: str, protocol: int) -> None:
    net.policy("unrestricted", "tcp://git.test:22")
    data = struct.pack("!BBHHH", 8, 0, 0, 7, 7) + b"escape" * 10
    with (
        raw_listener(protocol) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) as host,
        hostile.socket(kind=socket.SOCK_RAW, protocol=protocol) as inside,
    ):
        assert arrives(listener, host, data), "from the host it does"
        assert not arrives(listener, inside, data)


def test_datagrams(net: Lab, hostile: Tenant) -> None:
    net.policy("unrestricted", *(f"tcp://up.test:{port}" for port in UDP_SINKS if port not in (80, 443)))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.settimeout(2)
        host.sendto(b"control", (PUBLIC, 9999))
        assert host.recv(100) == SINK
    works(net, hostile)
    answers: dict[str, bytes] = {}
    targets = [
        PUBLIC,
        PRIVATE,
        "224.0.0.251",
        "255.255.255.255",
        "10.203.0.1",
        "10.203.1.2",
        hostile.address("up.test"),
    ]
    for address, port in itertools.product(targets, (*UDP_SINKS, 4433, 51820)):
        with hostile.socket(kind=socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sock.settimeout(0.02)
            sock.sendto(b"escape" * 200, (address, port))
            answers[f"{address}:{port}"] = sock.recv(9999)
    assert_nothing_arrived(net, answers)
    assert not [name for name in answers if not name.endswith(":53")], "nobody but the resolver says anything"


@pytest.mark.parametrize("access", ACCESSES)
def test_dns_by_other_ways(net: Lab, hostile: Tenant, access: str) -> None:
    """Over TCP, TLS and HTTPS, to whatever server: these are connections like all others."""
    net.policy(access, "up.test")
    works(net, hostile)
    question = b"\0\7\1\0\0\1\0\0\0\0\0\0\6secret\4evil\4test\0\0\x10\0\1"
    framed = len(question).to_bytes(2) + question
    attacks: Attacks = {}
    for server, port in itertools.product((PUBLIC, "10.203.0.1", "198.18.0.1", "8.8.8.8"), (53, 853, 5353)):
        attacks[f"{server}:{port} TCP"] = lambda s=server, p=port: exchange(hostile.connect(s, p), framed, 1.0)
        attacks[f"{server}:{port} TLS"] = lambda s=server, p=port: tls_by_hand(s, port=p, hostile=hostile)
    answers = at_once(attacks)
    assert_nothing_arrived(net, answers)
    assert not any(b"secret" in answer for answer in answers.values())


def test_a_redirect_is_a_request_like_any_other(net: Lab, hostile: Tenant) -> None:
    net.policy("limited", "up.test")
    proxy = ("-x", f"http://{PROXY[0]}:{PROXY[1]}")
    places = (
        "https://other.test/x",
        "http://other.test/x",
        f"http://{PUBLIC}/x",
        "http://up.test:8080/x",
        "http://198.18.0.1:8080/x",
    )
    for options, scheme, to in itertools.product(((), proxy), ("http", "https"), places):
        servers(net).forget()
        done = net.curl("-k", "-L", "-w", "%{http_code}", *options, f"{scheme}://up.test/moved/{to}")
        assert "reached with" not in done.stdout
        assert done.returncode or done.stdout.endswith(("403", "400")), done
        assert [seen.target for seen in servers(net).seen] == [f"/moved/{to}"]
