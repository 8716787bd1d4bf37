"""The filter's processes as the daemon sees them: one master, and a stream of JSON lines with each process it forks.

    Master   starts it, learns of its processes, ends it          Peer   asks one of them and hears what it tells

It knows nothing of policies. A process that talks nonsense, or answers nothing, is ended: its master forks another.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Awaitable, Callable
from typing import Any, Final

from proxy.launch import LaunchError
from sandbox.host.errors import HostError

_log = logging.getLogger("hutch")
type Message = dict[str, Any]
_ANSWER_SECONDS: Final = 10.0  # then it hangs, and is killed
_MAX_LINE: Final = 1 << 22


class PeerEnded(HostError):
    """It ended before it answered."""


class Refused(HostError):
    """It answered that it won't."""


class Peer:
    """One process of the filter. `hear` gets whatever it tells unasked. Owns `pidfd`."""

    def __init__(self, kind: str, pid: int, pidfd: int, hear: Callable[[Message], None]) -> None:
        self.kind, self.pid = kind, pid
        self._pidfd, self._hear = pidfd, hear
        self._acks: dict[int, asyncio.Future[Message]] = {}
        self._sequence = 0
        self._writer: asyncio.StreamWriter | None = None

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._writer is not None and not self._writer.is_closing()

    async def listen(self, stream: socket.socket, greet: Callable[[Peer], Awaitable[None]]) -> None:
        """Greet it and hear what it tells, until its end."""
        reader, self._writer = await asyncio.open_connection(sock=stream, limit=_MAX_LINE)
        greeting = asyncio.create_task(self._greet(greet))
        try:
            while line := await reader.readline():
                self._heard(json.loads(line))
        except (OSError, ValueError, AttributeError) as error:
            _log.error("the filter's %s %d is ended: what it says can't be read: %s", self.kind, self.pid, error)
        finally:
            greeting.cancel()
            self.kill()
            for ack in self._acks.values():
                if not ack.done():
                    ack.set_exception(PeerEnded("cannot reach the filter: it has just ended", "try again"))
            self._writer.close()
            os.close(self._pidfd)
            self._pidfd = -1  # its number may be another process's by the time that somebody stops waiting

    async def _greet(self, greet: Callable[[Peer], Awaitable[None]]) -> None:
        try:
            await greet(self)
        except Exception as error:
            _log.error("the filter's %s %d could not be told what holds: %s", self.kind, self.pid, error)
            self.kill()

    def _heard(self, message: Message) -> None:
        if "ack" not in message:
            self._hear(message)
        elif (ack := self._acks.get(message["ack"])) is not None and not ack.done():
            ack.set_result(message)

    async def ask(self, message: Message) -> Message:
        """Its answer. Raises Refused, or PeerEnded where it has died, or is killed now because it does not answer."""
        if self._writer is None or self._writer.is_closing():
            raise PeerEnded("cannot reach the filter: it has just ended", "try again")
        self._sequence += 1
        ack = self._acks[self._sequence] = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(RuntimeError):  # uvloop's, for a stream that has just been lost: no answer comes
                self._writer.write(json.dumps({**message, "seq": self._sequence}).encode() + b"\n")
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer: Message = await ack
        except TimeoutError as error:
            _log.error("the filter's %s %d is ended: it does not answer", self.kind, self.pid)
            self.kill()
            raise PeerEnded(f"cannot reach the filter: it did not answer for {_ANSWER_SECONDS:g} s") from error
        finally:
            self._acks.pop(self._sequence, None)
        if (refusal := answer.get("error")) is not None:
            raise Refused(f"the filter refused: {refusal}", "hutch net --help explains rules")
        return answer

    def kill(self) -> None:
        """End the process."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class Master:
    """The master process and, through it, all others. `on_process` gets each Peer with its stream."""

    def __init__(self, command: Callable[[int], list[str]], fds: tuple[int, ...]) -> None:
        self._command, self._fds = command, fds
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The master's process id, or 0."""
        return self._process.pid if self._process else 0

    async def run(self, on_process: Callable[[str, int, int, socket.socket], None]) -> None:
        """Start it and hear of its processes until it ends. Raises HostError when it can't be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._start(theirs.fileno())
            ours.setblocking(False)
            try:
                while packet := await _receive(ours):
                    on_process(*packet)
            finally:
                self.end()

    def _start(self, control: int) -> None:
        try:
            self._process = subprocess.Popen(
                self._command(control), pass_fds=[control, *self._fds], stdin=subprocess.DEVNULL,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"},
                start_new_session=True, cwd="/",
            )  # fmt: skip
        except (OSError, LaunchError) as error:
            raise HostError(f"cannot start the filter: {error}", "hutch doctor") from error

    def end(self) -> None:
        """End the master. Its processes end with their streams."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)


async def _receive(control: socket.socket) -> tuple[str, int, int, socket.socket] | None:
    """Kind, pid, pidfd and stream of the next process; None when the master has ended."""
    loop = asyncio.get_running_loop()
    readable = loop.create_future()

    def tell() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(control, tell)
    try:
        await readable
    finally:
        loop.remove_reader(control)
    data, fds, _, _ = socket.recv_fds(control, 4096, 2, socket.MSG_CMSG_CLOEXEC)
    if not data:
        return None
    if len(fds) != 2:
        for fd in fds:
            os.close(fd)
        raise HostError("cannot run the filter: its master sent no descriptors", "is the limit of open files reached?")
    told = json.loads(data)
    return told["kind"], told["pid"], fds[1], socket.socket(fileno=fds[0])
