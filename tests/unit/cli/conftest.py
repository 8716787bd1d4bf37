"""Fixtures of the command line's tests: a server that speaks the API, and `hutch` as a real process beside it.

Nothing here needs root or a network. Every wait has a limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import Client, DaemonUnreachable

LIMIT = 30.0
HUTCH = [sys.executable, "-c", "from sandbox.cli.main import main; main()"]


@dataclass(frozen=True)
class Server:
    """A running contract server."""

    socket: str
    directory: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def client(self) -> Client:
        return Client(self.socket)

    def environ(self) -> dict[str, str]:
        kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
        return {**kept, "HUTCH_SOCKET": self.socket, "TERM": "xterm-256color", "LANG": "C.UTF-8"}

    def hutch(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
        """Run one command line to its end. Standard input is /dev/null unless `input` or `stdin` say otherwise."""
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("env", self.environ())
        return subprocess.run([*HUTCH, *arguments], capture_output=True, timeout=LIMIT, check=False, **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start one command line and leave it running."""
        pipe = subprocess.PIPE
        options = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, "env": self.environ(), **options}
        self.started.append(subprocess.Popen([*HUTCH, *arguments], **options))
        return self.started[-1]

    def end_started(self) -> None:
        """End what a failed test left running, and close its pipes."""
        for process in self.started:
            process.kill()
            process.wait(LIMIT)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe and not pipe.closed:
                    pipe.close()
        self.started.clear()


@pytest.fixture(autouse=True)
def _nothing_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "server" in request.fixturenames:
        request.getfixturevalue("server").end_started()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("contract")
    found = Server(str(directory / "api.sock"), directory)
    program = Path(__file__).with_name("contract_server.py")
    process = subprocess.Popen([sys.executable, str(program), found.socket, str(directory)])
    try:
        wait_until(lambda: _healthy(found.client))
        yield found
    finally:
        process.terminate()
        process.wait(LIMIT)


def _healthy(client: Client) -> bool:
    try:
        return client.health()["status"] == "ok"
    except DaemonUnreachable:
        return False


def wait_until(condition: Any, limit: float = LIMIT) -> None:
    """Poll until the condition holds; fails after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def running_task(server: Server) -> Iterator[str]:
    """The id of a task that runs until the test's end."""
    client = server.client
    task = client.create_task({"image": "base", "command": ["sleep", "600"], "env": {}})["id"]
    wait_until(lambda: client.task(task)["state"] == "running")
    yield task
    client.cancel(task)
    wait_until(lambda: client.task(task)["ended"] is not None)
