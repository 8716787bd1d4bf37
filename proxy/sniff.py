"""What a connection starts with: a TLS ClientHello, the head of an HTTP/1 request, or something that is refused.

Pure: it reads the bytes seen so far, consumes none and allocates no more than they are long. Strict, since what
this parser and the server's read differently is a way round the policy.
"""

import re
from dataclasses import dataclass

MAX_HELLO = 65_536  # real ones with post-quantum keys have 2 kB; the limit covers all records of one hello
MAX_RECORDS = 256  # real ones are in one or two; thousands would be taken apart anew for every piece that arrives
MAX_REQUEST_LINE, MAX_HEAD = 32_768, 65_536
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _STATUS_REQUEST_V2, _ENCRYPTED_CLIENT_HELLO = 0x0000, 0x0011, 0xFE0D

_REQUEST_LINE = re.compile(rb"([A-Z][A-Z0-9_-]{0,31}) ([!-~\x80-\xff]+) HTTP/1\.[01]\r")
_FIELD_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_LINE_ENDS = frozenset(b"\0\r\n")
_REQUEST_START = re.compile(rb"[A-Z][A-Z0-9_-]{0,31}( [!-~\x80-\xff]*( [HTP/1.0]{0,8}\r?)?)?")


@dataclass(frozen=True, slots=True)
class NeedMore:
    """Not decidable yet."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A complete ClientHello. `ech` says that it carries an encrypted one (a real one, or a dummy), `java` that it is a
    Java machine's: nobody else still sends status_request_v2."""

    sni: str | None
    ech: bool
    java: bool = False


@dataclass(frozen=True, slots=True)
class Http:
    """The head of an HTTP/1.0 or 1.1 request, as far as it names a host. `size`: bytes up to the empty line's end."""

    method: str
    target: str
    hosts: tuple[str, ...]  # the values of all Host fields
    size: int


@dataclass(frozen=True, slots=True)
class Other:
    reason: str


Start = NeedMore | Hello | Http | Other
_OPAQUE = Other("the connection speaks neither TLS nor HTTP, and nothing else is let through")


class _Malformed(Exception):
    pass


def sniff(data: bytes) -> Start:
    """Classify the first bytes of a connection."""
    if not data:
        return NeedMore()
    if data[0] != _HANDSHAKE:
        return _http(data)
    try:
        message = _handshake_message(data)
        if message is None:
            return NeedMore() if len(data) < MAX_HELLO else Other("the TLS ClientHello is too long")
        return _hello(_Reader(message))
    except _Malformed as error:
        return Other(f"the TLS ClientHello can't be read: {error}")


def _http(data: bytes) -> Start:
    line, newline, _ = data.partition(b"\n")
    if not newline:
        if len(data) >= MAX_REQUEST_LINE:
            return Other("the HTTP request line is too long")
        return NeedMore() if _REQUEST_START.fullmatch(line) else _OPAQUE
    # "PRI * HTTP/2.0" fails here too: HTTP/2 without TLS is refused, clients fall back to HTTP/1.1.
    if (request := _REQUEST_LINE.fullmatch(line)) is None:
        return _OPAQUE
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return NeedMore() if len(data) < MAX_HEAD else Other("the head of the HTTP request is too long")
    # Every line must end in CR LF and be a field: what one reader takes for a fold, another takes for a second field.
    fields = [_field(line) for line in head.split(b"\r\n")[1:]]
    if None in fields:
        return Other("the head of the HTTP request is malformed")
    hosts = tuple(field[1].decode("latin-1") for field in fields if field and field[0] == b"host")
    return Http(request[1].decode(), request[2].decode("latin-1"), hosts, len(head) + 4)


def _field(line: bytes) -> tuple[bytes, bytes] | None:
    """Name, in lower case, and value. Without one expression for all of it: it could match spaces in so many ways that
    a head full of them would take minutes."""
    name, colon, value = line.partition(b":")
    if not colon or not _FIELD_NAME.fullmatch(name) or not _LINE_ENDS.isdisjoint(value):
        return None
    return name.lower(), value.strip(b" \t")


def _handshake_message(data: bytes) -> bytes | None:
    """The first handshake message, put together from as many records as it was spread over."""
    message, at, records = bytearray(), 0, 0
    while len(data) - at >= 5:
        if (records := records + 1) > MAX_RECORDS:
            raise _Malformed(f"it is spread over more than {MAX_RECORDS} records")
        kind, major, size = data[at], data[at + 1], int.from_bytes(data[at + 3 : at + 5])
        if kind != _HANDSHAKE or major != 3 or not 0 < size <= 16_384:
            raise _Malformed("a record before its end is no handshake record")
        message += data[at + 5 : at + 5 + size]
        at += 5 + size
        if message and message[0] != _CLIENT_HELLO:
            raise _Malformed("the first message is no ClientHello")
        if len(message) >= 4 and len(message) >= (length := 4 + int.from_bytes(message[1:4])):
            return bytes(message[4:length])
    return None


class _Reader:
    """Reads length-prefixed vectors; every length is checked against what is there."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, size: int) -> bytes:
        if size > len(self._data) - self._at:
            raise _Malformed("a field is longer than the message")
        self._at += size
        return self._data[self._at - size : self._at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, size: int) -> bytes:
        return self.take(self.number(size))

    def __bool__(self) -> bool:
        return self._at < len(self._data)


def _hello(message: _Reader) -> Start:
    message.take(2 + 32)  # version, random
    message.vector(1), message.vector(2), message.vector(1)  # session id, cipher suites, compression methods
    extensions: dict[int, bytes] = {}
    reader = _Reader(message.vector(2) if message else b"")
    while reader:
        number = reader.number(2)
        if number in extensions:
            raise _Malformed("an extension appears twice")
        extensions[number] = reader.vector(2)
    if message:
        raise _Malformed("there are bytes behind the extensions")
    names = extensions.get(_SERVER_NAME)
    sni = _server_name(names) if names is not None else None
    return Hello(sni, _ENCRYPTED_CLIENT_HELLO in extensions, _STATUS_REQUEST_V2 in extensions)


def _server_name(extension: bytes) -> str:
    outer = _Reader(extension)
    names = _Reader(outer.vector(2))
    if names.number(1) != 0:
        raise _Malformed("the server name is of an unknown kind")
    name = names.vector(2)
    if names or outer:
        raise _Malformed("there is more than one server name")
    try:
        return name.decode("ascii")
    except UnicodeDecodeError as error:
        raise _Malformed("the server name is not ASCII") from error
