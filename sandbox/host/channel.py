"""The daemon's end of a socket to the spawner, to a keeper, or to a process that stands by: plans go out, exits come in.

When a keeper dies, its sandbox dies with it (the kernel sees to that): every process of it is then reported as killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
from typing import Any, Final

from sandbox.host import streams
from sandbox.host.errors import SandboxFailed
from sandbox.inside.plan import Plan, encode

_KILLED_WITH_KEEPER: Final = -int(signal.SIGKILL)


class SpawnerDied(SandboxFailed):
    """The spawner, a keeper or a process that stood by ended before it did what it was asked for."""


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

    @property
    def alive(self) -> bool:
        """Whether its end has not been heard of."""
        return not self.exited.done()

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
        if self.pidfd >= 0 and self.alive:
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


async def send_plan(connection: socket.socket, plan: Plan, fds: list[int]) -> None:
    """Send a plan with its descriptors. Raises SpawnerDied when nobody is there to take it."""
    try:
        with open(os.memfd_create("plan", os.MFD_CLOEXEC), "wb", buffering=0) as carrier:
            carrier.write(encode(plan))
            while True:
                try:
                    socket.send_fds(connection, [b"p"], [carrier.fileno(), *fds])
                    return
                except BlockingIOError:
                    await streams.writable(connection.fileno())
    except (BrokenPipeError, ConnectionResetError) as error:
        raise SpawnerDied("cannot reach the spawner: it has just ended", "try again") from error
    except OSError as error:
        raise SandboxFailed(f"cannot reach the spawner: {error}", "try again") from error


class Channel:
    """A socket to the spawner or a keeper: plans go out, starts and exits of processes come in."""

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

    def expect(self, identity: str) -> Process:
        """A process that the other side will start by this name."""
        process = self._processes[identity] = Process(identity)
        if self._closed:
            self._end_all()
        return process

    async def send(self, plan: Plan, fds: list[int]) -> None:
        """Send a plan. Raises SpawnerDied."""
        if self._closed:
            raise SpawnerDied("cannot start a process: the spawner has ended", "try again")
        try:
            await send_plan(self._channel, plan, fds)
        except SpawnerDied:
            self.close()
            raise

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
        elif "exited" in message:
            del self._processes[process.id]
            process.end(message["status"])
        elif fds:
            os.set_inheritable(fds[0], False)
            process.begin(message["pid"], fds[0])
        else:  # the daemon has as many descriptors open as it may: this one can't be held, so nothing of it may run
            self.close()

    def close(self) -> None:
        """Hang up: the other side kills what it started and ends. Whoever waits for a process hears that it was killed."""
        if self._closed:
            return
        self._closed = True
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()
        self._end_all()

    def _end_all(self) -> None:
        for process in list(self._processes.values()):
            process.end(_KILLED_WITH_KEEPER)
        self._processes.clear()
