"""A watch on a filter that is under attack: the same workers, no crash in its log, what they hold given back.

Must not disturb it: only /proc and the file that its standard error goes to are read.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests.support.filter_lab import Lab

# What no client may make a process write: `log.exception`, a task's exception that nobody has seen, a crash of the interpreter.
CRASHES = ("Traceback", "exception", "Error:", "failed", "Fatal", "CRITICAL")


@contextlib.contextmanager
def errors_into(log: Path) -> Iterator[None]:
    """What is started inside writes its standard error to this file, which is passed on at the end."""
    kept = os.dup(2)
    with log.open("ab") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


class Watch:
    """Since it was made, or `again`."""

    def __init__(self, net: Lab, log: Path) -> None:
        self._net, self._log = net, log
        self.pids = net.filter.processes()
        self.descriptors = self.count_descriptors()
        self.memory = net.filter.memory()

    def count_descriptors(self) -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self._net.filter.processes())

    def crashes(self) -> list[str]:
        lines = self._log.read_text(errors="replace").splitlines()
        return [line for line in lines if any(word in line for word in CRASHES)]

    def assert_whole(self) -> None:
        """The same processes as in the beginning, none of which has met an error that it did not expect."""
        text = self._log.read_text(errors="replace")
        assert not self.crashes(), text[-6000:]
        assert self._net.filter.processes() == self.pids, f"a process has ended: {text[-6000:]}"

    def assert_given_back(self, most_bytes: int, most_descriptors: int = 8, seconds: float = 5.0) -> None:
        """Waits for what connections held."""
        deadline = time.monotonic() + seconds
        while True:
            descriptors = self.count_descriptors() - self.descriptors
            grown = self._net.filter.memory() - self.memory
            if descriptors <= most_descriptors and grown <= most_bytes:
                return
            if time.monotonic() > deadline:
                message = f"{descriptors} descriptors and {grown / 1e6:.1f} MB are not given back"
                print(self._log.read_text(errors="replace")[-3000:], file=sys.stderr)
                raise AssertionError(message)
            time.sleep(0.1)
