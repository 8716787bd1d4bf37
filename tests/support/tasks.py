"""Tasks for tests: submit one, wait for what it says or for its end, run commands in it, find its processes on the host.

Uses the API's client like any program would; looks at the host only through /proc. Every wait has a limit.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.daemon import Daemon

PATIENCE = 60.0


@dataclass(frozen=True)
class Done:
    """A command that ended in a sandbox."""

    code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace").strip()


def sh(script: str) -> list[str]:
    return ["sh", "-c", script]


def submit(daemon: Daemon, *command: str, **spec: Any) -> str:
    """Queue a task; returns its id."""
    return daemon.client.create_task({"command": list(command), **spec})["id"]  # type: ignore[typeddict-item]


def finish(daemon: Daemon, task: str, seconds: float = PATIENCE) -> dict[str, Any]:
    """The task after its end and the removal of its files."""
    return wait_for(lambda: _ended(daemon, task), f"the end of task {task}", seconds)


def run(daemon: Daemon, *command: str, seconds: float = PATIENCE, **spec: Any) -> dict[str, Any]:
    """Run a task to its end."""
    return finish(daemon, submit(daemon, *command, **spec), seconds)


def _ended(daemon: Daemon, task: str) -> dict[str, Any] | None:
    found: dict[str, Any] = daemon.client.task(task)  # type: ignore[assignment]
    return None if found["state"] in ("queued", "running") else found


def wait_for[T](look: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """What `look` returns once it is neither None nor False; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    pause = 0.01
    while True:
        found = look()
        if found is not None and found is not False:
            return found
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain for {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def events(daemon: Daemon, task: str) -> list[dict[str, Any]]:
    """What the journal has so far."""
    with daemon.client.events(task, follow=False) as stream:
        return list(stream)


def output(daemon: Daemon, task: str, phase: str = "agent", stream: str = "stdout") -> bytes:
    """What a phase has printed so far."""
    mine = [e for e in events(daemon, task) if e["type"] == "output" and (e["phase"], e["stream"]) == (phase, stream)]
    return b"".join(base64.b64decode(event["data"]) for event in mine)


def phases(task: dict[str, Any]) -> list[str]:
    """The names of its phases in order."""
    return [phase["name"] for phase in task["phases"]]


def notices(daemon: Daemon, task: str) -> str:
    """All notices, one a line."""
    return "\n".join(event["text"] for event in events(daemon, task) if event["type"] == "notice")


def wait_for_output(daemon: Daemon, task: str, text: bytes, phase: str = "agent", seconds: float = PATIENCE) -> None:
    """Return once a phase has printed `text`; fails at once when the task ends without it."""

    def look() -> bool:
        found = daemon.client.task(task)
        if text in output(daemon, task, phase):
            return True
        assert found["state"] in ("queued", "running"), (found["state"], found["error"], events(daemon, task))
        return False

    wait_for(look, f"{text!r} from the {phase} phase of {task}", seconds)


@contextmanager
def running(daemon: Daemon, script: str = "", **spec: Any) -> Iterator[str]:
    """A task whose agent runs `script` and then stays; its id. It is cancelled at the end, unless it has ended."""
    task = submit(daemon, *sh(f"{script}\necho at-work; exec sleep 600"), **spec)
    try:
        wait_for_output(daemon, task, b"at-work\n")
        yield task
    finally:
        cancel(daemon, task)


def cancel(daemon: Daemon, task: str) -> dict[str, Any]:
    daemon.client.cancel(task)
    return finish(daemon, task)


def execute(daemon: Daemon, task: str, *command: str, stdin: bytes | None = None, **options: Any) -> Done:
    """Run a command in a running task, with its end."""
    with daemon.client.exec(task, list(command), stdin=stdin is not None, **options) as stream:
        told = iter(stream)
        started = next(told)
        assert started["type"] == "started", started
        if stdin is not None:
            daemon.client.exec_stdin(started["exec"], iter([stdin]))
        return collect(told)


def collect(told: Iterator[dict[str, Any]]) -> Done:
    """Read an exec's events to the end."""
    said: dict[str, list[bytes]] = {"stdout": [], "stderr": []}
    for event in told:
        if event["type"] == "exit":
            return Done(event["exit_code"], b"".join(said["stdout"]), b"".join(said["stderr"]))
        said[event["stream"]].append(base64.b64decode(event["data"]))
    raise AssertionError("the exec's stream ended without an exit code")


def host_pids(marker: str) -> list[int]:
    """Processes of the host with the argument `marker`; take one that nobody else uses."""
    return [pid for pid, arguments in _command_lines() if marker.encode() in arguments]


def pid_of(marker: str) -> int:
    """The process with the argument `marker`, once it is there."""
    return wait_for(lambda: host_pids(marker) or None, f"the process {marker}")[0]


def children(pid: int, argument: str = "") -> list[int]:
    """Children of a process, with `argument` among theirs if it is given."""
    return [
        child
        for child, arguments in _command_lines()
        if parent(child) == pid and (not argument or argument.encode() in arguments)
    ]


def descendants(pid: int) -> list[int]:
    found = [pid]
    for parent in found:
        found += children(parent)
    return found[1:]


def _command_lines() -> Iterator[tuple[int, list[bytes]]]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                yield int(name), Path(f"/proc/{name}/cmdline").read_bytes().split(b"\0")


def parent(pid: int) -> int:
    """Its parent's pid, 0 if it is gone."""
    with suppress(OSError, ValueError, IndexError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0
