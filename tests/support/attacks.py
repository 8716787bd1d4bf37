"""What tests of attacks share: a control before, many at once, nothing arrived after. Must not decide what an attack is."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.support.filter_lab import Lab
from tests.support.hellos import hello12, records
from tests.support.strict_upstream import SINK, StrictUpstream
from tests.support.tenant import Tenant, Way, exchange, read_all

CONTROL = b"GET /control HTTP/1.1\r\nHost: up.test\r\n\r\n"
Attacks = dict[str, Callable[[], bytes]]


def servers(net: Lab) -> StrictUpstream:
    assert isinstance(net.upstream, StrictUpstream)
    return net.upstream


def works(net: Lab, hostile: Tenant) -> None:
    """The control: a good request arrives. Then everything is forgotten."""
    assert b"reached with" in exchange(hostile.connect("up.test", 80), CONTROL, 1.0)
    servers(net).forget()


def at_once(attacks: Attacks) -> dict[str, bytes]:
    """What each attack got; nothing where it ended in an error."""

    def run(attack: Callable[[], bytes]) -> bytes:
        with contextlib.suppress(OSError):
            return attack()
        return b""

    with ThreadPoolExecutor(48) as threads:
        return dict(zip(attacks, threads.map(run, attacks.values()), strict=True))


def assert_nothing_arrived(net: Lab, answers: dict[str, bytes]) -> None:
    time.sleep(0.3)
    got = {name: answer for name, answer in answers.items() if SINK in answer or b"reached with" in answer}
    upstream = servers(net)
    assert (got, upstream.sunk, upstream.seen, upstream.connections) == ({}, [], [], 0)


def tls_by_hand(host: str, *extensions: bytes, way: Way = "direct", port: int = 443, hostile: Tenant) -> bytes:
    with hostile.connect(host, port, way) as sock:
        sock.sendall(records(hello12(*extensions)))
        return read_all(sock, 1.5, lambda data: data[:1] == b"\x15" or data.endswith(b"\x0e\0\0\0"))  # alert, done
