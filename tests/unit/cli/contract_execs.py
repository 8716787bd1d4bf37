"""The commands in tasks of contract_server.py: real processes on pipes or a terminal of their own.

It must not isolate anything: they run as whoever started the server.
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
import termios
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from contract_images import Refusal, line, output
from contract_tasks import find
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from starlette.requests import ClientDisconnect

router = APIRouter()
execs: dict[str, asyncio.subprocess.Process] = {}
masters: dict[str, int] = {}


@router.post("/tasks/{task}/exec")
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


@router.post("/execs/{exec_id}/stdin")
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


@router.post("/execs/{exec_id}/resize")
async def resize(exec_id: str, request: Request) -> Response:
    size = await request.json()
    if exec_id in masters:
        fcntl.ioctl(masters[exec_id], termios.TIOCSWINSZ, struct.pack("HHHH", size["rows"], size["cols"], 0, 0))
    return Response(status_code=204)


@router.post("/execs/{exec_id}/signal")
async def send_signal(exec_id: str, request: Request) -> Response:
    name = (await request.json())["signal"]
    os.killpg(_exec(exec_id).pid, signal.Signals[f"SIG{name}"])
    return Response(status_code=204)
