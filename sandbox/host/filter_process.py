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
from pathlib import Path
from typing import Any, Final

from proxy.launch import LaunchError
from proxy.lines import MAX_LINE
from sandbox.host.errors import HostError

_log = logging.getLogger("hutch")
type Message = dict[str, Any]
_ANSWER_SECONDS: Final = 10.0  # then it hangs, and is killed


class PeerEnded(HostError):
    """It ended before it answered."""


class Refused(HostError):
    """It answered that it won't, and why: `reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the filter refused: {reason}", "hutch net --help explains rules")
        self.reason = reason


class Peer:
    """One process of the filter. `hear` gets whatever it tells unasked. Owns `pidfd` and `stream` until `close`."""

    def __init__(self, kind: str, pid: int, pidfd: int, stream: socket.socket, hear: Callable[[Message], None]) -> None:
        self.kind, self.pid = kind, pid
        self._pidfd, self._stream, self._hear = pidfd, stream, hear
        self._acks: dict[int, asyncio.Future[Message]] = {}
        self._sequence = 0
        self._writer: asyncio.StreamWriter | None = None

    @property
    def alive(self) -> bool:
        """Whether it can still be asked."""
        return self._writer is not None and not self._writer.is_closing()

    async def listen(self, greet: Callable[[Peer], Awaitable[None]]) -> None:
        """Greet it and hear what it tells, until its end."""
        reader, self._writer = await asyncio.open_connection(sock=self._stream, limit=MAX_LINE)
        greeting = asyncio.create_task(self._greet(greet))
        try:
            while line := await reader.readline():
                self._heard(json.loads(line))
        except (OSError, ValueError, AttributeError) as error:
            _log.error("the filter's %s %d is ended: what it says can't be read: %s", self.kind, self.pid, error)
        finally:
            greeting.cancel()

    def close(self) -> None:
        """End the process; who waits for an answer of it is told. To be called once, whatever became of `listen`."""
        self.kill()
        for ack in self._acks.values():
            if not ack.done():
                ack.set_exception(PeerEnded("cannot reach the filter: it has just ended", "try again"))
        if self._writer is None:
            self._stream.close()
        else:
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
        sequence = self._sequence = self._sequence + 1  # others may be asked before this one is answered
        ack = self._acks[sequence] = asyncio.get_running_loop().create_future()
        try:
            with contextlib.suppress(RuntimeError):  # uvloop's, for a stream that has just been lost: no answer comes
                self._writer.write(json.dumps({**message, "seq": sequence}).encode() + b"\n")
            async with asyncio.timeout(_ANSWER_SECONDS):
                answer: Message = await ack
        except TimeoutError as error:
            _log.error("the filter's %s %d is ended: it does not answer", self.kind, self.pid)
            self.kill()
            raise PeerEnded(f"cannot reach the filter: it did not answer for {_ANSWER_SECONDS:g} s") from error
        finally:
            self._acks.pop(sequence, None)
        if (refusal := answer.get("error")) is not None:
            raise Refused(str(refusal))
        return answer

    def kill(self) -> None:
        """End the process."""
        if self._pidfd < 0:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)


class Master:
    """The master process and, through it, all others, which have the user id `uid` like itself."""

    def __init__(self, command: Callable[[int], list[str]], fds: tuple[int, ...], uid: int) -> None:
        self._command, self._fds, self._uid = command, fds, uid
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The master's process id, or 0."""
        return self._process.pid if self._process else 0

    async def run(self, on_process: Callable[[str, int, int, socket.socket], None]) -> None:
        """Start it and hear of its processes until it ends: kind, pid, pidfd and stream of each, to be owned.

        Raises HostError when it can't be started, or tells what can't be true.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours:
            with theirs:
                self._start(theirs.fileno())
            ours.setblocking(False)
            try:
                while packet := await _receive(ours, self._uid):
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


async def _receive(control: socket.socket, uid: int) -> tuple[str, int, int, socket.socket] | None:
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
    if not data and not fds:
        return None
    try:
        if len(fds) != 2:
            raise HostError("it sent no descriptors (is the limit of open files reached?)")
        _check_owner(fds[1], uid)
        told = json.loads(data)
        return str(told["kind"]), int(told["pid"]), fds[1], socket.socket(fileno=fds[0])
    except (HostError, OSError, ValueError, TypeError, LookupError) as error:
        for fd in fds:
            os.close(fd)
        raise HostError(f"cannot run the filter: its master can't be understood: {error}") from error


def _check_owner(pidfd: int, uid: int) -> None:
    """Raise HostError unless it is a pidfd of one of the filter's own processes, or of one that has ended.

    What a hostile connection takes over has the master's user id, and so may make it say anything; but what a pidfd is
    for is killed.
    """
    about = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines())
    pid = int(about.get("Pid", 0))  # -1: it has ended
    with contextlib.suppress(FileNotFoundError):  # it has just ended
        if pid == 0 or (pid > 0 and Path(f"/proc/{pid}").stat().st_uid != uid):
            raise HostError("it sent a descriptor that isn't of a process of the filter")
