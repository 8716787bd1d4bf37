"""Leases: all of a sandbox that can be made before anybody asks for one, kept ready in a small pool.

    lease <n> = address + veth (network.py) ─ id range <n> (identity.py) ─ cgroup s<n> (cgroup.py) ─ keeper (spawner.py)

One number stands for all of it. A lease is used once and never cleaned for another tenant: releasing it ends the keeper (and
with it everything inside), removes the cgroup and lets go of the namespaces, which the kernel then takes down.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from sandbox.host import fault
from sandbox.host.cgroup import Cgroups, Group, Limits
from sandbox.host.channel import Channel, FdTable, SpawnerDied
from sandbox.host.errors import HostError, OutOfResources
from sandbox.host.identity import RANGES_PER_BLOCK, IdBlock
from sandbox.host.network import Gateway, address
from sandbox.host.spawner import Spawner
from sandbox.host.standby import Standby
from sandbox.inside.plan import LeasePlan

# Seconds without a start until the pool is filled again, and until then where it has become small.
_PAUSE, _SHORT_PAUSE = 0.5, 0.05


@dataclass(frozen=True)
class Lease:
    """What one sandbox gets: address, host ids, namespaces (descriptors), cgroup, the keeper's channel, its future pid 1."""

    number: int
    address: str
    uid_base: int
    netns: int
    userns: int
    group: Group
    keeper: Channel
    first: Standby

    @property
    def usable(self) -> bool:
        """Whether a sandbox can be started in it."""
        return self.keeper.alive and self.first.alive


class Leases:
    """Hands out leases; keeps `ready` of them prepared, with the `usual` limits: who starts a sandbox waits for nothing slow."""

    def __init__(
        self, spawner: Callable[[], Spawner], gateway: Gateway, cgroups: Cgroups, ids: IdBlock, usual: Limits,
        ready: int = 12,
    ) -> None:  # fmt: skip
        self._spawner = spawner
        self._gateway = gateway
        self._cgroups = cgroups
        self._ids = ids
        self._usual = usual
        self._wanted = ready
        # First in, first out: a number rests as long as possible before another sandbox gets it.
        self._numbers = deque(range(1, RANGES_PER_BLOCK))
        self._ready: deque[Lease] = deque()
        self._refill: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def acquire(self) -> Lease:
        """Return a lease, prepared or made now. Raises OutOfResources when every number is in use."""
        while self._ready:
            lease = self._ready.popleft()
            if lease.usable:
                break
            await self.release(lease)
        else:
            lease = await self._make()
        self._refill_later()
        return lease

    async def release(self, lease: Lease) -> None:
        """End what runs under the lease and give everything back."""
        fault.at("lease: about to be released")
        lease.first.close()
        lease.keeper.close()
        for fd in (lease.netns, lease.userns):
            os.close(fd)
        await asyncio.to_thread(lease.group.remove)
        self._numbers.append(lease.number)

    def _refill_later(self) -> None:
        """Refill once nobody has asked for a moment: making leases would take the processor from the sandbox that starts."""
        if self._timer is not None:
            self._timer.cancel()
        loop = asyncio.get_running_loop()
        pause = _PAUSE if len(self._ready) > self._wanted // 3 else _SHORT_PAUSE
        self._timer = loop.call_later(pause if self._ready else 0, self.refill)

    def refill(self) -> None:
        """Prepare leases in the background until enough are ready."""
        if self._refill is None or self._refill.done():
            self._refill = asyncio.get_running_loop().create_task(self._fill())

    async def _fill(self) -> None:
        # A lease that can't be made now is made, or its error shown, when somebody asks for one.
        with contextlib.suppress(HostError, OSError):
            while len(self._ready) < min(self._wanted, len(self._numbers)):
                self._ready.append(await self._make())

    async def _make(self) -> Lease:
        if not self._numbers:
            raise OutOfResources(
                f"cannot start a sandbox: all {RANGES_PER_BLOCK - 1} addresses are in use", "wait for a task to end"
            )
        number = self._numbers.popleft()
        try:
            async with contextlib.AsyncExitStack() as stack:
                lease = await self._assemble(stack, number)
                stack.pop_all()
        except BaseException:
            self._numbers.append(number)
            raise
        return lease

    async def _assemble(self, stack: contextlib.AsyncExitStack, number: int) -> Lease:
        group = self._cgroups.create(f"s{number}", self._usual)
        stack.push_async_callback(asyncio.to_thread, group.remove)
        fault.at("lease: cgroup made")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper = Channel(ours)
        stack.callback(keeper.close)
        first = Standby(keeper)
        stack.callback(first.close)
        base = self._ids.base(number)

        def plan(table: FdTable, reply: int) -> LeasePlan:
            return LeasePlan(
                uid_base=base,
                reply=reply,
                channel=table.add(theirs.fileno()),
                first=first.process.id,
                plans=table.add(first.theirs.fileno()),
                cgroup=tuple(table.add(fd) for fd in group.join_fds),
            )

        with theirs, first.theirs:
            netns, netlink, userns = await self._make_namespaces(plan)
        group.close_fds()
        stack.callback(os.close, netns)
        stack.callback(os.close, userns)
        fault.at("lease: namespaces made")
        await self._gateway.connect(number, netns, netlink)
        fault.at("lease: connected")
        await first.ready()
        return Lease(number, address(number, 1), base, netns, userns, group, keeper, first)

    async def _make_namespaces(self, plan: Callable[[FdTable, int], LeasePlan]) -> list[int]:
        """Namespaces of the spawner, or of the next one where that dies over it (which is noticed a moment later)."""
        for _ in range(2):
            with contextlib.suppress(SpawnerDied):
                return await self._spawner().make(plan, 3)
        return await self._spawner().make(plan, 3)

    async def close(self) -> None:
        """Drop the prepared leases."""
        self._wanted = 0
        if self._timer is not None:
            self._timer.cancel()
        if self._refill is not None:
            self._refill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refill
        ready, self._ready = self._ready, deque()
        await asyncio.gather(*(self.release(lease) for lease in ready))
