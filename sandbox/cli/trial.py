"""Tasks that are run to look at something and then forgotten: what an environment or an image has to offer.

It must not keep anything but what setup and runtimes left in the cache.
"""

from __future__ import annotations

import shlex
from binascii import a2b_base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.cli import project
from sandbox.cli.output import print_line, printable
from sandbox.cli.render import Renderer
from sandbox.cli.run import cancel_on_signal
from sandbox.cli.screen import Screen
from sandbox.client import Client, ConnectionLost, HutchError
from sandbox.shapes import Task

# Each with the words that make it tell its version.
_TOOLS = {
    "python": "--version", "pip": "--version", "uv": "--version", "poetry": "--version", "pipenv": "--version",
    "node": "--version", "npm": "--version", "yarn": "--version", "pnpm": "--version", "go": "version",
    "rustc": "--version", "cargo": "--version", "java": "-version", "mvn": "--version", "gradle": "--version",
    "ruby": "--version", "bundle": "--version", "php": "--version", "composer": "--version", "swift": "--version",
    "gcc": "--version", "g++": "--version", "clang": "--version", "make": "--version", "cmake": "--version",
    "ninja": "--version", "git": "--version", "git-lfs": "--version", "rg": "--version", "fd": "--version",
    "jq": "--version", "sqlite3": "--version", "curl": "--version", "protoc": "--version", "docker": "--version",
}  # fmt: skip
_LOOK = "command -v {0} >/dev/null && printf '%s\\t%s\\n' {0} \"$(timeout 20 {0} {1} 2>&1 | grep -m1 '[0-9]')\""
VERSION_MAX = 72  # characters; curl's is a list of libraries
PROBE = ["sh", "-c", "\n".join(f"{_LOOK.format(shlex.quote(tool), words)} || true" for tool, words in _TOOLS.items())]


def tools_in(said: bytes) -> dict[str, str]:
    """What the command PROBE has found: tools and what they say of their version."""
    return dict(line.split("\t", 1) for line in said.decode("utf-8", "replace").splitlines() if "\t" in line)


@contextmanager
def trial(client: Client, request: dict[str, Any], screen: Screen, file: Path | None = None) -> Iterator[str]:
    """A task that is forgotten at the end; its id. `file`: the hutch.toml that is part of the request."""
    with cancel_on_signal(client, screen) as cancel:
        with project.told_by_line(file):
            task_id = client.create_task(request)["id"]  # type: ignore[arg-type]
        cancel.task = task_id
        cancel.catch_up()
        try:
            yield task_id
        finally:
            _forget(client, task_id)


def attend(client: Client, task_id: str, screen: Screen) -> tuple[bytes, Task]:
    """Show a task's phases until its end; returns what its command printed, and how it ended."""
    renderer, said = Renderer(screen), list[bytes]()
    with client.events(task_id, follow=True) as events:
        for event in events:
            if event.get("type") == "end":
                task: Task = event["task"]
                if task["state"] != "succeeded":
                    renderer.summary(task)
                return b"".join(said), task
            if event.get("type") == "output" and event.get("phase") == "agent":
                said.append(a2b_base64(event["data"]))
            elif event.get("phase") != "agent":
                renderer.show(event)
    raise ConnectionLost("the daemon ended the answer before the task's end", f"see: hutch task show {task_id}")


def _forget(client: Client, task_id: str) -> None:
    try:
        client.remove_task(task_id)
    except HutchError as error:
        print_line(f"hutch: task {task_id} stays: {printable(error)}", 2)
