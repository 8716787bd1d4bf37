"""What a connection starts with, tried on hellos that OpenSSL makes and on broken ones. Must not open a connection."""

from __future__ import annotations

import ssl
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.sniff import MAX_HEAD, MAX_HELLO, MAX_RECORDS, MAX_REQUEST_LINE, Hello, Http, NeedMore, Other, sniff
from tests.support.hellos import extension, hello, records, sni, vector


def openssl_hello(name: str | None) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.set_alpn_protocols(["h2", "http/1.1"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


HELLO = openssl_hello("example.com")


def test_the_name_in_a_real_hello() -> None:
    assert sniff(HELLO) == Hello("example.com", False)
    assert sniff(HELLO + b"early data") == Hello("example.com", False)
    assert sniff(openssl_hello(None)) == Hello(None, False)


def test_every_prefix_of_a_hello_needs_more() -> None:
    assert all(sniff(HELLO[:size]) == NeedMore() for size in range(len(HELLO)))


@pytest.mark.parametrize("size", [3, 100])
def test_a_hello_in_many_records(size: int) -> None:
    fragmented = records(HELLO[5:], size)
    assert sniff(fragmented) == Hello("example.com", False)
    assert all(sniff(fragmented[:end]) == NeedMore() for end in range(0, len(fragmented), 7))


def test_encrypted_client_hello_is_seen() -> None:
    assert sniff(records(hello(sni(b"a.b"), extension(0xFE0D, b"x")))) == Hello("a.b", True)


def test_a_hello_without_extensions() -> None:
    message = b"\1" + vector(3, b"\3\3" + bytes(32) + vector(1, b"") + vector(2, b"\0\5") + vector(1, b"\0"))
    assert sniff(records(message)) == Hello(None, False)


UNCLEAR = {
    "two extensions": records(hello(sni(b"a.b"), sni(b"c.d"))),
    "two names": records(hello(sni(b"a.b", b"c.d"))),
    "a name of another kind": records(hello(sni(b"a.b", kind=b"\1"))),
    "an empty extension": records(hello(extension(0, b""))),
    "a byte behind the names": records(hello(extension(0, vector(2, b"\0" + vector(2, b"a.b")) + b"x"))),
    "a name that is not ASCII": records(hello(sni(b"\xff.com"))),
    "an extension that is cut off": records(hello(b"\0\0\xff\xff")),
    "bytes behind the extensions": records(hello(sni(b"a.b"), rest=b"x")),
    "another message": records(b"\2" + hello(sni(b"a.b"))[1:]),
    "a message that is cut off": records(b"\1\0\0\3\3\3\0"),
    "a record of data in the middle": records(HELLO[5:], 50)[:55] + b"\x17\3\3\0\1x",
    "another major version": b"\x16\2\1\0\1\1",
    "an empty record": b"\x16\3\1\0\0",
    "a record that is too long": b"\x16\3\1\xff\xff\1",
    "a message that is too long": records(b"\1\xff\xff\xff" + bytes(MAX_HELLO)),
}


@pytest.mark.parametrize("data", UNCLEAR.values(), ids=UNCLEAR.keys())
def test_hellos_that_servers_could_read_differently(data: bytes) -> None:
    assert isinstance(sniff(data), Other)


def test_a_hello_in_thousands_of_records_is_refused() -> None:
    assert isinstance(sniff(records(hello(sni(b"a.b")), 1)), Hello)
    assert isinstance(sniff(records(hello(extension(21, bytes(MAX_RECORDS))), 1)), Other)


@pytest.mark.parametrize(
    ("head", "start"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", Http("GET", "/", ("x",), 27)),
        (b"M-SEARCH * HTTP/1.0\r\n\r\n", Http("M-SEARCH", "*", (), 23)),
        (b"GET http://x/ HTTP/1.1\r\nhost:\tx \t\r\nHOST:\r\n\r\n", Http("GET", "http://x/", ("x", ""), 44)),
        (b"CONNECT a:1 HTTP/1.1\r\nX: y: z\r\n\r\n", Http("CONNECT", "a:1", (), 33)),
        (b"GET /\xff HTTP/1.1\r\nHost: \xff\r\n\r\n", Http("GET", "/\xff", ("\xff",), 28)),
    ],
)
def test_http(head: bytes, start: Http) -> None:
    assert sniff(head) == start
    assert sniff(head + b"Host: body") == start
    assert all(sniff(head[:size]) == NeedMore() for size in range(len(head)))


@pytest.mark.parametrize(
    "field",
    [b"Host : x", b" Host: x", b"Host: x\r\n folded", b"Host: x\nHost: y", b"Host: x\rHost: y", b"Host: x\0", b": x", b"Host",
     b"Ho st: x", b"H\xf6st: x", b"Host: x\r\n\tfolded", b"\x0bHost: x"],
)  # fmt: skip
def test_heads_that_servers_could_read_differently(field: bytes) -> None:
    assert isinstance(sniff(b"GET / HTTP/1.1\r\n" + field + b"\r\n\r\n"), Other)


@pytest.mark.parametrize(
    "value", [b" " * 60_000 + b"\0", b"a" + b" " * 60_000 + b"b", b"\t " * 30_000 + b"\r", b":" * 60_000]
)
def test_a_head_full_of_spaces_takes_no_time(value: bytes) -> None:
    started = time.perf_counter()
    sniff(b"GET / HTTP/1.1\r\nx:" + value + b"\r\n\r\n")
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "data",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n", b"SSH-2.0-a Debian-2\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"EHLO x\r\n",
        b"\0", b"\x80\x2e\1\3\1", b"get / HTTP/1.1\r\n", b" GET / HTTP/1.1\r\n", b"\r\nGET / HTTP/1.1\r\n",
        b"GET / HTTP/1.1 x\r\n", b"GET /\r\n", b"GET  / HTTP/1.1\r\n", b"GET / HTTP/3.1\r\n", b"*1\r\n$4\r\nPING\r\n",
        b"GET /" + b"a" * MAX_REQUEST_LINE, b"A" * 33, b"GET /\0", b"GET / FTP", b"GET / HTTP/1.1\n\r\n\r\n ",
        b"GET / HTTP/1.1\nHost: x\r\nHost: y\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"a" * MAX_HEAD,
    ],
)  # fmt: skip
def test_everything_else_is_refused(data: bytes) -> None:
    assert isinstance(sniff(data), Other)


@given(st.binary(max_size=200))
def test_it_always_answers(data: bytes) -> None:
    for start in (b"", b"\x16", HELLO[:60], b"GET "):
        assert isinstance(sniff(start + data), Hello | Http | NeedMore | Other)


@given(st.integers(0, len(HELLO) - 1), st.integers(0, 255))
def test_a_changed_byte_never_breaks_it(at: int, byte: int) -> None:
    assert isinstance(sniff(HELLO[:at] + bytes([byte]) + HELLO[at + 1 :]), Hello | Http | NeedMore | Other)


def test_a_java_machine_is_known_by_its_hello() -> None:
    assert sniff(records(hello(sni(b"a.b"), extension(0x0011, b"x")))) == Hello("a.b", False, java=True)
    assert sniff(HELLO) == Hello("example.com", False, java=False)
