"""A stand-in for the daemon that speaks its API over a Unix socket: real HTTP, real processes and terminals, no sandbox.

For the command line's tests only. It runs what it is told as itself, in a temporary directory, so never start it for more.
Started as `python contract_server.py SOCKET DIRECTORY`.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import shutil
import signal
import struct
import sys
import termios
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvicorn
from contract_images import Refusal, images, line, output, router
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect

app = FastAPI()
app.include_router(router)
root = Path(sys.argv[2]) if len(sys.argv) > 2 else Path("/nonexistent")
tasks: dict[str, Running] = {}
execs: dict[str, asyncio.subprocess.Process] = {}
masters: dict[str, int] = {}


@app.exception_handler(Refusal)
async def refuse(_: Request, error: Refusal) -> JSONResponse:
    return JSONResponse({"error": {"message": error.message, "remedy": error.remedy}}, error.status)


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
            **{name: spec.get(name) for name in ("repo", "ref", "image", "command")},
            **{"id": self.id, "state": "queued", "exit_code": None, "commit": None, "created": now()},
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


@app.get("/health")
async def health() -> Any:
    return {"status": "ok", "version": "0.test", "pid": os.getpid()}


@app.get("/doctor")
async def doctor() -> Any:
    return {"checks": [{"name": "kernel", "ok": True, "level": "required", "detail": "6.18", "remedy": ""}]}


@app.post("/tasks", status_code=202)
async def create(request: Request) -> Any:
    spec = await request.json()
    if spec["image"] not in ("base", *images):
        raise Refusal(404, f"there is no image {spec['image']!r}", "see: hutch image ls")
    task = Running(spec)
    tasks[task.id] = task
    background.add(asyncio.create_task(task.run()))
    return {**task.record, "spec": spec}


background: set[asyncio.Task[None]] = set()


@app.get("/tasks")
async def all_tasks() -> Any:
    return {"tasks": [task.record for task in tasks.values()]}


@app.get("/tasks/{task}")
async def one_task(task: str) -> Any:
    return {**find(task).record, "spec": find(task).spec}


@app.delete("/tasks/{task}", status_code=204)
async def remove(task: str) -> Response:
    found = find(task)
    if found.record["ended"] is None:
        raise Refusal(409, f"task {found.id} is running", f"cancel it first: hutch task cancel {found.id}")
    del tasks[found.id]
    return Response(status_code=204)


@app.post("/tasks/{task}/cancel", status_code=202)
async def cancel(task: str) -> Any:
    found = find(task)
    found.cancelled = True
    if found.process and found.process.returncode is None:
        os.killpg(found.process.pid, signal.SIGTERM)
    return found.record


@app.get("/tasks/{task}/events")
async def events(task: str, follow: bool = False) -> StreamingResponse:
    found = find(task)

    async def lines() -> AsyncIterator[bytes]:
        sent = 0
        while True:
            async with found.changed:
                while follow and sent == len(found.events):
                    await found.changed.wait()
                fresh = found.events[sent:]
            for event in fresh:
                yield line(event)
            sent += len(fresh)
            if not follow or (fresh and fresh[-1]["type"] == "end"):
                return

    return StreamingResponse(lines(), media_type="application/x-ndjson")


@app.get("/tasks/{task}/diff")
async def diff(task: str) -> Response:
    patch = b""
    for path in sorted(find(task).directory.iterdir()):
        body = b"".join(b"+" + row for row in path.read_bytes().splitlines(keepends=True))
        name = os.fsencode(path.name)
        patch += b"diff --git a/%b b/%b\n--- /dev/null\n+++ b/%b\n@@ -0,0 +1 @@\n%b" % (name, name, name, body)
    return Response(patch, media_type="text/x-diff")


@app.post("/tasks/{task}/exec")
async def run_exec(task: str, request: Request) -> StreamingResponse:
    found, spec = find(task), await request.json()
    argv = spec["command"] or ["bash", "--norc", "--noprofile"]
    exec_id = os.urandom(4).hex()
    if spec["command"] and not shutil.which(argv[0]):
        raise Refusal(404, f"there is no program {argv[0]!r} in the sandbox", "see what the image has on PATH")
    run = _exec_on_terminal if spec["tty"] else _exec_on_pipes
    return StreamingResponse(run(exec_id, argv, spec, found.directory), media_type="application/x-ndjson")


async def _exec_on_pipes(exec_id: str, argv: list[str], spec: dict[str, Any], cwd: Path) -> AsyncIterator[bytes]:
    pipe, null = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    env = {"PATH": os.environ["PATH"], **spec["env"]}
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=cwd, env=env, stdin=pipe if spec["stdin"] else null, stdout=pipe, stderr=pipe, start_new_session=True
    )
    execs[exec_id] = process
    queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def copy(stream: str, reader: Any) -> None:
        while data := await reader.read(65536):
            await queue.put(line(output(stream, data)))

    async def both() -> None:
        await asyncio.gather(copy("stdout", process.stdout), copy("stderr", process.stderr))
        await queue.put(None)

    copying = asyncio.create_task(both())
    try:
        yield line({"type": "started", "exec": exec_id})
        while (item := await queue.get()) is not None:
            yield item
        yield line({"type": "exit", "exit_code": await process.wait()})
    finally:
        copying.cancel()
        _kill(process)


async def _exec_on_terminal(exec_id: str, argv: list[str], spec: dict[str, Any], cwd: Path) -> AsyncIterator[bytes]:
    master, inner = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", spec["rows"], spec["cols"], 0, 0))
    env = {"PATH": os.environ["PATH"], **spec["env"]}
    process = await asyncio.create_subprocess_exec(
        "setsid", "--ctty", *argv, cwd=cwd, env=env, stdin=inner, stdout=inner, stderr=inner
    )
    os.close(inner)
    execs[exec_id], masters[exec_id] = process, master
    queue: asyncio.Queue[bytes] = asyncio.Queue()

    def readable() -> None:
        data = b""
        with contextlib.suppress(OSError):
            data = os.read(master, 65536)
        if not data:
            loop.remove_reader(master)
        queue.put_nowait(data)

    loop = asyncio.get_running_loop()
    loop.add_reader(master, readable)
    try:
        yield line({"type": "started", "exec": exec_id})
        while data := await queue.get():
            yield line(output("stdout", data))
        yield line({"type": "exit", "exit_code": await process.wait()})
    finally:
        loop.remove_reader(master)
        _kill(process)
        del masters[exec_id]
        os.close(master)


def _kill(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.kill()


def _exec(exec_id: str) -> asyncio.subprocess.Process:
    if exec_id not in execs:
        raise Refusal(404, f"no command has the id {exec_id}")
    return execs[exec_id]


@app.post("/execs/{exec_id}/stdin")
async def stdin(exec_id: str, request: Request) -> Response:
    process = _exec(exec_id)
    try:
        async for data in request.stream():
            if exec_id in masters:
                os.write(masters[exec_id], data)
            elif process.stdin and data:
                process.stdin.write(data)
                await process.stdin.drain()
    except (OSError, ClientDisconnect) as error:
        raise Refusal(409, "the command reads no more input") from error
    if process.stdin:
        process.stdin.close()
    return Response(status_code=204)


@app.post("/execs/{exec_id}/resize")
async def resize(exec_id: str, request: Request) -> Response:
    size = await request.json()
    if exec_id in masters:
        fcntl.ioctl(masters[exec_id], termios.TIOCSWINSZ, struct.pack("HHHH", size["rows"], size["cols"], 0, 0))
    return Response(status_code=204)


@app.post("/execs/{exec_id}/signal")
async def send_signal(exec_id: str, request: Request) -> Response:
    name = (await request.json())["signal"]
    os.killpg(_exec(exec_id).pid, signal.Signals[f"SIG{name}"])
    return Response(status_code=204)


@app.post("/gc")
async def gc() -> Any:
    return {"snapshots": 3, "layers": 1, "tasks": 0, "bytes": 5 * 1024 * 1024}


if __name__ == "__main__":
    uvicorn.run(app, uds=sys.argv[1], log_level="warning", timeout_graceful_shutdown=1)
    for left in tasks.values():
        if left.process and left.process.returncode is None:
            os.killpg(left.process.pid, signal.SIGKILL)
