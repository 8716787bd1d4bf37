"""Commands that users run in a task's running sandbox: exec and shell. Each is a stream of events while its connection is open.

Closing the connection ends the command.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import secrets
import signal
import termios
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.core import environment
from sandbox.core.errors import BadRequest, NotFound
from sandbox.core.phases import PhaseContext
from sandbox.host import streams
from sandbox.host.sandbox import Command, Joined, Sandbox

_SIGNALS: Final = {"INT", "TERM", "HUP", "QUIT", "KILL", "USR1", "USR2", "CONT", "STOP"}
type _Queue = asyncio.Queue[dict[str, Any] | Exception | None]
_QUEUED: Final = 64  # pieces of output that wait for a slow reader before the command is held up


@dataclass(frozen=True)
class ExecSpec:
    """What to run; with `login` and no command, a login shell. Sizes in characters."""

    command: tuple[str, ...]
    env: Mapping[str, str]
    tty: bool = False
    stdin: bool = False
    login: bool = False
    rows: int = 24
    columns: int = 80


class Execs:
    """The commands that are running, by their ids."""

    def __init__(self) -> None:
        self._running: dict[str, Joined] = {}
        self._drivers: set[asyncio.Task[None]] = set()

    async def run(self, context: PhaseContext, spec: ExecSpec) -> AsyncGenerator[dict[str, Any]]:
        """Run `spec` in the task's sandbox; yields started, output… and exit events. Closing the generator ends the command."""
        queue: _Queue = asyncio.Queue(_QUEUED)
        # A task of its own: the web server cancels a request over and over, which would interrupt what has to be released.
        driving = self._drive(context.running(), _command(context, spec), spec, queue)
        driver = asyncio.Task(driving, loop=asyncio.get_running_loop(), eager_start=True)
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)
        try:
            while isinstance(event := await queue.get(), dict):
                yield event
            if event is not None:
                raise event
        finally:
            driver.cancel()

    async def _drive(self, sandbox: Sandbox, command: Command, spec: ExecSpec, queue: _Queue) -> None:
        end: Exception | None = None
        try:
            await self._join(sandbox, command, spec, queue)
        except Exception as error:  # raised again where somebody listens
            end = error
        await queue.put(end)

    async def _join(self, sandbox: Sandbox, command: Command, spec: ExecSpec, queue: _Queue) -> None:
        async def sink(stream: str, data: bytes) -> None:
            await queue.put({"type": "output", "stream": stream, "data": base64.b64encode(data).decode()})

        identity = secrets.token_hex(8)
        async with _joined(sandbox, command, spec, sink) as joined:
            self._running[identity] = joined
            try:
                await queue.put({"type": "started", "exec": identity})
                code = await joined.wait()
            finally:
                del self._running[identity]
            await queue.put({"type": "exit", "exit_code": code})

    async def write(self, identity: str, data: AsyncIterator[bytes]) -> None:
        """Hand the command its input; the end of `data` is the end of its input. Raises NotFound, BadRequest."""
        joined = self._find(identity)
        if joined.input < 0:
            raise BadRequest(f"exec {identity} takes no input", 'start it with "stdin": true')
        # A descriptor of our own: the exec may end, and its descriptor's number be another file's, while we wait.
        fd = os.dup(joined.input)
        try:
            async for piece in data:
                if piece and not await streams.write_all(fd, piece):
                    break
        finally:
            os.close(fd)
        if self._running.get(identity) is joined:
            joined.close_input()

    def resize(self, identity: str, rows: int, columns: int) -> None:
        """Set the terminal's size."""
        joined = self._find(identity)
        with contextlib.suppress(termios.error, OSError):  # not a terminal: nothing to resize
            termios.tcsetwinsize(joined.input, (rows, columns))

    def signal(self, identity: str, name: str) -> None:
        """Send a signal to the command."""
        if name not in _SIGNALS:
            raise BadRequest(f"there is no signal {name!r} to send", f"use one of {', '.join(sorted(_SIGNALS))}")
        self._find(identity).process.kill(signal.Signals[f"SIG{name}"])

    def _find(self, identity: str) -> Joined:
        joined = self._running.get(identity)
        if joined is None:
            raise NotFound(f"there is no running exec {identity!r}", "it may have ended")
        return joined


def _joined(
    sandbox: Sandbox, command: Command, spec: ExecSpec, sink: streams.Sink
) -> contextlib.AbstractAsyncContextManager[Joined]:
    if spec.tty:
        return sandbox.terminal(command, sink, spec.rows, spec.columns)
    return sandbox.run(command, sink, spec.stdin)


def _command(context: PhaseContext, spec: ExecSpec) -> Command:
    env = {**context.env, **({"TERM": "xterm-256color"} if spec.tty else {}), **spec.env}
    bash = context.base.has_bash
    if spec.command:
        argv = environment.login(spec.command, bash) if spec.login else tuple(spec.command)
    else:
        argv = environment.login_shell(bash)
    return Command(argv, env, context.cwd)
