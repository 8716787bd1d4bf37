"""An ordinary sandbox beside a hostile one: `python -c TEXT SECONDS` in its namespace asks for everything, again and again.

Prints one JSON list of [what, seconds, error]. Must not import anything of Hutch: a test passes its text.
"""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import sys
import time
from collections.abc import Callable

PATIENCE = 20.0
PROXY = ("198.18.0.1", 8080)


def get(sock: socket.socket, host: str, target: str = "/") -> None:
    with sock:
        sock.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := sock.recv(65_536):
            answer += piece
        if b" 200 " not in answer.split(b"\r\n")[0]:
            raise ConnectionError(answer[:200].decode("latin-1"))


def tls(host: str, issuer: str) -> ssl.SSLSocket:
    context = ssl.create_default_context()
    sock = context.wrap_socket(socket.create_connection((host, 443), PATIENCE), server_hostname=host)
    found = str((sock.getpeercert() or {}).get("issuer"))
    if issuer not in found:
        raise ConnectionError(f"{host} was to be seen with a certificate of {issuer}, not {found}")
    return sock


KINDS: dict[str, Callable[[int], None]] = {
    "DNS": lambda number: socket.gethostbyname(f"n{number}.up.test") and None,
    "HTTP": lambda number: get(socket.create_connection(("up.test", 80), PATIENCE), "up.test"),
    "inspected TLS": lambda number: get(tls("up.test", "Hutch"), "up.test"),
    "spliced TLS": lambda number: get(tls("other.test", ""), "other.test"),
    "explicit proxy": lambda number: get(socket.create_connection(PROXY, PATIENCE), "up.test", "http://up.test/"),
}


class Kept:
    """Inspected connections that stay open, some on each worker."""

    def __init__(self) -> None:
        self._open: list[ssl.SSLSocket] = []

    def __call__(self, number: int) -> None:
        if len(self._open) < 6:
            self._open.append(tls("up.test", "Hutch"))
        sock = self._open[number // len(KINDS) % len(self._open)]
        sock.sendall(b"GET / HTTP/1.1\r\nHost: up.test\r\n\r\n")
        answer = b""
        while not answer.endswith(b"None\n"):
            if not (piece := sock.recv(65_536)):
                raise ConnectionError("a connection that was open has been closed")
            answer += piece


KINDS["kept open"] = Kept()


def main(seconds: float) -> None:
    took: list[tuple[str, float, str]] = []
    end = time.monotonic() + seconds
    for number, (what, ask) in zip(itertools.count(), itertools.cycle(KINDS.items())):
        started, error = time.monotonic(), ""
        if started > end:
            break
        try:
            ask(number)
        except OSError as failure:
            error = repr(failure)
        took.append((what, time.monotonic() - started, error))
        time.sleep(0.01)
    print(json.dumps(took))


if __name__ == "__main__":
    main(float(sys.argv[1]))
