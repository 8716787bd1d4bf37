"""A daemon for tests: `hutch serve` as a child process, and its command line, each call with a time limit.

Must not reach into the daemon: tests use what a user has, the command line and the API.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from sandbox.client import Client, HutchError

HUTCH = str(Path(sys.executable).with_name("hutch"))
START_SECONDS = 30.0
STOP_SECONDS = 60.0


@dataclass
class Daemon:
    """A daemon on the state directory `state`; usable as a `with` block."""

    state: Path
    environment: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    directory: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="hutch-test-")))
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "hutch.sock"

    @property
    def log(self) -> str:
        """What the daemon printed so far."""
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def client(self) -> Client:
        return Client(str(self.socket))

    @property
    def pid(self) -> int:
        assert self.process is not None, "the daemon isn't running"
        return self.process.pid

    def start(self) -> Self:
        """Start it and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [HUTCH, "serve", "--state", str(self.state), "--socket", str(self.socket), *self.options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self.environment},
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with suppress(HutchError):
                self.client.health()
                return self
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the daemon did not come up (exit code {self.process.poll()}):\n{self.log}")
            time.sleep(0.02)

    def stop(self, signum: int = signal.SIGTERM) -> int:
        """Signal it, wait for its end and return its exit code (negative for a signal)."""
        assert self.process is not None, "the daemon isn't running"
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_SECONDS)
            raise AssertionError(f"the daemon did not stop in {STOP_SECONDS:g} s:\n{self.log}") from None
        finally:
            self.process = None

    def restart(self, signum: int = signal.SIGTERM) -> Self:
        """End it (by default in order, with SIGKILL as a crash) and start it on the same state."""
        if self.process is not None:
            self.stop(signum)
        return self.start()

    def hutch(
        self, *arguments: str, timeout: float = 120, input: bytes | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the command line against this daemon; the exit code is the caller's to judge."""
        return subprocess.run(
            [HUTCH, *arguments],
            check=False,
            capture_output=True,
            timeout=timeout,
            input=input,
            env={**os.environ, "HUTCH_SOCKET": str(self.socket)},
        )

    def run_json(self, *arguments: str, timeout: float = 300) -> dict[str, Any]:
        """`hutch run --json …`: the object that it prints."""
        done = self.hutch("run", "--json", *arguments, timeout=timeout)
        assert done.stdout, f"hutch run --json printed nothing (exit code {done.returncode}):\n{done.stderr.decode()}"
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def remove_directory(self) -> None:
        """Remove the socket's directory with the log."""
        for path in self.directory.iterdir():
            path.unlink()
        self.directory.rmdir()

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        try:
            if self.process is not None:
                self.stop()
        finally:
            self.remove_directory()
