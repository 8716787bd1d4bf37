"""HTTP/2 that names another host, hides a request or a body, towards servers that speak HTTP/1.1 and HTTP/2.

Each attack is the second stream of its connection; the first is a good one. Judged by strict servers.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.filter_lab import Lab, lab
from tests.support.http2 import Answer, Client, Stream, fields
from tests.support.strict_upstream import SINK, StrictUpstream
from tests.support.tenant import WAYS, Tenant, Way, tenant

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: other.test\r\n\r\n"
NAME, OTHER = "{name}", "other.test"  # {name} is the host of the connection
_numbers = itertools.count(1)


def get(*more: tuple[str, str], authority: str = NAME, path: str = "{p}", method: str = "GET") -> Stream:
    return Stream(fields(path, *more, method=method, authority=authority))


def post(
    *more: tuple[str, str], pieces: tuple[bytes, ...] = (SMUGGLED,), trailers: tuple[tuple[str, str], ...] = ()
) -> Stream:
    return Stream(fields("{p}", *more, method="POST", authority=NAME), pieces, trailers)


def without(name: str, *more: tuple[str, str]) -> Stream:
    return Stream([pair for pair in get().fields if pair[0] != name] + list(more))


WRONG = (
    OTHER, f"evil-{NAME}", f"{NAME}.evil.org", f"{NAME}.{OTHER}", "test", f"{NAME}@{OTHER}", f"{OTHER}@{NAME}", f"{NAME}:22",
    f"{NAME}:80", f"{NAME}:", f"{NAME}..", f".{NAME}", f"{NAME}\0.{OTHER}", f"{NAME} {OTHER}", f"{NAME}, {OTHER}",
    f"{NAME}#{OTHER}", f"{NAME}/{OTHER}", f"{NAME}\\{OTHER}", f"https://{NAME}", f"{NAME}\r\nHost: {OTHER}", f"\uff4e{NAME}",
    f"{NAME}\xad", "127.0.0.1", "[::1]", f"{NAME}%00", "*",
)  # fmt: skip
ATTACKS: dict[str, Stream] = {
    **{f"authority {text!r}": get(authority=text) for text in WRONG},
    **{f"Host {text!r} alone": without(":authority", ("host", text)) for text in ("", *WRONG)},
    **{f"Host {text!r} beside authority": get(("host", text)) for text in ("", *WRONG)},
    "no authority": without(":authority"),
    "two authorities": get((":authority", OTHER)),
    "authority behind a field": without(":authority", ("x", "y"), (":authority", NAME)),
    "two Hosts": get(("host", NAME), ("host", NAME)),
    "two Hosts, one other": get(("host", NAME), ("host", OTHER)),
    "no path": without(":path"),
    "two paths": get((":path", "/x")),
    "no method": without(":method"),
    "no scheme": without(":scheme"),
    "an unknown pseudo field": get((":x", "y")),
    **{
        f"path {text!r}": get(path=text)
        for text in ("", "x{p}", "*", f"http://{OTHER}{{p}}", f"{OTHER}:443", "{p} HTTP/1.1\r\nHost: " + OTHER + "\r\n\r\n",
                     "{p} x", "{p}\0", "{p}\rx", "{p}\nx", " {p}", "{p}\tx")
    },
    **{f"method {text!r}": get(method=text) for text in ("", "get", "GET x", "GET\r\nX:", "CONNECT", "G\0T", "GET ", "{{")},
    "CONNECT elsewhere": Stream([(":method", "CONNECT"), (":authority", f"{OTHER}:443")], (SMUGGLED,)),
    "CONNECT to itself": Stream([(":method", "CONNECT"), (":authority", f"{NAME}:22")], (SMUGGLED,)),
    "CONNECT for WebSocket": Stream(
        fields("/switch{p}", (":protocol", "websocket"), method="CONNECT", authority=NAME), (SMUGGLED,)
    ),
    **{
        f"value {text!r}": get(("x", text))
        for text in (f"a\r\nHost: {OTHER}", f"a\nHost: {OTHER}", f"a\rHost: {OTHER}", "a\0", "\n", "a\r\n\r\nGET {p} HTTP/1.1")
    },
    **{
        f"name {text!r}": get((text, "y"))
        for text in ("X", "", "x\n", "x\r\nhost", "x y", "x:", "x\0", f"x: y\r\nhost: {OTHER}\r\nz", "h\xf6st", "(x)", ":")
    },
    "chunks": post(("transfer-encoding", "chunked"), pieces=(b"0\r\n\r\n" + SMUGGLED,)),
    "chunks and length": post(("transfer-encoding", "chunked"), ("content-length", "5")),
    "chunks, odd": post(("transfer-encoding", " chunked")),
    **{f"{name}: {text}": get((name, text)) for name, text in (
        ("connection", "close, host"), ("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c"), ("te", "chunked"),
        ("te", "trailers, chunked"), ("keep-alive", "x"), ("proxy-connection", "x"),
    )},
    **{
        f"length {text!r}": post(("content-length", text))
        for text in ("0", "5", "5000", "-1", "+43", "4 3", "43, 43", "0x2b", "")
    },
    "two lengths": post(("content-length", str(len(SMUGGLED))), ("content-length", "0")),
    "a GET's length of nothing, and a body": Stream(fields("{p}", ("content-length", "0"), authority=NAME), (SMUGGLED,)),
    "trailers with pseudo fields": post(pieces=(b"abc",), trailers=((":authority", OTHER),)),
    "trailers with line ends": post(pieces=(b"abc",), trailers=(("x", f"a\r\nHost: {OTHER}"),)),
}  # fmt: skip
# What may arrive, and with which body: a request for the host of the connection, whatever else was said.
FINE: dict[str, tuple[Stream, bytes]] = {
    "plain": (get(), b""),
    "in capitals": (get(authority="{NAME}"), b""),
    "with the port": (get(authority=f"{NAME}:443"), b""),
    "Host beside authority": (get(("host", NAME)), b""),
    "Host alone": (without(":authority", ("host", NAME)), b""),
    "another scheme": (without(":scheme", (":scheme", "http")), b""),
    "a body of unknown length": (post(), SMUGGLED),
    "a body in pieces, some empty": (post(pieces=(b"", b"abc", b"", b"", SMUGGLED, b"")), b"abc" + SMUGGLED),
    "a body with its length": (post(("content-length", str(len(SMUGGLED)))), SMUGGLED),
    "nothing, at last": (post(pieces=(b"",)), b""),
    "only empty pieces": (post(pieces=(b"", b"", b"")), b""),
    # A body that no field announces is in nobody's decision about a GET, and stays behind.
    "a GET with a body": (Stream(fields("{p}", authority=NAME), (SMUGGLED,)), b""),
    "a GET with a body in pieces": (Stream(fields("{p}", authority=NAME), (b"", SMUGGLED, b"", SMUGGLED)), b""),
}


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(sandboxes=1, servers=StrictUpstream) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def hostile(net: Lab) -> Iterator[Tenant]:
    with tenant(net.network.sandboxes[0], "10.203.0.1") as made:
        yield made


def fill(stream: Stream, name: str, path: str) -> Stream:
    def put(text: str) -> str:
        return text.replace("{p}", path).replace("{name}", name).replace("{NAME}", name.upper())

    pairs, trailers = ([(put(n), put(v)) for n, v in each] for each in (stream.fields, stream.trailers))
    return Stream(pairs, stream.pieces, trailers)


@pytest.mark.parametrize("name", ["up.test", "x.h2.test"])
@pytest.mark.parametrize("way", WAYS)
def test_http2(net: Lab, hostile: Tenant, way: Way, name: str) -> None:
    upstream = net.upstream
    assert isinstance(upstream, StrictUpstream)
    net.policy("limited", "up.test", "h2.test")
    attacks = {f"/a{next(_numbers)}": (what, stream) for what, stream in ATTACKS.items()}
    fine = {f"/a{next(_numbers)}": (what, stream, body) for what, (stream, body) in FINE.items()}

    def ask(path: str, stream: Stream) -> Answer:
        with contextlib.suppress(OSError), hostile.tls(name, way=way, alpn="h2") as tls:
            client = Client(tls)
            assert client.ask(Stream(fields(f"/good{path}", authority=name))).status == "200"
            return client.ask(fill(stream, name, path), 3.0)
        return Answer()

    with ThreadPoolExecutor(48) as threads:
        good = list(threads.map(lambda path: ask(path, fine[path][1]), fine))
        answers = dict(zip(attacks, threads.map(lambda path: ask(path, attacks[path][1]), attacks), strict=True))
    time.sleep(0.5)
    arrived = {seen.target: seen for seen in upstream.seen if not seen.target.startswith("/good")}
    assert [(fine[path][0], answer.status) for path, answer in zip(fine, good, strict=True)] == [
        (what, "200") for what, _, _ in fine.values()
    ]
    assert [(what, arrived[path].body) for path, (what, _, body) in fine.items()] == [
        (what, body) for what, _, body in fine.values()
    ]
    version = "2" if name == "x.h2.test" else "1.1"
    assert {(seen.sni, seen.http) for seen in upstream.seen} == {(name, version)}
    hosts = {seen.host.lower().removesuffix(":443") for seen in upstream.seen}
    assert hosts == {name}
    breaches = [f"{attacks[path][0]}: {answer}" for path, answer in answers.items() if answer.status[:1] == "2"]
    breaches += [f"arrived: {seen}" for target, seen in arrived.items() if target not in fine]
    breaches += [f"{attacks[path][0]} got bytes" for path, answer in answers.items() if SINK in answer.body]
    assert not breaches, "\n".join(breaches)
    assert (upstream.broken, upstream.sunk) == ([], [])
    refused = [answer for answer in answers.values() if answer.status == "403"]
    assert all("x-hutch-denied" in answer.fields for answer in refused)
    assert len(refused) > 20, "those that are HTTP get an answer"
