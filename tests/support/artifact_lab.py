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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
HOSTS = {name: ["127.0.0.1"] for name in ("registry.test", "up.test", "private.test")}
_PROGRAM = """
import asyncio, json, os, resource, socket, sys
root, control, handoff, directory, hosts, loop, limits, largest_file = sys.argv[1:]
sys.path.insert(0, root)
os.environ.clear()
import uvloop
from proxy.artifacts import client, pulse, serve, upstream, wire
for name, value in json.loads(limits).items():
    module, _, name = name.partition(".")
    getattr(globals()[module], name)
    setattr(globals()[module], name, value)
if int(largest_file):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest_file), int(largest_file)))
run = {"uvloop": uvloop.run, "asyncio": asyncio.run}[loop]
control, handoff = (socket.socket(fileno=int(fd)) for fd in (control, handoff))
run(serve.run(control, handoff, int(directory), json.loads(hosts), pulse.Pulse()))
"""


@dataclass(frozen=True)
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes

    @property
    def how(self) -> str:
        return self.fields["x-hutch-cache"]


Get = Callable[..., Answer]  # get(target, **fields): underscores in names of fields stand for hyphens


class _Connection(http.client.HTTPConnection):
    """An HTTP client on a socket that is there already."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__("cache", timeout=20)
        self.sock = sock


@dataclass(frozen=True)
class Setting:
    """`size` of the cache; `limits` replace constants of modules ("wire.HEAD_SECONDS"); `largest_file`: no disk beyond."""

    size: int = 64 * 1024 * 1024
    loop: str = "uvloop"
    limits: Mapping[str, float] = field(default_factory=dict)
    largest_file: int = 0


class Lab:
    """One life of the process. `trust` is a file of certificates."""

    def __init__(self, directory: Path, trust: Path, setting: Setting) -> None:
        self._trust, self._setting = trust, setting
        self.requests = 0  # sent so far
        ours, theirs = socket.socketpair()
        self.handoff, handoff = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY)
        fd_list = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        more = (json.dumps(HOSTS), setting.loop, json.dumps(setting.limits), str(setting.largest_file))
        fds = (theirs.fileno(), handoff.fileno(), fd_list)
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-X", "dev", "-c", _PROGRAM, str(ROOT), *map(str, fds), *more],
            pass_fds=fds,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        handoff.close()
        os.close(fd_list)
        self._control, self._lines, self._seq = ours, ours.makefile("rb"), 0
        self._control.settimeout(20)

    def greet(self, **other: Any) -> dict[str, Any]:
        hello = {
            "ca_pem": "not of interest",
            "upstream_trust": str(self._trust),
            "private_names": ["registry.test", "up.test"],
            "host_addresses": [],
            "artifact_bytes": self._setting.size,
        }
        return self.ask(op="hello", **(hello | other))

    def ask(self, **message: Any) -> dict[str, Any]:
        self._seq += 1
        self._control.sendall(json.dumps({**message, "seq": self._seq}).encode() + b"\n")
        answer: dict[str, Any] = json.loads(self._lines.readline())
        assert answer["ack"] == self._seq
        return answer

    def connect(self, tenant: str = "10.0.0.2") -> socket.socket:
        """A worker's end of a connection."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.handoff, [tenant.encode()], [theirs.fileno()])
        ours.settimeout(20)
        return ours

    @contextmanager
    def open(self, url: str, fields: dict[str, str] | None = None, over: socket.socket | None = None) -> Iterator[Any]:
        """The answer to a GET, its body still to be read. `url` with its port. `over` is left open."""
        scheme, _, rest = url.partition("://")
        host, _, target = rest.partition("/")
        with ExitStack() as stack:
            connection = _Connection(over or stack.enter_context(self.connect()))
            connection.putrequest("GET", "/" + target, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": host, "X-Hutch-Upstream": f"{scheme}://{host}", **(fields or {})}.items():
                connection.putheader(name, value)
            connection.endheaders()
            self.requests += 1
            with connection.getresponse() as response:
                yield response

    def get(self, url: str, fields: dict[str, str] | None = None) -> Answer:
        with self.open(url, fields) as response:
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())

    def listing(self) -> dict[str, Any]:
        result: dict[str, Any] = self.ask(op="artifacts-list")["result"]
        return result

    def descriptors(self) -> int:
        """How many the process has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def close(self) -> str:
        """End it, as the end of the daemon would; returns what it said."""
        if self._control.fileno() < 0:
            return ""
        with suppress(OSError):  # its end is gone
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
def cache(directory: Path, trust: Path, **setting: Any) -> Iterator[Lab]:
    """A greeted cache, which must end well and without a word of complaint. `setting`: see Setting."""
    laboratory = Lab(directory, trust, Setting(**setting))
    try:
        assert "error" not in laboratory.greet()
        yield laboratory
    finally:
        said = laboratory.close()
    assert laboratory.process.returncode in (0, -9), said
    assert laboratory.process.returncode == -9 or "Error" not in said, said


def kinds(directory: Path) -> list[str]:
    """The kinds of files that the cache has there."""
    return sorted(path.suffix for path in directory.iterdir())


def used(directory: Path) -> int:
    """Bytes on disk."""
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def resident(lab: Lab) -> int:
    """Bytes of memory that the process has."""
    status = Path(f"/proc/{lab.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024
