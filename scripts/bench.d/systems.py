"""The systems that are measured, behind one small interface: start, hold many, run another command inside.

Must not judge or print; times are seconds. `first` is when the command's first instruction ran, told by the command itself (the
probe, a static program that prints the clock, which is the same as ours): how its output travels back isn't part of it.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sandbox.client import Client, HutchError

PROBE = "/usr/local/bin/hutch-bench-probe"
IDLE = "stay"  # the probe's argument to sleep after it has told the time
IMAGE = "bench"  # the base image and the probe
LIMIT = 120.0

Held = tuple[list[str], list[float]]


class System:
    """One way to run a command in a sandbox. `note` says what it does and doesn't include."""

    name = ""
    note = ""

    def start(self) -> tuple[float, float]:
        """Run a command in a fresh sandbox: seconds to its first instruction, and until it is over."""
        raise NotImplementedError

    def hold(self, count: int) -> AbstractContextManager[Held]:
        """Start `count` idle sandboxes at once: their names and the seconds from the call to each first instruction."""
        raise NotImplementedError

    def run_inside(self, name: str) -> tuple[float, float] | None:
        """Run a command in a running sandbox, timed like start; None where the system has no such thing."""
        return None


class CommandLine(System):
    """A system that is a program: each call is a new process of it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def command(self, name: str, *arguments: str) -> list[str]:
        """The command line that runs the probe with `arguments` in a fresh sandbox called `name`."""
        raise NotImplementedError

    def inside(self, name: str) -> list[str] | None:
        """The command line that runs the probe in the sandbox `name`."""
        return None

    def end(self, name: str) -> None:
        """Kill the sandbox `name`, where killing the program doesn't."""

    def _new(self) -> str:
        return f"bench-{self.name.replace(' ', '-')}-{next(self._numbers)}"

    def start(self) -> tuple[float, float]:
        name = self._new()
        return timed(self.command(name))

    def run_inside(self, name: str) -> tuple[float, float] | None:
        command = self.inside(name)
        return timed(command) if command else None

    @contextmanager
    def hold(self, count: int) -> Iterator[Held]:
        names = [self._new() for _ in range(count)]
        commands = [self.command(name, IDLE) for name in names]
        with ExitStack() as stack:
            began = time.time()
            processes = [
                subprocess.Popen(c, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
                for c in commands
            ]
            for name, process in zip(names, processes, strict=True):
                stack.callback(self._finish, name, process)
            yield names, [float((p.stdout.readline() if p.stdout else b"") or "nan") - began for p in processes]

    def _finish(self, name: str, process: subprocess.Popen[bytes]) -> None:
        self.end(name)
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def timed(command: list[str]) -> tuple[float, float]:
    """Run a command that prints the inside's clock first."""
    began = time.time()
    done = subprocess.run(command, check=False, capture_output=True, stdin=subprocess.DEVNULL, timeout=LIMIT)
    ended = time.time()
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)[:200]}: {done.stderr.decode(errors='replace')[-500:]}")
    return float(done.stdout.split()[0]) - began, ended - began


class Process(CommandLine):
    """No sandbox at all: what starting a process costs here, at this moment."""

    name = "process"
    note = "the floor: a plain process of the host"

    def __init__(self, tree: Path) -> None:
        super().__init__()
        self._probe = f"{tree}{PROBE}"

    def command(self, name: str, *arguments: str) -> list[str]:
        return [self._probe, *arguments]


class Bwrap(CommandLine):
    """bubblewrap: namespaces and bind mounts."""

    name = "bwrap"
    note = "namespaces over a read-only tree: no writable layer, no limits, no network, no daemon"

    def __init__(self, tree: Path) -> None:
        super().__init__()
        self._tree = str(tree)

    def command(self, name: str, *arguments: str) -> list[str]:
        mounts = ["--ro-bind", self._tree, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]
        return ["bwrap", "--unshare-all", "--die-with-parent", *mounts, PROBE, *arguments]


class Runc(CommandLine):
    """runc on bundles over one read-only tree."""

    name = "runc"
    note = "namespaces, cgroup, seccomp over a read-only tree: no writable layer, no network, no daemon"

    def __init__(self, tree: Path, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._root = str(directory / "state")
        (directory / "spec").mkdir(parents=True)
        subprocess.run(["runc", "spec"], cwd=directory / "spec", check=True, timeout=LIMIT)
        self._spec: dict[str, Any] = json.loads((directory / "spec/config.json").read_text())
        self._spec["root"] = {"path": str(tree), "readonly": True}
        self._spec["process"]["terminal"] = False

    def command(self, name: str, *arguments: str) -> list[str]:
        bundle = self._directory / name
        bundle.mkdir()
        self._spec["process"]["args"] = [PROBE, *arguments]
        (bundle / "config.json").write_text(json.dumps(self._spec))
        return ["runc", "--root", self._root, "run", "--bundle", str(bundle), name]

    def inside(self, name: str) -> list[str]:
        return ["runc", "--root", self._root, "exec", name, PROBE]

    def end(self, name: str) -> None:
        command = ["runc", "--root", self._root, "kill", name, "KILL"]
        subprocess.run(command, check=False, capture_output=True, timeout=LIMIT)


class Engine(CommandLine):
    """docker or podman: the same words on the command line."""

    def __init__(self, name: str, note: str, engine: list[str], run: list[str], image: str) -> None:
        super().__init__()
        self.name, self.note = name, note
        self._engine, self._run, self._image = engine, run, image

    def command(self, name: str, *arguments: str) -> list[str]:
        return [*self._engine, "run", "--rm", "--name", name, *self._run, self._image, PROBE, *arguments]

    def inside(self, name: str) -> list[str]:
        return [*self._engine, "exec", name, PROBE]

    def end(self, name: str) -> None:
        subprocess.run([*self._engine, "kill", name], capture_output=True, timeout=LIMIT, check=False)


@dataclass
class HutchApi(System):
    """Hutch through its HTTP API, by the Python client."""

    client: Client
    name: str = "hutch API"
    note: str = "everything: own ids, overlay, cgroup, seccomp, filtered network, logs and journal on disk"
    made: list[str] = field(default_factory=list)

    def _submit(self, *arguments: str) -> str:
        task = self.client.create_task({"image": IMAGE, "command": [PROBE, *arguments]})
        self.made.append(task["id"])
        return task["id"]

    def start(self) -> tuple[float, float]:
        began = time.time()
        task = self._submit()
        with self.client.events(task, follow=True) as stream:
            events = iter(stream)  # one iterator: it holds what arrived together with the first line
            first = first_output(events)
            state = next(event for event in events if event["type"] == "end")["task"]["state"]
        ended = time.time()
        if state != "succeeded":
            raise RuntimeError(f"task {task} {state}")
        return first - began, ended - began

    def run_inside(self, name: str) -> tuple[float, float]:
        began = time.time()
        with self.client.exec(name, [PROBE]) as stream:
            events = iter(stream)
            first = first_output(events)
            code = next(event for event in events if event["type"] == "exit")["exit_code"]
        ended = time.time()
        if code != 0:
            raise RuntimeError(f"exec in task {name} ended with {code}")
        return first - began, ended - began

    @contextmanager
    def hold(self, count: int) -> Iterator[Held]:
        firsts: list[float] = [float("nan")] * count
        names: list[str] = [""] * count
        began = time.time()

        def one(number: int) -> None:
            names[number] = self._submit(IDLE)
            with self.client.events(names[number], follow=True) as events:
                firsts[number] = first_output(iter(events)) - began

        threads = [threading.Thread(target=one, args=(number,)) for number in range(count)]
        try:
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(LIMIT)
            yield names, firsts
        finally:
            self.end_all(names)

    def end_all(self, names: list[str]) -> None:
        """Cancel tasks and wait until they are over."""
        for name in filter(None, names):
            self.client.cancel(name)
        for name in filter(None, names):
            with self.client.events(name, follow=True) as events:
                for _ in events:
                    pass

    def forget(self) -> None:
        """Remove the journal entries of all tasks that were made."""
        for name in self.made:
            with suppress(HutchError):
                self.client.remove_task(name)
        self.made.clear()


def first_output(events: Iterator[dict[str, Any]]) -> float:
    """The inside's clock from the first line of output."""
    text = b""
    for event in events:
        if event["type"] == "output" and event["stream"] == "stdout":
            text += base64.b64decode(event["data"])
            if b"\n" in text:
                return float(text.split()[0])
        elif event["type"] in ("end", "exit"):
            break
    raise RuntimeError(f"the sandbox printed no time: {text!r}")


class HutchCli(CommandLine):
    """Hutch through its command line, started anew for each call."""

    name = "hutch CLI"
    note = "the same with the start of the command line (Python)"

    def __init__(self, socket: str, api: HutchApi) -> None:
        super().__init__()
        self._hutch = [str(Path(sys.executable).with_name("hutch"))]
        os.environ["HUTCH_SOCKET"] = socket
        self._api = api

    def command(self, name: str, *arguments: str) -> list[str]:
        return [*self._hutch, "run", "--image", IMAGE, "--", PROBE, *arguments]

    @contextmanager
    def hold(self, count: int) -> Iterator[Held]:
        before = {task["id"] for task in self._api.client.tasks()}
        with super().hold(count) as (_, firsts):
            names = [task["id"] for task in self._api.client.tasks() if task["id"] not in before]
            try:
                yield names, firsts
            finally:
                self._api.end_all(names)

    def inside(self, name: str) -> list[str]:
        return [*self._hutch, "exec", name, "--", PROBE]
