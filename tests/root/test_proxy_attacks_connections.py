"""Connections that must lead nowhere: to addresses, to names that lead inside, by TLS that hides its name, past tcp:// rules.

Judged at the servers, which count connections and datagrams, and by what comes back. Controls come first.
"""

from __future__ import annotations

import contextlib
import itertools
import socket
import time
from collections.abc import Iterator

import pytest

from proxy.synthetic import Hints, Synthetic
from tests.support.attacks import CONTROL, Attacks, assert_nothing_arrived, at_once, servers, tls_by_hand, works
from tests.support.filter_lab import PRIVATE, PUBLIC, Lab, lab
from tests.support.hellos import ENCRYPTED_CLIENT_HELLO, extension, hello12, records, sni
from tests.support.strict_upstream import SINK, TCP_SINKS, StrictUpstream
from tests.support.tenant import PROXY, WAYS, Tenant, Way, exchange, read_all, tenant

ACCESSES = ("limited", "unrestricted")
SSH = b"SSH-2.0-hostile\r\n"


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(servers=StrictUpstream) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def hostile(net: Lab) -> Iterator[Tenant]:
    with tenant(net.network.sandboxes[0], "10.203.0.1") as made:
        yield made


@pytest.fixture(scope="module")
def neighbour(net: Lab) -> Iterator[Tenant]:
    with tenant(net.network.sandboxes[1], "10.203.1.1") as made:
        yield made


# ── addresses ────────────────────────────────────────────────────────────────────────────────────────────────────────

ADDRESSES = (
    PUBLIC, PRIVATE, "10.203.0.1", "10.203.1.1", "10.203.1.2", "198.18.0.1", "198.18.0.2", "198.18.77.77", "198.19.255.255",
    "169.254.169.254", "169.254.170.2", "100.64.0.1", "192.0.2.250", "1.1.1.1", "0.0.0.1", "224.0.0.251", "127.88.0.1",
)  # fmt: skip
PORTS = (22, 80, 443, 853, 5432, 8080, 15001)


@pytest.mark.parametrize("access", ACCESSES)
def test_addresses(net: Lab, hostile: Tenant, neighbour: Tenant, access: str) -> None:
    net.policy(access, "up.test", "tcp://git.test:22")
    works(net, hostile)
    spoken = {
        "HTTP": lambda address: f"GET / HTTP/1.1\r\nHost: {address}\r\n\r\n".encode(),
        "HTTP for a name": lambda address: CONTROL,
        "absolute HTTP": lambda address: f"GET http://{address}/ HTTP/1.1\r\nHost: {address}\r\n\r\n".encode(),
        "TLS": lambda address: records(hello12()),
        "TLS for a name": lambda address: records(hello12(sni(b"up.test"))),
        "CONNECT": lambda address: f"CONNECT {address}:22 HTTP/1.1\r\n\r\n".encode() + SSH,
        "SSH": lambda address: SSH,
    }

    def direct(address: str, port: int, data: bytes) -> bytes:
        with hostile.socket() as sock:
            sock.settimeout(2)
            sock.connect((address, port))
            return exchange(sock, data, 1.0)

    def by_proxy(address: str, port: int, data: bytes) -> bytes:
        return exchange(hostile.connect(address, port, "proxy"), data, 1.0)

    attacks: Attacks = {}
    for address, port, (what, data) in itertools.product(ADDRESSES, PORTS, spoken.items()):
        if (address, port) == PROXY and what != "SSH":
            continue  # that is the proxy
        if address == "127.88.0.1":  # the sandbox's own
            attacks[f"proxy {address}:{port} {what}"] = lambda a=address, p=port, d=data: by_proxy(a, p, d(a))
        else:
            attacks[f"{address}:{port} {what}"] = lambda a=address, p=port, d=data: direct(a, p, d(a))
    for address, port in itertools.product(ADDRESSES, PORTS):
        attacks[f"proxy {address}:{port}"] = lambda a=address, p=port: by_proxy(a, p, SSH)
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(neighbour.socket()) for _ in PORTS]
        for listener, port in zip(listeners, PORTS, strict=True):
            listener.bind(("10.203.1.2", port))
            listener.listen(1000)
            listener.settimeout(0)
        assert_nothing_arrived(net, at_once(attacks))
        for listener in listeners:
            with pytest.raises(BlockingIOError):
                listener.accept()


# ── names that lead inside ───────────────────────────────────────────────────────────────────────────────────────────

INSIDE = (
    "secret", "loop", "mixed", "own", "metadata.private", "zero", "cgnat", "linklocal", "agent", "synthetic", "multicast",
    "loop6", "private6", "mapped", "nat64",
)  # fmt: skip


@pytest.mark.parametrize("access", ACCESSES)
def test_names_that_lead_inside(net: Lab, hostile: Tenant, access: str) -> None:
    names = [f"{name}.test" for name in INSIDE]
    net.policy(access, "up.test", *names, *(f"tcp://{name}:22" for name in names), *(f"{name}:8099" for name in names))
    works(net, hostile)
    with socket.create_server(("127.0.0.1", 8099)) as listener:  # a service of the host's own
        listener.settimeout(0)
        attacks: Attacks = {}
        for name, way in itertools.product(names, WAYS):
            get = f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode()
            for port in (80, 8099):
                attacks[f"{way} {name}:{port}"] = lambda n=name, w=way, p=port, d=get: exchange(
                    hostile.connect(n, p, w), d, 2.0
                )
            attacks[f"{way} {name} raw"] = lambda n=name, w=way: exchange(hostile.connect(n, 22, w), SSH, 2.0)
            attacks[f"{way} {name} TLS"] = lambda n=name, w=way: tls_by_hand(n, sni(n.encode()), way=w, hostile=hostile)
        answers = at_once(attacks)
        assert_nothing_arrived(net, answers)
        with pytest.raises(BlockingIOError):
            listener.accept()
    for name in names:
        assert "resolves to" in net.filter.record(decision="deny", name=name)["reason"]
        assert b"x-hutch-denied" in answers[f"direct {name}:80"]


def test_names_that_are_let_in_by_name(net: Lab, hostile: Tenant) -> None:
    """What the administrator lets be private is reached: the refusals above are about names, not about the servers."""
    net.policy("unrestricted")
    got = exchange(hostile.connect("private.test", 80), CONTROL.replace(b"up.test", b"private.test"), 1.0)
    assert b"reached with" in got


# ── TLS that hides its name ──────────────────────────────────────────────────────────────────────────────────────────

OTHERS = (
    b"other.test", b"www.other.test", b"evil-up.test", b"up.test.evil.org", b"test", b"up.test\0",
    b"up.test\0.other.test", b"up.test ", b" up.test", b"up.test..", b".up.test", b"up..test", b"up.test@other.test",
    b"up.test:443", b"https://up.test", b"*.test", b"u%70.test", b"_up.test", b"127.0.0.1", b"198.18.0.1", b"[::1]",
    b"up.test\\", b"\xef\xbd\x95p.test", b"xn--p-kja.test", b"",
)  # fmt: skip


@pytest.mark.parametrize("access", ACCESSES)
@pytest.mark.parametrize("way", WAYS)
def test_server_names(net: Lab, hostile: Tenant, access: str, way: Way) -> None:
    # The other host may be reached, too: what counts is that one connection has one name.
    net.policy(access, "up.test", "other.test", "deny www.other.test")
    works(net, hostile)
    for fine in (b"up.test", b"UP.test", b"up.test."):
        assert tls_by_hand("up.test", sni(fine), way=way, hostile=hostile)[:1] == b"\x16", fine
    servers(net).forget()
    hidden: dict[str, tuple[bytes, ...]] = {
        **{repr(name): (sni(name),) for name in OTHERS},
        "none": (),
        "two extensions": (sni(b"up.test"), sni(b"other.test")),
        "two names": (sni(b"up.test", b"other.test"),),
        "of another kind": (sni(b"up.test", kind=b"\1"),),
        "empty": (extension(0, b""),),
        "cut": (extension(0, sni(b"up.test")[4:-1]),),
        "longer": (extension(0, sni(b"up.test")[4:] + b"x"),),
    }
    attacks: Attacks = {
        name: lambda e=extensions: tls_by_hand("up.test", *e, way=way, hostile=hostile)
        for name, extensions in hidden.items()
    }
    answers = at_once(attacks)
    assert_nothing_arrived(net, answers)
    assert [name for name, answer in answers.items() if answer[:1] not in (b"", b"\x15")] == []


@pytest.mark.parametrize("way", WAYS)
def test_an_encrypted_hello_is_opened_instead_of_spliced(net: Lab, hostile: Tenant, way: Way) -> None:
    """Nobody can tell a dummy from one that hides a name. Opened here, where it can't be decrypted, neither passes by."""
    net.policy("unrestricted")
    theirs, ours = b"The strict servers of Hutch's tests", b"Hutch"
    plain = tls_by_hand("up.test", sni(b"up.test"), way=way, hostile=hostile)
    assert theirs in plain
    for inner in (b"\0", bytes(200), b"\1"):
        ech = extension(ENCRYPTED_CLIENT_HELLO, inner)
        got = tls_by_hand("up.test", sni(b"up.test"), ech, way=way, hostile=hostile)
        assert theirs not in got
        assert ours in got or got[:1] in (b"", b"\x15")


# ── raw connections ──────────────────────────────────────────────────────────────────────────────────────────────────


def colliding(net: Lab, name: str, suffix: str) -> str:
    """Another name with the same synthetic address: a tenant finds one by asking."""
    table = Synthetic(bytes.fromhex(net.filter.host._names_key), Hints())
    address = table.address(net.address(), name)
    numbers = itertools.count()
    return next(other for n in numbers if table.stands_for(net.address(), address, other := f"n{n}{suffix}"))


def raw(hostile: Tenant, host: str, port: int, way: Way = "direct", data: bytes = SSH) -> bytes:
    with hostile.connect(host, port, way) as sock:
        sock.sendall(data)
        return read_all(sock, 1.5, lambda got: SINK in got and data in got)  # it sends back what it has read


@pytest.mark.parametrize("access", ACCESSES)
def test_a_raw_connection_goes_where_its_rule_says(net: Lab, hostile: Tenant, access: str) -> None:
    net.policy(access, "tcp://git.test:22", "up.test", "deny n1.test")
    works(net, hostile)
    for way in WAYS:
        assert SINK in raw(hostile, "git.test", 22, way), "a server that speaks first, too"
    assert servers(net).sunk == [(PUBLIC, 22, SSH)] * 2
    time.sleep(0.1)
    servers(net).forget()
    address = hostile.address("git.test")
    other = colliding(net, "git.test", ".up.test")
    attacks: Attacks = {}
    for way in WAYS:
        for port in (*TCP_SINKS, 80, 443, 8080):
            if port != 22:
                attacks[f"{way} another port {port}"] = lambda w=way, p=port: raw(hostile, "git.test", p, w)
            attacks[f"{way} another name {port}"] = lambda w=way, p=port: raw(hostile, "up.test", p, w)
        attacks[f"{way} below it"] = lambda w=way: raw(hostile, "x.git.test", 22, w)
        attacks[f"{way} an address"] = lambda w=way: raw(hostile, PUBLIC, 22, w)
    assert_nothing_arrived(net, at_once(attacks))
    # The address that stands for both: what was asked last is what it leads to, and that has no such rule.
    assert hostile.address(other) == address
    assert_nothing_arrived(net, {"colliding": raw(hostile, address, 22)})
    # The address alone, kept from before, when the name has been forgotten or is another's.
    assert hostile.address("git.test") == address
    net.policy(access, "up.test")
    assert_nothing_arrived(net, {"without the rule": raw(hostile, address, 22)})


def test_names_that_share_an_address_are_decided_by_what_is_said(net: Lab, hostile: Tenant) -> None:
    net.policy("limited", "up.test", "other.test")
    other = colliding(net, "up.test", ".other.org")
    works(net, hostile)
    attacks: Attacks = {
        "Host": lambda: exchange(hostile.connect("up.test", 80), CONTROL.replace(b"up.test", other.encode()), 1.0),
        "SNI": lambda: tls_by_hand("up.test", sni(other.encode()), hostile=hostile),
    }
    assert_nothing_arrived(net, at_once(attacks))
    assert "not among" in net.filter.record(decision="deny", name=other, port=443)["reason"]
