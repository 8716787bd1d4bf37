"""The spawner's process, as the daemon has it: it makes namespaces and keepers. Its death hurts no running sandbox."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from typing import Final

from sandbox.host import streams
from sandbox.host.channel import Channel, FdTable, SpawnerDied
from sandbox.host.errors import HostError
from sandbox.inside.plan import GatewayPlan, LeasePlan

_MAKE_TIMEOUT: Final = 20.0  # seconds


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
            await self.send(request, table.fds)
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
