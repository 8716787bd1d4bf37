"""One HTTP/1.1 request and its answer over a Unix socket: the transport below sandbox.client.

It knows nothing of Hutch's API, never retries and never interprets a status. Failures leave as OSError, EOFError or
ValueError; sandbox.client turns them into its own errors. httptools (C) reads the answer: importing http.client or h11
would cost a command more time than starting Python does.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

import httptools

_RECEIVE = 256 * 1024
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")


def quote(segment: str) -> str:
    """One path segment, percent-encoded so that it stays one. Raises ValueError for what no encoding can save."""
    if segment in ("", ".", ".."):
        raise ValueError(f"{segment!r} is not a name")
    return "".join(chr(b) if b in _UNRESERVED else f"%{b:02X}" for b in segment.encode("utf-8", "surrogateescape"))


class Exchange:
    """A connection that carries exactly one request. Close it when done: an exec's connection is also its life line."""

    def __init__(self, path: str, timeout: float | None) -> None:
        """Connect to the socket at `path`. `timeout`: seconds that one send or receive may take, None for no limit."""
        self.status = 0
        self.headers: dict[str, str] = {}
        self._parser = httptools.HttpResponseParser(self)
        self._body: list[bytes] = []
        self._head_read = self._complete = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Blocking: with a timeout set, connect() answers EAGAIN at once when the daemon's backlog is full.
            self._socket.connect(path)
            self._socket.settimeout(timeout)
        except BaseException:
            self._socket.close()
            raise

    # httptools calls these four while it is fed.
    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._head_read = self.status >= 200  # 1xx answers come before the real one

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._complete = self._head_read

    def send(self, method: str, target: str, headers: dict[str, str], body: bytes | Iterable[bytes]) -> None:
        """Send the request and read the answer's head.

        An iterable body goes out as it comes, chunked: a file that grows or shrinks meanwhile breaks nothing. A peer
        that hangs up on the body has usually answered why: that answer is read instead of failing.
        """
        whole, pieces = (body, ()) if isinstance(body, bytes) else (None, body)
        length = {"Transfer-Encoding": "chunked"} if whole is None else {"Content-Length": str(len(whole))}
        head = {"Host": "hutch", "Connection": "close", **headers, **length}
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        request = f"{method} {target} HTTP/1.1\r\n{lines}\r\n".encode("latin-1")
        try:
            self._socket.sendall(request + (whole or b""))
            if whole is None:
                for chunk in filter(None, pieces):  # an empty chunk would end the body
                    self._socket.sendall(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self._socket.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # what the peer said before it hung up follows; if it said nothing, reading fails in its own words
        while not self._head_read:
            self._feed()

    def chunks(self) -> Iterator[bytes]:
        """The answer's body, piece by piece as it arrives. Raises EOFError when the peer hangs up before its end."""
        while True:
            if self._body:
                pieces, self._body = self._body, []
                yield b"".join(pieces)
            elif self._complete:
                return
            else:
                self._feed()

    def close(self) -> None:
        """Hang up; harmless when done twice."""
        self._socket.close()

    def _feed(self) -> None:
        data = self._socket.recv(_RECEIVE)
        if not data:
            raise EOFError("the connection ended in the middle of the answer")
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"the answer is not HTTP: {error}") from error
