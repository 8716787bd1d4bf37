"""Processes that stand by: already in their sandbox's namespaces, waiting for the plan that tells them what to become.

Everything that can be done before a command is known has then been done, so that nobody waits for it: a lease has one that will
be the sandbox's pid 1, and a sandbox that was joined before has one for the next command.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable
from typing import Final

from sandbox.host import streams
from sandbox.host.channel import Channel, FdTable, Process, SpawnerDied, send_plan
from sandbox.host.errors import SandboxFailed
from sandbox.host.streams import Pipe
from sandbox.inside.messages import EXEC, GO, READY
from sandbox.inside.plan import JoinPlan, StandbyPlan, StartPlan

_TIMEOUT: Final = 60.0  # seconds


class Standby:
    """One such process. `theirs` is its end of the socket, to be sent with the plan that makes it, and closed then."""

    def __init__(self, keeper: Channel) -> None:
        self._plans, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._plans.setblocking(False)
        self.process: Process = keeper.expect(secrets.token_hex(8))
        self._ready = False

    @property
    def alive(self) -> bool:
        """Whether it can still take a plan."""
        return self.process.alive and self._plans.fileno() >= 0

    async def ready(self) -> None:
        """Wait until it stands by. Raises SandboxFailed with the step that failed."""
        if self._ready:
            return
        async with _in_time("a process to stand by"):
            said = await self._hear()
            await asyncio.shield(self.process.started)
        if said != READY:
            self.close()
            raise _explain("cannot prepare a sandbox", said)
        self._ready = True

    async def _hear(self) -> bytes:
        while True:
            try:
                return self._plans.recv(65536)
            except BlockingIOError:
                await streams.readable(self._plans.fileno())
            except ConnectionError:
                return b""

    async def become(
        self, plan: StartPlan | JoinPlan, fds: list[int], permission: Awaitable[None] | None = None
    ) -> Process:
        """Hand over `plan` with its descriptors; returns once its program has been started. It stands by no more.

        With a StartPlan, the program runs only when `permission` has been awaited; all before it is done meanwhile.
        Raises SandboxFailed with the step that failed, SpawnerDied if it was killed before its program ran.
        """
        try:
            with contextlib.closing(Pipe()) as status:
                told = await self._hand_over(plan, fds, status, permission)
            if told != EXEC:
                await self.process.wait()
                raise _explain(f"cannot start {plan.argv[0]} in a sandbox", told.removeprefix(EXEC))
        except BaseException:
            self.process.abandon()
            raise
        finally:
            self._hang_up()
        return self.process

    async def _hand_over(
        self, plan: StartPlan | JoinPlan, fds: list[int], status: Pipe, permission: Awaitable[None] | None
    ) -> bytes:
        await self.ready()
        sent = [*fds, status.write]
        await send_plan(self._plans, plan._replace(status=len(sent)), sent)
        status.close_write()  # or its end would never come
        if permission is not None:
            await permission
            if not self.process.alive:
                self._hang_up()  # nobody watches what has lost its keeper: without a 'go' it ends
            else:
                with contextlib.suppress(ConnectionError):  # it has failed, and told why
                    self._plans.send(GO)
        async with _in_time(f"{plan.argv[0]} to be started"):
            return await streams.read_all(status.read)

    def _hang_up(self) -> None:
        self._plans.close()
        self.theirs.close()

    def close(self) -> None:
        """It isn't needed any more, and ends."""
        self._hang_up()
        self.process.abandon()


async def stand_by(keeper: Channel) -> Standby:
    """Have another process stand by in the sandbox of `keeper`. Raises SandboxFailed."""
    standby = Standby(keeper)
    try:
        with standby.theirs:
            table = FdTable()
            await keeper.send(StandbyPlan(standby.process.id, table.add(standby.theirs.fileno())), table.fds)
        await standby.ready()
    except BaseException:
        standby.close()
        raise
    return standby


@contextlib.asynccontextmanager
async def _in_time(what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_TIMEOUT):
            yield
    except TimeoutError as error:
        raise SandboxFailed(f"waited {_TIMEOUT:g} s for {what}: no answer", "is the host overloaded?") from error


def _explain(what: str, failure: bytes) -> SandboxFailed:
    if not failure:
        return SpawnerDied(f"{what}: its process was killed", "try again")
    try:
        told = json.loads(failure)
        text = f"{what}: could not {told['step']}: {told['message']}"
        if told["errno"] == errno.EAGAIN:
            return SandboxFailed(f"{text}: it has as many processes as it may", "end some of them, or raise --pids")
        return SandboxFailed(text, "hutch doctor")
    except (ValueError, KeyError):
        return SandboxFailed(f"{what}: {failure!r}", "hutch doctor")
