"""Commands that users run in a task's running sandbox: exec and shell. Each is a stream of events while its connection is open.

Closing the connection ends the command.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
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

    async def run(self, context: PhaseContext, spec: ExecSpec) -> AsyncGenerator[dict[str, Any]]:
        """Run `spec` in the task's sandbox; yields started, output… and exit events."""
        sandbox = context.running()
        command = _command(context, spec)
        queue: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_QUEUED)

        async def sink(stream: str, data: bytes) -> None:
            await queue.put({"type": "output", "stream": stream, "data": base64.b64encode(data).decode()})

        identity = secrets.token_hex(8)
        async with _joined(sandbox, command, spec, sink) as joined:
            self._running[identity] = joined
            try:
                yield {"type": "started", "exec": identity}
                ending = asyncio.create_task(_end(joined, queue))
                try:
                    while (event := await queue.get()) is not None:
                        yield event
                    yield {"type": "exit", "exit_code": await ending}
                finally:
                    ending.cancel()
            finally:
                del self._running[identity]

    async def write(self, identity: str, data: AsyncIterator[bytes]) -> None:
        """Hand the command its input; the end of `data` is the end of its input. Raises NotFound, BadRequest."""
        joined = self._find(identity)
        if joined.input < 0:
            raise BadRequest(f"exec {identity} takes no input", 'start it with "stdin": true')
        async for piece in data:
            # The exec may have ended, and its descriptor be somebody else's, while we waited for more input.
            if piece and (
                self._running.get(identity) is not joined or not await streams.write_all(joined.input, piece)
            ):
                break
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


async def _end(joined: Joined, queue: asyncio.Queue[dict[str, Any] | None]) -> int:
    code = await joined.wait()
    await queue.put(None)
    return code


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
        argv = environment.login(spec.command, bash) if spec.login else environment.plain(spec.command)
    else:
        argv = environment.login_shell(bash)
    return Command(argv, env, context.cwd)
