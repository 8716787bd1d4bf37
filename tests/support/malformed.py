"""Valid TLS hellos, HTTP/1, HTTP/2 and DNS in pieces that mean something, and what a fuzzer makes of them.

Must not be random but by the generator given: the same seed gives the same bytes.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import dns.message

from tests.support.hellos import extension, hello12, records, sni

NUMBER = (
    b"/00000"  # in a path; it may be replaced by an example's own number, so that a server's note tells which it was
)
Pieces = Sequence[bytes]  # lines, frames, records, fields

# ── valid ─────────────────────────────────────────────────────────────────────────────────────────────────────


def tls_seed(*extensions: bytes, size: int = 16_000) -> Pieces:
    message = bytearray(hello12(*extensions))
    message[6:38] = bytes(32)  # the random part: an example must be the same again
    data = records(bytes(message), size)
    return [data[:5], data[5:9], data[9:47], data[47:80], *(data[at : at + 9] for at in range(80, len(data), 9))]


def requests(prefix: bytes = b"") -> tuple[Pieces, ...]:
    host = b"%s/00000 HTTP/1.1\r\nHost: up.test\r\n" % prefix
    texts = (
        b"GET " + host + b"Accept: */*\r\nCookie: a=b; c=d\r\n\r\n",
        b"POST " + host + b"Content-Length: 11\r\nConnection: keep-alive\r\n\r\nhello world",
        b"PUT "
        + host
        + b"Transfer-Encoding: chunked\r\nTE: trailers\r\n\r\n5\r\nhello\r\n3;x=y\r\nabc\r\n0\r\nX: y\r\n\r\n",
        b"POST " + host + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
        b"GET " + host + b"\r\nGET " + host + b"Connection: close\r\n\r\n",
        b"GET " + host + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
    )
    return tuple(text.splitlines(keepends=True) for text in texts)


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + content


def fields(method: bytes, *more: tuple[bytes, bytes], how: bytes = b"\0") -> bytes:
    pairs = ((b":method", method), (b":scheme", b"https"), (b":authority", b"up.test"), (b":path", NUMBER), *more)
    return b"".join(how + bytes([len(name)]) + name + bytes([len(value)]) + value for name, value in pairs)


PREFACE, SETTINGS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, b"\0\3\0\0\0\x64\0\4\0\1\0\0")
GET, POST = fields(b"GET", (b"accept", b"*/*")), fields(b"POST", (b"content-length", b"5"), how=b"\x40")
FRAMES: tuple[Pieces, ...] = (
    [PREFACE, SETTINGS, frame(4, 1, 0, b""), frame(1, 5, 1, GET), frame(6, 0, 0, bytes(8)), frame(1, 5, 3, GET)],
    [PREFACE, SETTINGS, frame(1, 4, 1, POST), frame(0, 0, 1, b"hel"), frame(8, 0, 0, b"\0\0\1\0"), frame(0, 1, 1, b"lo")],
    [PREFACE, SETTINGS, frame(1, 1, 1, GET[:30]), frame(9, 0, 1, GET[30:60]), frame(9, 4, 1, GET[60:])],
    [PREFACE, SETTINGS, frame(1, 0x2D, 1, b"\2\0\0\0\0\x0f" + GET + b"\0\0"), frame(2, 0, 3, b"\0\0\0\1\x10")],
    [PREFACE, SETTINGS, frame(1, 4, 1, POST), frame(0, 8, 1, b"\2hello\0\0"), frame(1, 5, 1, b"\0\1x\1y")],
    [PREFACE, SETTINGS, frame(1, 5, 1, b"\x3f\xe1\x1f" + POST[:-1] + b"0"), frame(1, 5, 3, b"\xc2\xc1\xc0\xbf\xbe")],
)  # fmt: skip


def dns_seed(name: str, kind: str, edns: bool = False) -> Pieces:
    data = dns.message.make_query(name, kind, id=7, use_edns=edns).to_wire()
    return [data[at : at + 2] for at in range(0, 12, 2)] + re.findall(rb"[\0-\x3f][a-z0-9-]+|.", data[12:], re.DOTALL)


CONNECT = (b"CONNECT up.test:443 HTTP/1.1\r\n", b"Host: up.test:443\r\n", b"Proxy-Connection: keep-alive\r\n", b"\r\n")
HELLOS = (
    tls_seed(sni(b"up.test")),
    tls_seed(sni(b"up.test"), extension(16, b"\0\x0c\2h2\x08http/1.1"), size=40),
    tls_seed(extension(0x0015, bytes(200)), extension(23, b""), sni(b"up.test"), extension(0xFF01, b"\0"), size=1000),
)
QUERIES = (
    dns_seed("up.test", "A"),
    dns_seed("up.test", "AAAA"),
    dns_seed("up.test", "HTTPS", edns=True),
    dns_seed("other.test", "TXT"),
    dns_seed("1.0.18.198.in-addr.arpa", "PTR"),
    dns_seed("up.test", "ANY", edns=True),
)

# ── what is made of them ─────────────────────────────────────────────────────────────────────────────────────────────

INTERESTING = (
    b"\0", b"\r\n", b"\n", b"\r", b"\xff\xff", b"\xff" * 4, b"\x7f\xff", b"A" * 300, b"9" * 40, b"\xc0\x0c", b":", b" ",
    b"\t", b"\r\n ", b",", b"-1", b"0x", b"other.test", b"@", b"%00", b"/../", b"Host: other.test\r\n", b"z" * 70_000,
    b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"\x3f\xff\xff\xff\x0f", sni(b"other.test"),
    b"\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: other.test\r\n\r\n", frame(9, 4, 1, b""), frame(3, 0, 1, bytes(4)),
    frame(1, 5, 5, GET.replace(b"\x07up.test", b"\x0aother.test")),
)  # fmt: skip


def mutate(rng: random.Random, seeds: Sequence[Pieces]) -> bytes:
    pieces = list(rng.choice(seeds))
    for _ in range(rng.choice((0, 0, 1, 1, 2))):  # the order of what means something
        at, other = rng.randrange(len(pieces)), rng.choice(seeds)
        match rng.randrange(4):
            case 0:
                pieces[at:at] = [pieces[at]] * rng.choice((1, 1, 2, 50))
            case 1:
                pieces[at] = b""
            case 2:
                pieces[at] = rng.choice(other)
            case _:
                pieces[at:] = other[rng.randrange(len(other)) :]
    data = bytearray(b"".join(pieces))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 | 1 if at < len(data):
                data[at] ^= 1 << rng.randrange(8)
            case 2:
                del data[at : at + rng.choice((1, 2, 9, 10_000))]
            case 3:
                data[at:at] = data[max(at - rng.randrange(1, 40), 0) : at]
            case 4:
                data[at:at] = rng.choice(INTERESTING)
            case _:
                data[at : at + 2] = rng.choice((b"\xff\xff", b"\0\0", b"\x7f\xff", rng.randbytes(2)))
    return bytes(data)
