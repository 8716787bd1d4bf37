"""The tasks of contract_server.py: each a real process in a directory of its own, with its events.

It must not be told of the network: what a task was refused is what its variable DENIED names.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contract_images import Refusal, images, line, output
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

router = APIRouter()
root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("/nonexistent")
tasks: dict[str, Running] = {}


def now() -> str:
    return datetime.now(UTC).isoformat()


class Running:
    """One task: its record, its events so far, and whoever waits for more."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.id = os.urandom(6).hex()
        self.directory = root / self.id
        self.directory.mkdir()
        self.events: list[dict[str, Any]] = []
        self.changed = asyncio.Condition()
        self.process: asyncio.subprocess.Process | None = None
        self.cancelled = False
        self.spec = spec
        self.record: dict[str, Any] = {
            **{name: spec.get(name) for name in ("repo", "ref", "environment", "command", "secrets")},
            "image": spec.get("image", "base"),
            **{"id": self.id, "owner": "root", "state": "queued", "exit_code": None, "commit": None, "created": now()},
            **{"started": None, "ended": None, "error": None, "cache": None, "phases": [], "diff": None},
            "network": {"allowed": 0, "denied": []},
            "attempts": [{"number": 1, "turns": [{"number": 1, "state": "queued", "exit_code": None}]}],
        }

    async def emit(self, event: dict[str, Any]) -> None:
        async with self.changed:
            self.events.append(event)
            self.changed.notify_all()

    async def phase(self, name: str, argv: list[str]) -> int:
        await self.emit({"type": "phase", "phase": name, "state": "started", "at": now()})
        began = time.monotonic()
        env = {"PATH": os.environ["PATH"], **self.spec.get("env", {})}
        pipe = asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.directory,
            env=env,
            stdout=pipe,
            stderr=pipe,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )

        async def copy(stream: str, reader: Any) -> None:
            while data := await reader.read(65536):
                await self.emit(output(stream, data, phase=name))

        await asyncio.gather(copy("stdout", self.process.stdout), copy("stderr", self.process.stderr))
        code = await self.process.wait()
        seconds = round(time.monotonic() - began, 3)
        self.record["phases"].append({"name": name, "seconds": seconds, "exit_code": code})
        await self.emit({"type": "phase", "phase": name, "state": "ended", "exit_code": code, "seconds": seconds})
        return code

    async def run(self) -> None:
        self.record.update(state="running", started=now(), commit="c0ffee" * 6 + "c0ff")
        self.record["cache"] = {"hit": False, "key": "k1", "reason": "first run of this environment"}
        await self.emit({"type": "notice", "text": "cache miss: first run of this environment"})
        if self.spec.get("setup") and await self.phase("setup", ["bash", "-c", self.spec["setup"]]):
            await self.end("failed", error={"message": "the setup script failed", "remedy": "mend the script"})
            return
        for name in self.spec.get("env", {}).get("DENIED", "").split():
            denied = {"name": name, "port": 443, "count": 2, "rule": name}
            self.record["network"]["denied"].append(denied)
            for _ in range(2):
                event = {"phase": "agent", "name": name, "port": 443, "decision": "deny", "reason": "no rule allows it"}
                await self.emit({"type": "network", "at": now(), **event})
        timeout = self.spec.get("timeout")
        try:
            code = await asyncio.wait_for(self.phase("agent", self.spec["command"]), timeout)
        except TimeoutError:
            assert self.process
            os.killpg(self.process.pid, signal.SIGKILL)
            await self.end("timed_out", error={"message": f"no end after {timeout} s", "remedy": "raise --timeout"})
            return
        if self.cancelled:
            await self.end("cancelled")
            return
        files = [path for path in self.directory.iterdir() if path.is_file()]
        added = sum(path.read_bytes().count(b"\n") for path in files)
        self.record["diff"] = {"files": len(files), "insertions": added, "deletions": 0}
        await self.end("failed" if code else "succeeded", code=code)

    async def end(self, state: str, code: int | None = None, error: dict[str, str] | None = None) -> None:
        self.record.update(state=state, exit_code=code, error=error, ended=now())
        await self.emit({"type": "end", "task": self.record})


def find(prefix: str) -> Running:
    found = [task for task_id, task in tasks.items() if task_id.startswith(prefix)]
    if len(found) > 1:
        raise Refusal(409, f"{prefix} begins more than one task's id", "write more of it")
    if not found:
        raise Refusal(404, f"no task has the id {prefix}", "see: hutch task ls")
    return found[0]


@router.post("/tasks", status_code=202)
async def create(request: Request) -> Any:
    spec = await request.json()
    if spec.get("image", "base") not in ("base", *images):
        raise Refusal(404, f"there is no image {spec['image']!r}", "see: hutch image ls")
    task = Running(spec)
    tasks[task.id] = task
    background.add(asyncio.create_task(task.run()))
    return {**task.record, "spec": spec}


background: set[asyncio.Task[None]] = set()


@router.get("/tasks")
async def all_tasks() -> Any:
    return {"tasks": [task.record for task in tasks.values()]}


@router.get("/tasks/{task}")
async def one_task(task: str) -> Any:
    return {**find(task).record, "spec": find(task).spec}


@router.delete("/tasks/{task}", status_code=204)
async def remove(task: str) -> Response:
    found = find(task)
    if found.record["ended"] is None:
        raise Refusal(409, f"task {found.id} is running", f"cancel it first: hutch task cancel {found.id}")
    del tasks[found.id]
    return Response(status_code=204)


@router.post("/tasks/{task}/cancel", status_code=202)
async def cancel(task: str) -> Any:
    found = find(task)
    found.cancelled = True
    if found.process and found.process.returncode is None:
        os.killpg(found.process.pid, signal.SIGTERM)
    return found.record


@router.get("/tasks/{task}/events")
async def events(task: str, follow: bool = False, only: str = "") -> StreamingResponse:
    found = find(task)

    async def lines() -> AsyncIterator[bytes]:
        sent = 0
        while True:
            async with found.changed:
                while follow and sent == len(found.events):
                    await found.changed.wait()
                fresh = found.events[sent:]
            for event in fresh:
                if only in ("", event["type"]):
                    yield line(event)
            sent += len(fresh)
            if not follow or (fresh and fresh[-1]["type"] == "end"):
                return

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@router.get("/tasks/{task}/diff")
async def diff(task: str) -> Response:
    patch = b""
    for path in sorted(find(task).directory.iterdir()):
        body = b"".join(b"+" + row for row in path.read_bytes().splitlines(keepends=True))
        name = os.fsencode(path.name)
        patch += b"diff --git a/%b b/%b\n--- /dev/null\n+++ b/%b\n@@ -0,0 +1 @@\n%b" % (name, name, name, body)
    return Response(patch, media_type="text/x-diff")
