"""HTTP/1 that names another host or hides a second request, in every way to the filter, alone and behind a good request.

Judged where it would arrive: by strict servers, and by what comes back. A good request on the same way comes first.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import pytest

from tests.support.filter_lab import Lab, lab
from tests.support.strict_upstream import SINK, StrictUpstream
from tests.support.tenant import PROXY, Tenant, exchange, read_all, tenant

# What the templates stand for: {at} the target on this way, with {p} as its path; {smuggled} a request of its own.
SMUGGLED = "GET {p}/smuggled HTTP/1.1\r\nHost: other.test\r\n\r\n"
GET, POST = "GET {at} HTTP/1.1\r\n", "POST {at} HTTP/1.1\r\nHost: up.test\r\n"


def host(value: str) -> str:
    return f"{GET}Host: {value}\r\n\r\n"


def post(fields: str, body: str = "{smuggled}") -> str:
    return f"{POST}{fields}\r\n\r\n{body}"


NAMES = {
    text: host(text)
    for text in (
        "other.test", "evil-up.test", "up.test.evil.org", "up.test.other.test", "test", "up.test@other.test",
        "other.test@up.test", "up.test:22", "up.test:", "up.test:080:1", "up.test..", ".up.test", "up..test",
        "up.test\0.other.test",
        "other.test\0up.test", "up.test other.test", "up.test\tother.test", "up.test\x0b", "up.test\xa0", "up.test, other.test",
        "up.test;other.test", "up.test#other.test", "up.test/other.test", "up.test\\other.test", "up.test%2eother.test",
        "u%70.test",
        "http://up.test", "*.test", "_up.test", "-up.test", "\uff55p.test", "up\u3002test", "up.test\xad", "up\u200d.test",
        "xn--up-.test", "", " ", "127.0.0.1", "169.254.169.254", "[::1]", "198.18.0.1", "localhost",
    )
}  # fmt: skip
PLACES = {
    "no Host": f"{GET}\r\n",
    "no Host, HTTP/1.0": "GET {at} HTTP/1.0\r\n\r\n",
    "two Hosts": f"{GET}Host: up.test\r\nHost: up.test\r\n\r\n",
    "two Hosts, one other": f"{GET}Host: up.test\r\nhOST: other.test\r\n\r\n",
    "two Hosts, the first empty": f"{GET}Host:\r\nHost: up.test\r\n\r\n",
    "Host behind a line feed": f"{GET}X: y\nHost: other.test\r\nHost: up.test\r\n\r\n",
    "Host behind a carriage return": f"{GET}X: y\rHost: other.test\r\nHost: up.test\r\n\r\n",
    "Host folded": f"{GET}Host: up.test\r\n other.test\r\n\r\n",
    "Host in a fold": f"{GET}X: y\r\n Host: other.test\r\nHost: up.test\r\n\r\n",
    "a fold first": f"{GET} Host: other.test\r\nHost: up.test\r\n\r\n",
    "space before the colon": f"{GET}Host : other.test\r\nHost: up.test\r\n\r\n",
    "only with a space": f"{GET}Host : up.test\r\n\r\n",
    "null in a name": f"{GET}Ho\0st: other.test\r\nHost: up.test\r\n\r\n",
    "a line without colon": f"{GET}Host: up.test\r\nx\r\n\r\n",
    "request line with a line feed": "GET {at} HTTP/1.1\nHost: other.test\r\nHost: up.test\r\n\r\n",
    "absolute, another": "GET http://other.test{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "absolute, both others": "GET http://other.test{p} HTTP/1.1\r\nHost: other.test\r\n\r\n",
    "absolute, Host differs": "GET http://up.test{p} HTTP/1.1\r\nHost: other.test\r\n\r\n",
    "absolute, user": "GET http://up.test@other.test{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "absolute, user, the other way": "GET http://other.test@up.test{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "absolute, backslash": "GET http://other.test\\@up.test{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "absolute, port": "GET http://up.test:22{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "absolute, https": "GET https://other.test{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "absolute, ftp": "GET ftp://up.test{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "CONNECT": "CONNECT other.test:443 HTTP/1.1\r\nHost: up.test\r\n\r\n{smuggled}",
    "CONNECT to itself": "CONNECT up.test:22 HTTP/1.1\r\nHost: up.test\r\n\r\n{smuggled}",
    "CONNECT to an address": "CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: up.test\r\n\r\n{smuggled}",
    "CONNECT in lower case": "connect other.test:443 HTTP/1.1\r\nHost: up.test\r\n\r\n{smuggled}",
    "CONNECT with a path": "CONNECT {p} HTTP/1.1\r\nHost: up.test\r\n\r\n{smuggled}",
    "target without slash": "GET x{p} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "target with a space": "GET {at} x HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "target with a null byte": "GET {at}\0 HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "target with a carriage return": "GET {at}\rx HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "GET *": "GET * HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "method in lower case": "get {at} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "method with a null byte": "GE\0T {at} HTTP/1.1\r\nHost: up.test\r\n\r\n",
    "tabs in the request line": "GET\t{at}\tHTTP/1.1\r\nHost: up.test\r\n\r\n",
    "HTTP/0.9": "GET {at}\r\n\r\n",
    "HTTP/2.0 by its line": "GET {at} HTTP/2.0\r\nHost: up.test\r\n\r\n",
    "HTTP/3.7": "GET {at} HTTP/3.7\r\nHost: up.test\r\n\r\n",
    "HTTP/2 at once": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0",
    "SSH": "SSH-2.0-OpenSSH_9.2\r\n",
    "redis": "*1\r\n$4\r\nPING\r\n",
    "binary": "\0\1\2\3\4",
    "TLS in TLS": "\x16\x03\x01\x00\x05hello",
}
CHUNKED = "Transfer-Encoding: chunked"
FRAMES = {
    "length and chunks": post("Content-Length: 5\r\n" + CHUNKED, "0\r\n\r\n{smuggled}"),
    "chunks and length": post(CHUNKED + "\r\nContent-Length: 500", "0\r\n\r\n{smuggled}"),
    "two lengths": post("Content-Length: 0\r\nContent-Length: 60"),
    "two lengths, the same": post("Content-Length: 3\r\nContent-Length: 3", "abc"),
    "list of lengths": post("Content-Length: 0, 60"),
    **{
        f"length {text!r}": post(f"Content-Length: {text}")
        for text in ("+0", "-1", "0x0", "0 60", "0_0", "\u0660", "00", "1e1", "")
    },
    **{
        f"encoding {text!r}": post(f"Transfer-Encoding: {text}", "0\r\n\r\n{smuggled}")
        for text in ("xchunked", "chunked, identity", "identity", "chunked, chunked", "\x0bchunked", "chunked;q=1", "chunked\0",
                     "gzip", "chun\u212aed", '"chunked"', "identity, chunked")
    },
    "encoding twice": post(f"{CHUNKED}\r\n{CHUNKED}", "0\r\n\r\n{smuggled}"),
    "encoding folded": post("Transfer-Encoding:\r\n chunked", "0\r\n\r\n{smuggled}"),
    "encoding with a space": post("Transfer-Encoding : chunked\r\nContent-Length: 5", "0\r\n\r\n{smuggled}"),
    "encoding in HTTP/1.0": f"POST {{at}} HTTP/1.0\r\nHost: up.test\r\n{CHUNKED}\r\n\r\n0\r\n\r\n{{smuggled}}",
    "encoding behind a line feed": post("X: y\n" + CHUNKED + "\r\nContent-Length: 5", "0\r\n\r\n{smuggled}"),
    **{
        f"chunk {text!r}": post(CHUNKED, text + "{smuggled}")
        for text in ("+0\r\n\r\n", "0x0\r\n\r\n", "-1\r\n", " 0\r\n\r\n", "\r\n0\r\n\r\n", "g\r\n",
                     "ffffffffffffffffff\r\n", "3\nabc\n0\n\n",
                     "3\r\nabcdef\r\n0\r\n\r\n", "3;a\nb\r\nabc\r\n0\r\n\r\n", "0\r\n X\r\n\r\n")
    },
}  # fmt: skip
OPAQUE = {
    "a switch that was not asked for": "GET /switch{p} HTTP/1.1\r\nHost: up.test\r\n\r\n{smuggled}",
    "a switch to h2c": "GET /switch{p} HTTP/1.1\r\nHost: up.test\r\nUpgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n"
    "HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a switch to anything": "GET /switch{p} HTTP/1.1\r\nHost: up.test\r\nUpgrade: raw\r\nConnection: Upgrade\r\n\r\n{smuggled}",
    "raw bytes as WebSocket": "GET /switch{p} HTTP/1.1\r\nHost: up.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n{smuggled}",
}
# What may arrive of these: one request for the host of the connection, however it was written.
HARMLESS = {"up.test\x0b", "encoding '\\x0bchunked'", "tabs in the request line", *OPAQUE}


class Route(NamedTuple):
    """A way to the filter, and under what access."""

    access: Literal["limited", "unrestricted"]
    tls: bool
    way: Literal["direct", "proxy", "absolute"]


# In unrestricted access TLS is spliced: nobody sees its requests, which is what it is for.
ROUTES = [Route("limited", True, "direct"), Route("limited", True, "proxy")] + [
    Route(access, False, way) for access in ("limited", "unrestricted") for way in ("direct", "proxy", "absolute")
]
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(sandboxes=1, servers=StrictUpstream) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def hostile(net: Lab) -> Iterator[Tenant]:
    with tenant(net.network.sandboxes[0], "10.203.0.1") as made:
        yield made


def open_on(hostile: Tenant, route: Route) -> socket.socket:
    if route.way == "absolute":
        sock = hostile.socket()
        sock.connect(PROXY)
        return sock
    return hostile.tls("up.test", way=route.way) if route.tls else hostile.connect("up.test", 80, route.way)


def sent(hostile: Tenant, route: Route, data: bytes, answers: int = 1) -> bytes:
    """What comes back: so many answers, or as long as something comes."""

    def enough(data: bytes) -> bool:
        ends = data.endswith((b"\n", b"</html>")) and not data.endswith(b"\r\n")
        return ends and data.count(b"HTTP/1.1 ") >= answers and SINK not in data

    with contextlib.suppress(OSError), open_on(hostile, route) as sock:
        sock.sendall(data)
        return read_all(sock, 0.7, enough)
    return b""


def fill(template: str, route: Route, path: str) -> bytes:
    at = f"http://up.test{path}" if route.way == "absolute" else path
    return template.format(at=at, p=path, smuggled=SMUGGLED.format(p=path)).encode("utf-8")


@pytest.mark.parametrize(
    "route", ROUTES, ids=lambda route: f"{route.access}-{'tls' if route.tls else 'plain'}-{route.way}"
)
def test_http1(net: Lab, hostile: Tenant, route: Route) -> None:
    upstream = net.upstream
    assert isinstance(upstream, StrictUpstream)
    net.policy(route.access, "up.test", "deny other.test", "deny up.test:22")
    assert b"reached with 0" in sent(hostile, route, fill(host("up.test"), route, "/control"))
    assert b"reached with 3" in sent(hostile, route, fill(post(CHUNKED, "3\r\nabc\r\n0\r\n\r\n"), route, "/control"))
    assert [(seen.host, seen.target) for seen in upstream.seen] == [("up.test", "/control")] * 2

    attacks = {
        f"{name}{', behind' if behind else ''}": (template, behind)
        for table in (NAMES, PLACES, FRAMES, OPAQUE)
        for name, template in table.items()
        for behind in (False, True)
    }
    numbers = {f"/a{next(_numbers)}": name for name in attacks}

    def attack(path: str) -> bytes:
        template, behind = attacks[numbers[path]]
        good = fill(host("up.test"), route, f"/good{path}") if behind else b""
        return sent(hostile, route, good + fill(template, route, path), 1 + behind)

    with ThreadPoolExecutor(48) as threads:
        answers = dict(zip(numbers, threads.map(attack, numbers), strict=True))
    time.sleep(0.5)
    breaches = [f"{numbers[path]}: {answer!r}" for path, answer in answers.items() if SINK in answer]
    for seen in upstream.seen[2:]:
        found = re.search(r"/a\d+", seen.target)
        name = numbers[found[0]] if found else "?"
        fine = name.removesuffix(", behind") in HARMLESS or seen.target.startswith("/good")
        if seen.host != "up.test" or not fine or "smuggled" in seen.target:
            breaches.append(f"{name} arrived: {seen}")
    assert not breaches, "\n".join(breaches)
    assert upstream.broken == []
    # Where a server has agreed to WebSocket, noise becomes a frame that ends it.
    assert [sunk for sunk in upstream.sunk if (sunk[0], sunk[2][:1]) != ("upgraded", b"\x88")] == []
    assert len([seen for seen in upstream.seen if seen.target.startswith("/good")]) > 20, "the good ones arrive"


def test_trailers_are_taken_off(net: Lab, hostile: Tenant) -> None:
    upstream = net.upstream
    assert isinstance(upstream, StrictUpstream)
    net.policy("limited", "up.test")
    request = post(CHUNKED, "3\r\nabc\r\n0\r\nHost: other.test\r\nX-Method-Override: DELETE\r\n\r\n").format(
        at="/trailers"
    )
    assert b"reached with 3" in exchange(hostile.connect("up.test", 80), request.encode(), 2.0)
    assert [(seen.host, [name for name, _ in seen.fields]) for seen in upstream.seen] == [
        ("up.test", [b"host", b"transfer-encoding"])
    ]
