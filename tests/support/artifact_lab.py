"""The artifact cache as the filter runs it: a process of its own, and the test in the place of worker and daemon.

Must not reach into the process: everything goes through its control stream, its hand-off socket and its directory.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HOSTS = {name: ["127.0.0.1"] for name in ("registry.test", "private.test", "other.test")}
_PROGRAM = """
import asyncio, json, os, socket, sys
sys.path.insert(0, sys.argv[1])
os.environ.clear()
import uvloop
from proxy.artifacts.serve import run
control, handoff = (socket.socket(fileno=int(fd)) for fd in sys.argv[2:4])
loop = {"uvloop": uvloop.run, "asyncio": asyncio.run}[sys.argv[6]]
loop(run(control, handoff, int(sys.argv[4]), json.loads(sys.argv[5])))
"""


@dataclass(frozen=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def how(self) -> str:
        return self.fields["x-hutch-cache"]


class _Connection(http.client.HTTPConnection):
    """An HTTP client on a socket that is there already."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("cache", timeout=20)
        self.sock = sock


class Lab:
    """One life of the process. `trust` is a file of certificates."""

    def __init__(self, directory: Path, trust: Path, limit: int, loop: str) -> None:
        self._trust, self._limit = trust, limit
        ours, theirs = socket.socketpair()
        self.handoff, handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        fd_list = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fds = (theirs.fileno(), handoff.fileno(), fd_list)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-X", "dev", "-c", _PROGRAM, str(ROOT), *map(str, fds), json.dumps(HOSTS), loop],
            pass_fds=fds,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        handoff.close()
        os.close(fd_list)
        self._control, self._lines, self._seq = ours, ours.makefile("rb"), 0
        self._control.settimeout(20)

    def greet(self) -> None:
        assert json.loads(self._lines.readline()) == {"event": "ready"}
        answer = self.ask(
            op="hello",
            ca_pem="not of interest",
            upstream_trust=str(self._trust),
            private_names=["registry.test", "other.test"],
            host_addresses=[],
            artifact_bytes=self._limit,
        )
        assert answer == {"ack": self._seq}

    def ask(self, **message: Any) -> dict[str, Any]:
        self._seq += 1
        self._control.sendall(json.dumps({**message, "seq": self._seq}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        assert answer["ack"] == self._seq
        return answer

    def connect(self) -> socket.socket:
        """A worker's end of a connection."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.handoff, [b"c"], [theirs.fileno()])
        ours.settimeout(20)
        return ours

    def open(self, url: str, fields: dict[str, str] | None = None, over: socket.socket | None = None) -> Any:
        """The answer to a GET, its body still to be read. `url` with its port."""
        scheme, _, rest = url.partition("://")
        host, _, target = rest.partition("/")
        connection = _Connection(over or self.connect())
        connection.putrequest("GET", "/" + target, skip_host=True, skip_accept_encoding=True)
        for name, value in {"Host": host, "X-Hutch-Upstream": f"{scheme}://{host}", **(fields or {})}.items():
            connection.putheader(name, value)
        connection.endheaders()
        return connection.getresponse()

    def get(self, url: str, fields: dict[str, str] | None = None) -> Answer:
        with self.connect() as sock, self.open(url, fields, sock) as response:
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())

    def listing(self) -> dict[str, Any]:
        result: dict[str, Any] = self.ask(op="artifacts-list")["result"]
        return result

    def close(self) -> str:
        """End it, as the end of the daemon would; returns what it said."""
        self._control.shutdown(socket.SHUT_RDWR)
        try:
            _, said = self.process.communicate(timeout=20)
        finally:
            self.process.kill()
            self.process.wait()
            self._lines.close()
            self._control.close()
            self.handoff.close()
        return str(said.decode())


@contextmanager
def cache(directory: Path, trust: Path, limit: int = 64 * 1024 * 1024, loop: str = "uvloop") -> Iterator[Lab]:
    """A greeted cache, which must end well and without a word of complaint."""
    laboratory = Lab(directory, trust, limit, loop)
    try:
        laboratory.greet()
        yield laboratory
    finally:
        said = laboratory.close()
    assert laboratory.process.returncode in (0, -9), said
    assert laboratory.process.returncode == -9 or "Error" not in said, said
