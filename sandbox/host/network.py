"""The gateway and the pool of network leases; the only file that imports pyroute2.

    sandbox netns ── eth0 10.x.y.(2n+1)/31 ══ veth ══ h<n> 10.x.y.2n/31 ── gateway netns ── the filter's two sockets

The namespaces are made by the spawner's children and come here as descriptors, with a netlink socket that was opened in each: so
the daemon never enters one. They vanish with the last descriptor; nothing of them is ever visible in the host's namespace.
A lease joins a network namespace with the user namespace of the same number, so one number stands for address and ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute

from sandbox.host.errors import HostError, OutOfResources
from sandbox.host.identity import RANGES_PER_BLOCK, IdBlock
from sandbox.host.spawner import Spawner
from sandbox.inside.plan import GatewayPlan, LeasePlan

_FIRST_LINK_INDEX = 100
_SANDBOX_LINK_INDEX = 2


@dataclass(frozen=True)
class Lease:
    """What one sandbox gets of network and identity. Descriptors are closed by `Network.release`."""

    number: int
    address: str
    uid_base: int
    netns: int
    userns: int


class Gateway:
    """The namespace that every veth leads to, and the sockets in it. It has no uplink and forwards nothing."""

    def __init__(self, netns: int, tcp: socket.socket, dns: socket.socket) -> None:
        self.netns = netns
        self.tcp = tcp
        self.dns = dns
        # pyroute2's blocking calls run an event loop of their own, so they have a thread of their own.
        self.netlink_thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._links: IPRoute | None = None

    @classmethod
    async def open(cls, spawner: Spawner) -> Gateway:
        """Make the namespace, its sockets and its rules."""
        netns, netlink, tcp, dns = await spawner.make(lambda reply: GatewayPlan(reply), 4)
        gateway = cls(netns, socket.socket(fileno=tcp), socket.socket(fileno=dns))
        try:
            gateway._links = await gateway.in_thread(lambda: IPRoute(fileno=netlink))
            await asyncio.to_thread(gateway._load_rules)
        except BaseException:
            await gateway.close()
            raise
        return gateway

    @property
    def links(self) -> IPRoute:
        """The netlink socket of this namespace; to be used in `netlink_thread` only."""
        return self._links

    async def in_thread[T](self, call: Callable[[], T]) -> T:
        """Run a pyroute2 call."""
        return await asyncio.get_running_loop().run_in_executor(self.netlink_thread, call)

    def _load_rules(self) -> None:
        template = Path(__file__).with_name("gateway.nft").read_text()
        rules = template.format(tcp=self.tcp.getsockname()[1], dns=self.dns.getsockname()[1])
        command = ["nsenter", f"--net=/proc/self/fd/{self.netns}", "nft", "--file", "-"]
        try:
            done = subprocess.run(
                command, input=rules, capture_output=True, text=True, timeout=30, pass_fds=[self.netns], check=False
            )
        except FileNotFoundError as error:
            raise HostError(f"cannot set up the gateway: {error.filename} is missing", "apt-get install nftables") from error
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[:1]
            raise HostError(f"cannot set up the gateway: nft refused its rules: {reason}", "hutch doctor")

    async def close(self) -> None:
        """Let go of the namespace; the kernel removes it with its last user."""
        if self._links is not None:
            await self.in_thread(self._links.close)
        self.netlink_thread.shutdown()
        self.tcp.close()
        self.dns.close()
        os.close(self.netns)


class Network:
    """Hands out leases; keeps `ready` of them prepared, so that starting a sandbox waits for no netlink call."""

    def __init__(self, spawner: Spawner, gateway: Gateway, ids: IdBlock, ready: int = 12) -> None:
        self._spawner = spawner
        self._gateway = gateway
        self._ids = ids
        self._wanted = ready
        # First in, first out: a number rests as long as possible before another sandbox gets it.
        self._numbers = deque(range(1, RANGES_PER_BLOCK))
        self._ready: deque[Lease] = deque()
        self._refill: asyncio.Task[None] | None = None

    async def acquire(self) -> Lease:
        """Return a lease, prepared or made now. Raises OutOfResources when every number is in use."""
        lease = self._ready.popleft() if self._ready else await self._make()
        self.refill()
        return lease

    def release(self, lease: Lease) -> None:
        """Give back a lease whose sandbox has ended. Never raises."""
        for fd in (lease.netns, lease.userns):
            with contextlib.suppress(OSError):
                os.close(fd)
        self._numbers.append(lease.number)

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
        base = self._ids.base(number)
        fds: list[int] = []
        try:
            fds = await self._spawner.make(lambda reply: LeasePlan(base, reply), 3)
            netns, netlink, userns = fds
            await self._gateway.in_thread(lambda: self._connect(number, netns, netlink))
        except BaseException:
            for fd in fds:
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._numbers.append(number)
            raise
        return Lease(number, _address(number, 1), base, netns, userns)

    def _connect(self, number: int, netns: int, netlink: int) -> None:
        """Make the veth pair with an end in each namespace; consumes `netlink`."""
        index = _FIRST_LINK_INDEX + number
        with _netlink(netlink) as sandbox:
            outside = self._gateway.links
            peer = {"ifname": "eth0", "index": _SANDBOX_LINK_INDEX, "net_ns_fd": netns}
            _patiently(lambda: outside.link("add", kind="veth", ifname=f"h{number}", index=index, peer=peer))
            sandbox.addr("add", index=_SANDBOX_LINK_INDEX, address=_address(number, 1), prefixlen=31)
            sandbox.link("set", index=_SANDBOX_LINK_INDEX, state="up")
            outside.addr("add", index=index, address=_address(number, 0), prefixlen=31)
            outside.link("set", index=index, state="up")
            sandbox.route("add", dst="default", gateway=_address(number, 0))

    async def close(self) -> None:
        """Drop the prepared leases."""
        if self._refill is not None:
            self._refill.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._refill
        while self._ready:
            self.release(self._ready.popleft())


def _address(number: int, side: int) -> str:
    """The address of lease `number` on the gateway's (0) or the sandbox's (1) side of its veth."""
    value = 2 * number + side
    return f"10.0.{value >> 8}.{value & 0xFF}"


@contextlib.contextmanager
def _netlink(fd: int) -> Iterator[IPRoute]:
    with IPRoute(fileno=fd) as route:
        yield route


def _patiently(make: Callable[[], object]) -> None:
    """A namespace is torn down some time after its last user has gone, and its link's name and index with it."""
    for _ in range(50):
        try:
            make()
            return
        except Exception as error:
            if getattr(error, "code", None) != errno.EEXIST:
                raise
            time.sleep(0.02)
    make()
