"""Which requests the artifact cache may see, and what of them: tables, and properties of what is forwarded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.artifacts.ask import BadAsk, can_be_asked, parse_ask, parse_head
from proxy.artifacts.route import FORWARDED, USER_AGENT, forwarded, may_use

HOSTS = frozenset({"registry.test"})
PIP = [("Host", "registry.test"), ("User-Agent", "pip/26"), ("Accept", "a/b"), ("Cache-Control", "max-age=0")]
NPM = [("npm-session", "1"), ("pacote-version", "2"), ("accept", "*/*"), ("accept-encoding", "gzip,deflate")]
APT = [("User-Agent", "Debian APT"), ("If-Modified-Since", "x"), ("Range", "bytes=1-"), ("If-Range", "x")]


@pytest.mark.parametrize(
    ("method", "host", "fields", "may"),
    [
        ("GET", "registry.test", [], True),
        ("GET", "registry.test", PIP, True),
        ("GET", "registry.test", NPM, True),
        ("GET", "registry.test", APT, True),
        ("HEAD", "registry.test", [], False),
        ("POST", "registry.test", [], False),
        ("get", "registry.test", [], False),
        ("GET", "sub.registry.test", [], False),
        ("GET", "registry.test.", [], False),
        ("GET", "REGISTRY.test", [], False),
        ("GET", "", [], False),
        ("GET", "registry.test", [("Authorization", "Bearer x")], False),
        ("GET", "registry.test", [("authorization", "")], False),
        ("GET", "registry.test", [("Cookie", "a=b")], False),
        ("GET", "registry.test", [("Proxy-Authorization", "Basic x")], False),
        ("GET", "registry.test", [("PRIVATE-TOKEN", "x")], False),
        ("GET", "registry.test", [("X-JFrog-Art-Api", "x")], False),
        ("GET", "registry.test", [("npm-otp", "123456")], False),
        ("GET", "registry.test", [("X-Anything", "x")], False),
        ("GET", "registry.test", [("X-Hutch-Upstream", "http://other.test:80")], False),
        ("GET", "registry.test", [("Content-Length", "3")], False),
        ("GET", "registry.test", [("Transfer-Encoding", "chunked")], False),
        ("GET", "registry.test", [("Expect", "100-continue")], False),
        ("GET", "registry.test", [("Upgrade", "websocket")], False),
        ("GET", "registry.test", [("Range", "bytes=0-1"), ("range", "bytes=5-6")], False),
        ("GET", "registry.test", [("Accept", "a"), ("accept", "b")], False),
        ("GET", "registry.test", [("Accept", "a\r\nX: y")], False),
        ("GET", "registry.test", [("Accept", "ä")], False),
        ("GET", "registry.test", [("Accept", "a" * 1025)], False),
        ("GET", "registry.test", [("Cache-Control", "no-cache"), ("cache-control", "max-age=0")], True),
    ],
)
def test_may_use(method: str, host: str, fields: list[tuple[str, str]], may: bool) -> None:
    assert may_use(method, fields, host, HOSTS) is may


@pytest.mark.parametrize(
    ("given_", "sent"),
    [
        ([], {"accept": "*/*", "accept-encoding": "identity"}),
        ([("Accept", "  text/html ;  q=1 ")], {"accept": "text/html ; q=1", "accept-encoding": "identity"}),
        ([("Accept-Encoding", "br, gzip, deflate")], {"accept": "*/*", "accept-encoding": "gzip"}),
        ([("Accept-Encoding", "gzip;q=0.5")], {"accept": "*/*", "accept-encoding": "gzip"}),
        ([("Accept-Encoding", "*")], {"accept": "*/*", "accept-encoding": "gzip"}),
        ([("Accept-Encoding", "gzip;q=0, identity")], {"accept": "*/*", "accept-encoding": "identity"}),
        ([("Accept-Encoding", "gzip; q=0.000")], {"accept": "*/*", "accept-encoding": "identity"}),
        ([("Accept-Encoding", "br")], {"accept": "*/*", "accept-encoding": "identity"}),
        ([("Accept-Encoding", "notgzip")], {"accept": "*/*", "accept-encoding": "identity"}),
        ([("User-Agent", "evil")], {"accept": "*/*", "accept-encoding": "identity"}),
    ],
)
def test_what_is_forwarded(given_: list[tuple[str, str]], sent: dict[str, str]) -> None:
    assert dict(forwarded(given_)) == {**sent, "user-agent": USER_AGENT}


@pytest.mark.parametrize(
    ("name", "value", "becomes"),
    [
        ("cache-control", "No-Cache, max-stale=5, x=y", "no-cache"),
        ("cache-control", "max-age=0,no-store", "max-age=0, no-store"),
        ("cache-control", "max-stale=100", None),
        ("cache-control", "max-age=-1", None),
        ("range", "bytes=0-99", "bytes=0-99"),
        ("range", "bytes=0-9,20-29", "bytes=0-9,20-29"),
        ("range", "lines=0-9", None),
        ("range", "bytes=" + "0-1," * 100, None),
        ("if-none-match", '"a", W/"b"', '"a", W/"b"'),
        ("if-range", '"a"', None),  # means nothing without a range
        ("cookie", "a=b", None),
        ("authorization", "Bearer x", None),
        ("x-forwarded-host", "evil.test", None),
        ("accept-language", "de", None),
    ],
)
def test_fields_one_by_one(name: str, value: str, becomes: str | None) -> None:
    assert dict(forwarded([(name, value)])).get(name) == becomes


_FIELDS = st.lists(
    st.tuples(
        st.sampled_from([*FORWARDED, "Accept", "COOKIE", "user-agent", "x-any", "x-hutch-upstream", "host"]),
        st.one_of(
            st.text(max_size=20),
            st.sampled_from(["gzip", "bytes=0-", "bytes=-5", "no-cache", "max-age=3", "no-store,no-cache", '"tag"']),
        ),
    ),
    max_size=8,
)


@given(_FIELDS)
def test_forwarding_twice_changes_nothing(fields: list[tuple[str, str]]) -> None:
    once = forwarded(fields)
    assert forwarded(once) == once
    assert [name for name, _ in once if name != "user-agent"] == [name for name in FORWARDED if name in dict(once)]
    assert all(value and value.isascii() and value.isprintable() for _, value in once)
    parse_ask("GET", "/", (("host", "a.test"), ("x-hutch-upstream", "https://a.test:443"), *once))


@given(_FIELDS)
def test_what_may_be_used_may_be_sent(fields: list[tuple[str, str]]) -> None:
    """A worker that asks may_use and sends what `forwarded` gives is never refused, and loses no condition."""
    if may_use("GET", fields, "registry.test", HOSTS):
        sent = dict(forwarded(fields))
        for name, value in fields:
            if name == "if-none-match" and value.split():
                assert sent[name] == " ".join(value.split())


# ── what arrives ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_ask() -> None:
    fields = (("host", "a.test"), ("x-hutch-upstream", "https://a.test:443"), ("cache-control", "no-cache"))
    ask = parse_ask("GET", "/x?y", fields)
    assert (ask.url, ask.authority) == ("https://a.test:443/x?y", "a.test")
    assert (ask.shareable, ask.max_age) == (False, 0)
    other = parse_ask("GET", "/x", (("x-hutch-upstream", "http://a.test:443"), ("host", "a.test:443")))
    assert (other.url, other.authority) == ("http://a.test:443/x", "a.test:443")
    assert (other.shareable, other.max_age) == (True, None)


@pytest.mark.parametrize(
    ("host", "upstream", "fits"),
    [
        ("a.test", "https://a.test:443", True),
        ("A.Test.", "https://a.test:443", True),
        ("a.test:443", "https://a.test:443", True),
        ("a.test", "https://a.test:8443", True),  # the worker has compared them, and says the port
        ("10.0.0.1", "http://10.0.0.1:80", True),
        ("a.test:80", "https://a.test:443", False),
        ("b.test", "https://a.test:443", False),
        ("a.test@b.test", "https://a.test:443", False),
        ("", "https://a.test:443", False),
    ],
)
def test_the_server_is_named_twice(host: str, upstream: str, fits: bool) -> None:
    fields = (("host", host), ("x-hutch-upstream", upstream))
    if fits:
        assert parse_ask("GET", "/", fields, "10.1.1.1").tenant == "10.1.1.1"
    else:
        with pytest.raises(BadAsk):
            parse_ask("GET", "/", fields)


@pytest.mark.parametrize("target", ["", "*", "x", "http://a.test/", "/ä", "/a b", "/a#b", "/\n", "/" + "a" * 8192])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(BadAsk):
        parse_ask("GET", target, (("host", "a.test"), ("x-hutch-upstream", "http://a.test:80")))


def test_a_head_loses_what_is_for_one_hop() -> None:
    raw = [
        (b"Content-Length", b"5"),
        (b"Connection", b"X-One, keep-alive"),
        (b"X-One", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Authenticate", b"Basic"),
        (b"X-Hutch-Cache", b"hit"),
        (b"Alt-Svc", b"h3"),
        (b"X-Two", "ä".encode("latin-1")),
    ]
    head = parse_head(200, raw)
    assert head.fields == (("x-two", "ä"),)
    assert (head.length, head.whole) == (5, True)


@pytest.mark.parametrize(
    ("raw", "length", "whole"),
    [
        ([(b"content-length", b"7")], 7, True),
        ([(b"transfer-encoding", b"chunked")], None, True),
        ([], None, False),
        ([(b"content-length", b"7"), (b"transfer-encoding", b"chunked")], None, False),
    ],
)
def test_a_head_knows_whether_a_body_can_be_told_to_be_whole(
    raw: list[tuple[bytes, bytes]], length: int | None, whole: bool
) -> None:
    head = parse_head(200, raw)
    assert (head.length, head.whole) == (length, whole)


def test_what_the_cache_would_refuse_is_not_sent_to_it() -> None:
    assert can_be_asked("/simple/pip/?a=b%20c")
    for target in ("/caf\xe9", "/#", "*", "/" + "a" * 8_192):
        assert not can_be_asked(target), target
