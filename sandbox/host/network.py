"""The gateway and the veth pairs that lead to it; the only file that imports pyroute2.

    sandbox netns ── eth0 10.x.y.(2n+1)/31 ══ veth ══ h<n> 10.x.y.2n/31 ── gateway netns ── the filter's two sockets

The namespaces are made by the spawner's children and come here as descriptors, with a netlink socket that was opened in each: so
the daemon never enters one. They vanish with the last descriptor; nothing of them is ever visible in the host's namespace.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from sandbox.host.errors import HostError
from sandbox.host.spawner import Spawner
from sandbox.inside.plan import GatewayPlan

_FIRST_LINK_INDEX = 100
_SANDBOX_LINK_INDEX = 2
# How long the gateway remembers what is over, in seconds. The kernel's own values (up to two minutes) would have a sandbox reach
# its limit of connections with 17 a second.
_TRACKING = {"udp_timeout": 5, "udp_timeout_stream": 5, "tcp_timeout_time_wait": 5, "tcp_timeout_close": 5}


class Gateway:
    """The namespace that every veth leads to, and the sockets in it. It has no uplink and forwards nothing."""

    def __init__(self, netns: int, tcp: socket.socket, dns: socket.socket) -> None:
        self.netns = netns
        self.tcp = tcp
        self.dns = dns
        # pyroute2's blocking calls run an event loop of their own, so they have a thread of their own.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="netlink")
        self._links: IPRoute = None

    @classmethod
    async def open(cls, spawner: Spawner) -> Gateway:
        """Make the namespace, its sockets and its rules."""
        netns, netlink, tcp, dns = await spawner.make(lambda _, reply: GatewayPlan(reply), 4)
        gateway = cls(netns, socket.socket(fileno=tcp), socket.socket(fileno=dns))
        try:
            gateway._links = await gateway._in_thread(lambda: IPRoute(fileno=netlink))
            await asyncio.to_thread(gateway._load_rules)
        except BaseException:
            await gateway.close()
            raise
        return gateway

    async def _in_thread[T](self, call: Callable[[], T]) -> T:
        """Run a pyroute2 call."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _load_rules(self) -> None:
        template = Path(__file__).with_name("gateway.nft").read_text()
        rules = template.format(tcp=self.tcp.getsockname()[1], dns=self.dns.getsockname()[1])
        self._run_inside(("nft", "--file", "-"), rules)
        # After the rules: the settings are there once something is tracked.
        settings = "".join(f"echo {seconds} >nf_conntrack_{name}\n" for name, seconds in _TRACKING.items())
        self._run_inside(("sh", "-eu"), f"cd /proc/sys/net/netfilter\n{settings}")

    def _run_inside(self, program: tuple[str, ...], text: str) -> None:
        """Run a program of the host's in the gateway's namespace, with `text` as its input."""
        command = ["nsenter", f"--net=/proc/self/fd/{self.netns}", *program]
        try:
            done = subprocess.run(
                command, input=text, capture_output=True, text=True, timeout=30, pass_fds=[self.netns], check=False
            )
        except FileNotFoundError as error:
            raise HostError(
                f"cannot set up the gateway: {error.filename} is missing", "apt-get install nftables"
            ) from error
        if done.returncode != 0:
            reason = done.stderr.strip().splitlines()[:1]
            raise HostError(f"cannot set up the gateway: {program[0]} refused its rules: {reason}", "hutch doctor")

    async def connect(self, number: int, netns: int, netlink: int) -> None:
        """Make the veth pair of lease `number`, up and addressed, with an end in each namespace; consumes `netlink`.

        A cancelled caller waits for it all the same: its descriptors must not be closed, and be other files', meanwhile.
        """
        connecting = asyncio.ensure_future(self._in_thread(lambda: self._connect(number, netns, netlink)))
        try:
            await asyncio.shield(connecting)
        except asyncio.CancelledError:
            await asyncio.wait([connecting])
            raise
        except NetlinkError as error:
            raise HostError(f"cannot connect sandbox {number} to the gateway: {error}", "hutch doctor") from error

    def _connect(self, number: int, netns: int, netlink: int) -> None:
        index = _FIRST_LINK_INDEX + number
        with _netlink(netlink) as sandbox:
            outside = self._links
            peer = {"ifname": "eth0", "index": _SANDBOX_LINK_INDEX, "net_ns_fd": netns}
            _patiently(lambda: outside.link("add", kind="veth", ifname=f"h{number}", index=index, peer=peer))
            sandbox.addr("add", index=_SANDBOX_LINK_INDEX, address=address(number, 1), prefixlen=31)
            sandbox.link("set", index=_SANDBOX_LINK_INDEX, state="up")
            outside.addr("add", index=index, address=address(number, 0), prefixlen=31)
            outside.link("set", index=index, state="up")
            sandbox.route("add", dst="default", gateway=address(number, 0))
            # Where no gateway is wanted (MSG_DONTROUTE) the kernel would take every address for a neighbour and look for it: a
            # thousand such searches fill the one table that the host and all sandboxes have. They find themselves instead.
            route = {"family": socket.AF_INET, "dst": "0.0.0.0/0", "oif": _SANDBOX_LINK_INDEX, "priority": 1000}
            sandbox.route("add", type="local", scope="host", **route)

    async def close(self) -> None:
        """Let go of the namespace; the kernel removes it with its last user."""
        if self._links is not None:
            await self._in_thread(self._links.close)
        self._thread.shutdown()
        self.tcp.close()
        self.dns.close()
        os.close(self.netns)


def address(number: int, side: int) -> str:
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
