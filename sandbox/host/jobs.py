"""Runs the jobs of rootfs/ as processes of their own: what they parse was written by strangers, so it never is parsed here.

One JSON request in, JSON lines out; the job is killed when the caller stops listening, or when its time is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any, Final

from proxy.launch import LaunchError, unprivileged_command
from sandbox.host.errors import HostError

_MAX_LINE: Final = 16 << 20
_STDERR_TAIL: Final = 2000
_GRACE: Final = 5.0
_PAUSE: Final = (
    0.3  # seconds until another one is started in the place of one that was taken: whose task needs the processor now
)
_SETTLED: Final = 3.0  # seconds until the first ones: the daemon's own start has the processor before them
_BARE: Final = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}


# A job must not go on when its daemon was killed: the next one sweeps what it was writing to.
_WITH_DAEMON: Final = ("setpriv", "--pdeathsig", "KILL", "--")


class JobFailed(HostError):
    """The job said why it failed."""


class JobDied(JobFailed):
    """The job said nothing: it was killed."""


async def lines(
    module: str, request: Mapping[str, Any], timeout: float, uid: int | None = None
) -> AsyncGenerator[dict[str, Any]]:
    """Run `python -m module` with `request`; yield its lines as they come, the last one with `result`.

    With `uid` it runs as that user, without any privilege, and knows nothing of the daemon's environment.
    Raises JobFailed with the job's own words, or when it takes longer than `timeout` seconds.
    """
    ready = _ready.get(module) if uid is None else None
    process = (ready.take() if ready else None) or await _start(module, uid)
    assert process.stdin
    assert process.stdout
    assert process.stderr
    errors = asyncio.create_task(_tail(process.stderr))
    try:
        async with asyncio.timeout(timeout):
            # It may be dead already, for which uvloop has a RuntimeError; the end of its output then tells.
            with contextlib.suppress(ConnectionError, RuntimeError):
                process.stdin.write(json.dumps(request).encode())
                process.stdin.close()
            async for line in process.stdout:
                message = json.loads(line)
                if "error" in message:
                    raise JobFailed(message["error"]["message"], message["error"].get("remedy", ""))
                yield message
                if "result" in message:
                    return
        tail = (await errors).decode(errors="replace").strip()
        raise JobDied(f"the job {module} ended without a result: {tail or 'it was killed'}", "try again")
    except TimeoutError as error:
        raise JobFailed(
            f"the job {module} took longer than {timeout:.0f} s", "try again, or with less to do"
        ) from error
    finally:
        await _end(process)
        errors.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await errors


async def _start(module: str, uid: int | None = None) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *_command(module, uid),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        limit=_MAX_LINE, start_new_session=True, cwd="/", env=_environment() if uid is None else _BARE,
    )  # fmt: skip


class _Ready:
    """Processes of one job that have imported what it needs, which takes a tenth of a second, and wait for a request."""

    def __init__(self, module: str) -> None:
        self._module = module
        self._waiting: list[asyncio.subprocess.Process] = []
        self._starting: set[asyncio.Task[None]] = set()

    def add(self, delay: float) -> None:
        """Start another one, in `delay` seconds."""
        task = asyncio.create_task(self._add(delay))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _add(self, delay: float) -> None:
        await asyncio.sleep(delay)
        with contextlib.suppress(OSError):  # then the request starts its own, or says why it can't
            self._waiting.append(await _start(self._module))

    def take(self) -> asyncio.subprocess.Process | None:
        """One that is alive, if there is one."""
        while self._waiting:
            process = self._waiting.pop(0)
            self.add(_PAUSE)
            if process.returncode is None:
                return process
        return None

    async def close(self) -> None:
        """End them all."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        for process in self._waiting:
            await _end(process)


_ready: dict[str, _Ready] = {}


@contextlib.asynccontextmanager
async def keep_ready(module: str, count: int) -> AsyncIterator[None]:
    """While inside, `count` processes of a job stand by, so that a request doesn't wait for one to start."""
    ready = _ready[module] = _Ready(module)
    for _ in range(count):
        ready.add(_SETTLED)
    try:
        yield
    finally:
        del _ready[module]
        await ready.close()


async def _tail(stream: asyncio.StreamReader) -> bytes:
    """The last words of a stream that may go on for ever."""
    tail = b""
    while part := await stream.read(1 << 16):
        tail = (tail + part)[-_STDERR_TAIL:]
    return tail


def _command(module: str, uid: int | None) -> Sequence[str]:
    if uid is None:
        return (*_WITH_DAEMON, sys.executable, "-I", "-m", module)
    try:
        return unprivileged_command(module, uid=uid, gid=uid)
    except (OSError, LaunchError) as error:
        raise JobFailed(f"cannot start the job {module}: {error}", "hutch doctor") from error


async def run(module: str, request: Mapping[str, Any], timeout: float, uid: int | None = None) -> dict[str, Any]:
    """Run a job to its end, a second time if it was killed; returns its result."""
    with contextlib.suppress(JobDied):
        return await _run(module, request, timeout, uid)
    return await _run(module, request, timeout, uid)


async def _run(module: str, request: Mapping[str, Any], timeout: float, uid: int | None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    async with contextlib.aclosing(lines(module, request, timeout, uid)) as messages:
        async for message in messages:
            result = message.get("result", result)
    return result


async def _end(process: asyncio.subprocess.Process) -> None:
    """SIGTERM first: a job removes what it has begun. Its process group, so that its children end as well."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        if process.returncode is not None:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_GRACE if number == signal.SIGTERM else 30):
                # A job that has given its result is ending by itself; the signal then finds nobody.
                if number == signal.SIGKILL or not process.stdout or not process.stdout.at_eof():
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, number)
                await process.wait()


def _environment() -> dict[str, str]:
    """What jobs need of the daemon's environment: paths, trust, and the user's git identity and ssh agent."""
    names = ("PATH", "HOME", "LANG", "SSH_AUTH_SOCK", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} | {name: os.environ[name] for name in names if name in os.environ}
