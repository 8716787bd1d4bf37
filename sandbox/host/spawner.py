"""The daemon's side of the spawner and its keepers: sends plans with their descriptors, hears of exits.

The daemon forks no sandbox's process itself. When a keeper dies, its sandbox dies with it (the kernel sees to that): every
process of it is then reported as killed. The spawner's death hurts no running sandbox.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from sandbox.host import streams
from sandbox.host.errors import HostError, SandboxFailed
from sandbox.host.streams import Pipe
from sandbox.inside.plan import GatewayPlan, JoinPlan, LeasePlan, StartPlan, encode

_KILLED_WITH_KEEPER = -int(signal.SIGKILL)
_MAKE_TIMEOUT = 20.0
_START_TIMEOUT = 60.0


class SpawnerDied(SandboxFailed):
    """The spawner, or a keeper, ended before it did what it was asked for."""


class FdTable:
    """Descriptors that travel with a plan; `add` returns the index by which the plan names one. Does not own them."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def add(self, fd: int) -> int:
        """Append `fd`; index 0 of the message is the plan itself."""
        self.fds.append(fd)
        return len(self.fds)


class Process:
    """A process in a sandbox: its host pid, a pidfd, and its exit code to wait for (negative: the signal's number)."""

    def __init__(self, identity: str) -> None:
        self.id = identity
        self.pid = 0
        self.pidfd = -1
        self.started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._abandoned = False

    def begin(self, pid: int, pidfd: int) -> None:
        """Called by the channel, once, and only if it was started."""
        self.pid, self.pidfd = pid, pidfd
        if not self.started.done():
            self.started.set_result(None)
        if self._abandoned:
            self.kill()

    def abandon(self) -> None:
        """Kill it now, or, if its start has not been heard of yet, then."""
        self._abandoned = True
        self.kill()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; nothing happens when the process has ended."""
        if self.pidfd >= 0 and not self.exited.done():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, number)

    async def wait(self) -> int:
        """The exit code, or minus the signal's number."""
        return await asyncio.shield(self.exited)

    def end(self, status: int) -> None:
        """Called by the channel, once."""
        if not self.started.done():
            self.started.set_result(None)
        if not self.exited.done():
            self.exited.set_result(status)
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1


class Channel:
    """A socket to a spawner or keeper: plans go out, starts and exits come in."""

    def __init__(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        self._channel = connection
        self._processes: dict[str, Process] = {}
        self._closed = False
        asyncio.get_running_loop().add_reader(connection, self._readable)

    @property
    def alive(self) -> bool:
        """Whether requests can be sent."""
        return not self._closed

    async def start(self, plan: StartPlan | JoinPlan, table: FdTable, status: Pipe) -> Process:
        """Start what `plan` says; returns once its exec has succeeded.

        `status` is the plan's status pipe, whose writing end is in `table` and is closed here once it has been sent.
        Raises SandboxFailed with the step that failed.
        """
        process = self._processes[plan.id] = Process(plan.id)
        try:
            await self._send(encode(plan), table.fds)
            status.close_write()  # or its end would never come
            async with asyncio.timeout(_START_TIMEOUT):
                failure = await streams.read_all(status.read)
                await process.started
        except TimeoutError as error:
            process.abandon()
            raise SandboxFailed(
                f"cannot start {plan.argv[0]} in a sandbox: no answer for {_START_TIMEOUT:g} s",
                "is the host overloaded?",
            ) from error
        except BaseException:
            process.abandon()
            raise
        if failure:
            await process.wait()
            raise _explain(plan, failure)
        return process

    async def _send(self, plan: bytes, fds: list[int]) -> None:
        if self._closed:
            raise SpawnerDied("cannot start a process: the spawner has ended", "try again")
        carrier = os.memfd_create("plan", os.MFD_CLOEXEC)
        try:
            os.write(carrier, plan)
            while True:
                try:
                    socket.send_fds(self._channel, [b"p"], [carrier, *fds])
                    return
                except BlockingIOError:
                    await streams.writable(self._channel.fileno())
        except (BrokenPipeError, ConnectionResetError) as error:
            self.close()
            raise SpawnerDied("cannot reach the spawner: it has just ended", "try again") from error
        except OSError as error:
            raise SandboxFailed(f"cannot reach the spawner: {error}", "try again") from error
        finally:
            os.close(carrier)

    def _readable(self) -> None:
        while not self._closed:
            try:
                data, fds, _, _ = socket.recv_fds(self._channel, 65536, 1)
            except BlockingIOError:
                return
            except OSError:
                data, fds = b"", []
            if not data:
                self.close()
                return
            self._heard(json.loads(data), fds)

    def _heard(self, message: dict[str, Any], fds: list[int]) -> None:
        identity = message.get("started") or message.get("exited")
        process = self._processes.get(identity) if identity else None
        if process is None:
            for fd in fds:
                os.close(fd)
        elif "started" in message:
            os.set_inheritable(fds[0], False)
            process.begin(message["pid"], fds[0])
        else:
            del self._processes[process.id]
            process.end(message["status"])

    def close(self) -> None:
        """Hang up: the other side kills what it started and ends. Whoever waits for a process hears that it was killed."""
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        for process in list(self._processes.values()):
            process.end(_KILLED_WITH_KEEPER)
        self._processes.clear()


class Spawner(Channel):
    """The spawner process itself."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-m", "sandbox.inside.spawner", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                start_new_session=True,
            )
        super().__init__(ours)

    async def make(self, plan: Callable[[FdTable, int], LeasePlan | GatewayPlan], expected: int) -> list[int]:
        """Have namespaces made; returns the `expected` descriptors that come back."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)
            table = FdTable()
            request = plan(table, table.add(theirs.fileno()))
            await self._send(encode(request), table.fds)
            theirs.close()
            try:
                async with asyncio.timeout(_MAKE_TIMEOUT):
                    await streams.readable(ours.fileno())
            except TimeoutError as error:
                text = f"cannot make namespaces: no answer for {_MAKE_TIMEOUT:g} s"
                raise HostError(text, "is the host overloaded?") from error
            answer, fds, _, _ = socket.recv_fds(ours, 4096, expected)
        if not answer:
            raise SpawnerDied("cannot make namespaces: the spawner died", "try again")
        if len(fds) != expected:
            for fd in fds:
                os.close(fd)
            raise HostError(f"cannot make namespaces: {answer.decode(errors='replace')}", "hutch doctor")
        for fd in fds:
            os.set_inheritable(fd, False)
        return fds

    async def end(self) -> None:
        """Hang up and wait for the process."""
        self.close()
        try:
            await asyncio.to_thread(self.process.wait, 15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait, 15)


class Spawners:
    """The spawner that is alive: another is started when one has died. Keepers and sandboxes don't notice."""

    def __init__(self) -> None:
        self._spawner: Spawner | None = None
        self._dead: list[Spawner] = []

    def current(self) -> Spawner:
        """A spawner to ask for namespaces."""
        if self._spawner is not None and not self._spawner.alive:
            self._dead.append(self._spawner)
            self._spawner = None
        if self._spawner is None:
            self._spawner = Spawner()
        return self._spawner

    async def end(self) -> None:
        """End it, and collect those that died."""
        for spawner in (*self._dead, self._spawner):
            if spawner is not None:
                await spawner.end()


def _explain(plan: StartPlan | JoinPlan, failure: bytes) -> SandboxFailed:
    try:
        told = json.loads(failure)
        what = f"cannot start {plan.argv[0]} in a sandbox: could not {told['step']}: {told['message']}"
        if told["errno"] == errno.EAGAIN:
            return SandboxFailed(f"{what}: it has as many processes as it may", "end some of them, or raise --pids")
        return SandboxFailed(what, "hutch doctor")
    except (ValueError, KeyError):
        return SandboxFailed(f"cannot start {plan.argv[0]} in a sandbox: {failure!r}", "hutch doctor")
