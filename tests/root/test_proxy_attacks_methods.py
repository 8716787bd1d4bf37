"""A method restriction that a tenant tries to get round: HTTP/1, HTTP/2, WebSocket, by the proxy, whatever fields say.

Judged at strict servers: only requests that read arrive, none with a body.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from tests.support.filter_lab import Lab, lab
from tests.support.http2 import Client, Stream, fields
from tests.support.strict_upstream import SINK, StrictUpstream
from tests.support.tenant import PROXY, Tenant, read_all, tenant

READ = ["GET", "HEAD", "OPTIONS"]
WEBSOCKET = (
    ("upgrade", "websocket"),
    ("connection", "Upgrade"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "eHg="),
)
Fields = tuple[tuple[str, str], ...]
# Method, fields, body. {p} is the path; what follows it is the query.
FINE: dict[str, tuple[str, str, Fields, bytes]] = {
    "GET": ("GET", "{p}", (), b""),
    "HEAD": ("HEAD", "{p}", (), b""),
    "OPTIONS": ("OPTIONS", "{p}", (), b""),
    "a question about a method": ("OPTIONS", "{p}", (("access-control-request-method", "DELETE"),), b""),
    "a length of nothing": ("GET", "{p}", (("content-length", "0"),), b""),
    "a query": ("GET", "{p}?method=POST&x=_method", (), b""),
}
TRICKS: dict[str, tuple[str, str, Fields, bytes]] = {
    **{
        method: (method, "{p}", (), b"")
        for method in ("DELETE", "TRACE", "PROPFIND", "post", "Get", "POST", "PATCH", "M-SEARCH")
    },
    "POST with a body": ("POST", "{p}", (("content-length", "3"),), b"abc"),
    "PUT with a body": ("PUT", "{p}", (("content-length", "3"),), b"abc"),
    **{f"{method} with a body": (method, "{p}", (("content-length", "3"),), b"abc") for method in READ},
    **{
        f"a field {name}": ("GET", "{p}", ((name, "DELETE"),), b"")
        for name in ("x-http-method-override", "X-HTTP-Method", "x-method-override", "x_http_method_override",
                     "X-Http_Method-Override", "x-http-verb", "http-method-override")
    },
    **{
        f"a parameter {text}": ("GET", "{p}?" + text, (), b"")
        for text in ("_method=DELETE", "a=b&_method=DELETE", "a=b;_method=DELETE", "%5fmethod=DELETE", "$method=DELETE",
                     "x-http-method-override=DELETE", "_METHOD=DELETE", "X-HTTP-Method=DELETE")
    },
    "WebSocket": ("GET", "/switch{p}", WEBSOCKET, b""),
    "half a WebSocket": ("GET", "/switch{p}", WEBSOCKET[2:], b""),
    "another upgrade": ("GET", "/switch{p}", (("upgrade", "h2c, websocket"), ("connection", "upgrade")), b""),
}  # fmt: skip
CHUNKED = {"a GET in chunks": ("GET", (("transfer-encoding", "chunked"),), b"3\r\nabc\r\n0\r\n\r\n")}
_numbers = itertools.count(1)
Route = Literal["plain", "absolute", "tls", "tunnel", "http2", "http2 to http2"]


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(sandboxes=1, servers=StrictUpstream) as laboratory:
        yield laboratory


@pytest.fixture(scope="module")
def hostile(net: Lab) -> Iterator[Tenant]:
    with tenant(net.network.sandboxes[0], "10.203.0.1") as made:
        yield made


def http1(hostile: Tenant, route: Route, method: str, target: str, pairs: Fields, body: bytes) -> str:
    target = f"http://up.test{target}" if route == "absolute" else target
    head = "".join(f"{name}: {value}\r\n" for name, value in (("host", "up.test"), *pairs))
    with contextlib.ExitStack() as stack:
        if route == "absolute":
            sock = stack.enter_context(hostile.socket())
            sock.connect(PROXY)
        elif route == "plain":
            sock = stack.enter_context(hostile.connect("up.test", 80))
        else:
            sock = stack.enter_context(hostile.tls("up.test", way="proxy" if route == "tunnel" else "direct"))
        sock.sendall(f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode() + body)
        answer = read_all(
            sock,
            2.0,
            lambda said: (said.endswith(b"\r\n\r\n") and method == "HEAD") or said.endswith((b"d\n", b"t\n", b">")),
        )
    assert SINK not in answer
    return answer[9:12].decode()


def http2(hostile: Tenant, name: str, method: str, target: str, pairs: Fields, body: bytes) -> str:
    if pairs[:1] == WEBSOCKET[:1] or any(field in ("upgrade", "connection") for field, _ in pairs):
        pairs = ((":protocol", "websocket"),)
        method = "CONNECT"
    with hostile.tls(name, alpn="h2") as tls:
        request = fields(target, *((field.lower(), value) for field, value in pairs), method=method, authority=name)
        return Client(tls).ask(Stream(request, (body,) if body else ()), 2.0).status


@pytest.mark.parametrize(
    ("route", "policy"),
    [(route, "methods of the policy") for route in ("plain", "absolute", "tls", "tunnel", "http2", "http2 to http2")]
    + [("plain", "an unrestricted phase"), ("tls", "methods of the rule"), ("http2", "an unrestricted phase")],
)
def test_only_what_reads_arrives(net: Lab, hostile: Tenant, route: Route, policy: str) -> None:
    upstream = net.upstream
    assert isinstance(upstream, StrictUpstream)
    if policy == "methods of the rule":
        net.policy("limited", *(f"{host} methods={','.join(READ)}" for host in ("up.test", "h2.test")))
    elif policy == "methods of the policy":
        net.policy("limited", "up.test", "h2.test", methods=READ)
    else:
        net.policy("unrestricted", methods=READ)

    def ask(path: str, entry: tuple[str, str, Fields, bytes]) -> str:
        method, target, pairs, body = entry
        target = target.replace("{p}", path)
        with contextlib.suppress(OSError):
            if route in ("http2", "http2 to http2"):
                return http2(hostile, "x.h2.test" if "to" in route else "up.test", method, target, pairs, body)
            return http1(hostile, route, method, target, pairs, body)
        return "none"

    tricks = TRICKS | {name: (method, "{p}", pairs, body) for name, (method, pairs, body) in CHUNKED.items()}
    entries = {f"/a{next(_numbers)}": (name, entry) for name, entry in (FINE | tricks).items()}
    with ThreadPoolExecutor(32) as threads:
        answers = dict(zip(entries, threads.map(lambda path: ask(path, entries[path][1]), entries), strict=True))
    time.sleep(0.3)
    assert [(name, answers[path]) for path, (name, _) in entries.items() if name in FINE] == [
        (name, "200") for name in FINE
    ]
    breaches = [
        (name, answers[path])
        for path, (name, _) in entries.items()
        if name in tricks and answers[path].startswith(("1", "2"))
    ]
    assert breaches == []
    fine = {path for path, (name, _) in entries.items() if name in FINE}
    assert [
        seen
        for seen in upstream.seen
        if seen.target.partition("?")[0] not in fine or seen.body or seen.method not in READ
    ] == []
    assert {seen.target.partition("?")[0] for seen in upstream.seen} == fine
    assert (upstream.broken, upstream.sunk) == ([], [])
    assert [name for path, (name, _) in entries.items() if name == "POST" and answers[path] != "403"] == []


@pytest.mark.parametrize("name", ["up.test", "x.h2.test"])
def test_http2_carries_nothing_beside_a_request_that_reads(net: Lab, hostile: Tenant, name: str) -> None:
    """Bodies that no field announces, trailers, a body that goes on when the answer has come."""
    upstream = net.upstream
    assert isinstance(upstream, StrictUpstream)
    net.policy("limited", "up.test", "h2.test", methods=READ)
    secret = b"secret" * 1_000
    streams = [
        Stream(fields("/control", authority=name)),
        Stream(fields("/a", authority=name), (secret, b"", secret)),
        Stream(fields("/b", ("content-length", "0"), authority=name), (secret,)),
        Stream(fields("/c", authority=name), (b"",), (("x-method-override", "DELETE"), ("secret", "secret"))),
        Stream(fields("/d", authority=name, method="HEAD"), (secret,)),
    ]
    for stream in streams:
        with contextlib.suppress(OSError), hostile.tls(name, alpn="h2") as tls:
            Client(tls).ask(stream, 2.0)
    time.sleep(0.3)
    seen = {seen.target: seen for seen in upstream.seen}
    assert "/control" in seen
    assert [each for each in seen.values() if each.body or any(b"secret" in value for _, value in each.fields)] == []
    assert upstream.broken == []


def test_only_fetching_with_git(net: Lab, hostile: Tenant) -> None:
    upstream = net.upstream
    assert isinstance(upstream, StrictUpstream)
    net.policy("limited", "up.test git=read")
    kind = "application/x-git-{}-request"
    fetch: Fields = (("content-type", kind.format("upload-pack")), ("content-length", "4"))
    push: Fields = (("content-type", kind.format("receive-pack")), ("content-length", "4"))
    fine = [
        ("GET", "/r.git/info/refs?service=git-upload-pack", (), b""),
        ("POST", "/r.git/git-upload-pack", fetch, b"0000"),
    ]
    tricks = [
        ("GET", "/r.git/info/refs?service=git-receive-pack", (), b""),
        ("GET", "/r.git/info/refs?service=git-%72eceive-pack", (), b""),
        ("POST", "/r.git/git-receive-pack", push, b"0000"),
        ("POST", "/r.git/git-receive-pack", fetch, b"0000"),
        ("POST", "/r.git/git-upload-pack", push, b"0000"),
        ("POST", "/r.git/git-upload-pack", fetch[1:], b"0000"),
        ("POST", "/r.git/git-upload-pack", (*fetch, ("x-http-method-override", "PUT")), b"0000"),
        ("POST", "/api/delete?/git-upload-pack", fetch, b"0000"),
        ("POST", "/api/delete%3f/git-upload-pack", fetch, b"0000"),
        ("POST", "/api/delete;/git-upload-pack", fetch, b"0000"),
        ("POST", "/api/delete%00/git-upload-pack", fetch, b"0000"),
        ("POST", "/git-receive-pack/../git-upload-pack", fetch, b"0000"),
        ("POST", "/x/git-receive-pack/git-upload-pack", fetch, b"0000"),
        ("POST", "/r.git/git-upload-pack/", fetch, b"0000"),
        ("PUT", "/r.git/git-upload-pack", fetch, b"0000"),
    ]
    assert [http1(hostile, "tls", *entry) for entry in fine] == ["200", "200"]
    upstream.forget()
    with ThreadPoolExecutor(16) as threads:
        assert set(threads.map(lambda entry: http1(hostile, "tls", *entry), tricks)) == {"403"}
    assert upstream.seen == []
