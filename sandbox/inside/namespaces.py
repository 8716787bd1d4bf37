"""Makes the namespaces that sandboxes are later put into: leases (network + user) and the gateway.

Runs in a forked child of the spawner, so that neither the spawner nor the daemon ever changes its own namespaces. A lease's
child stays on as the sandbox's keeper: it has joined the network namespace and the control groups already, because joining
control groups waits for a grace period of the kernel (15 ms), which nobody should wait for when a sandbox starts.

The namespaces live as long as somebody holds their descriptors: nothing is bound into the file system,
nothing can be left behind.
"""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import struct
from collections.abc import Mapping

from sandbox.inside import credentials, profile
from sandbox.inside.plan import GatewayPlan, LeasePlan

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_SO_RCVBUFFORCE = 33
IDS_PER_SANDBOX = 65536


def make_lease(plan: LeasePlan, fds: list[int], reply: socket.socket) -> None:
    """Send [network namespace, its netlink socket, user namespace] over `reply`, having joined the control groups."""
    for index in plan.cgroup:
        os.write(fds[index], b"0")
    user = _user_namespace(plan.uid_base)
    network, netlink = _network_namespace(profile.NETWORK_SYSCTLS)
    socket.send_fds(reply, [b"lease"], [network, netlink.fileno(), user])


def make_gateway(plan: GatewayPlan, reply: socket.socket) -> None:
    """Send [network namespace, its netlink socket, listening TCP socket, UDP socket] over `reply`.

    The sockets keep belonging to the gateway wherever their descriptors go.
    """
    network, netlink = _network_namespace(profile.GATEWAY_SYSCTLS)
    tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    tcp.bind(("0.0.0.0", 0))
    tcp.listen(4096)
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    udp.bind(("0.0.0.0", 0))
    # What several sandboxes ask at once must find room: beyond it the kernel drops anybody's questions.
    udp.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
    socket.send_fds(reply, [b"gateway"], [network, netlink.fileno(), tcp.fileno(), udp.fileno()])


def _network_namespace(sysctls: Mapping[str, str]) -> tuple[int, socket.socket]:
    os.unshare(os.CLONE_NEWNET)
    for name, value in sysctls.items():
        try:
            with open(f"/proc/sys/net/{name}", "w") as file:
                file.write(value)
        except FileNotFoundError:
            if not name.startswith("ipv6/"):  # a kernel without IPv6 needs it disabled no further
                raise
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sh22x", b"lo", 0)
        flags = struct.unpack_from("16sh", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | _IFF_UP))
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    return os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC), netlink


def _user_namespace(base: int) -> int:
    """A user namespace that maps its ids 0..65535 to `base`… of the host. A throw-away child makes it, we write its maps:
    only a process outside may map more than its own id.

    It belongs to `base`, not to root: what the kernel counts by user (inotify instances, message queues, pending signals and
    with them timers, processes) is counted for a namespace's owner too, and root's share is that of the host and all neighbours.
    """
    ready, unshared = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        try:
            credentials.own_as(base)
            os.unshare(os.CLONE_NEWUSER)
            os.write(unshared, b"1")
            signal.pause()
        finally:
            os._exit(1)
    os.close(unshared)
    try:
        if os.read(ready, 1) != b"1":
            raise OSError(0, "a user namespace could not be made: see /proc/sys/user/max_user_namespaces", "unshare")
        for name in ("uid_map", "gid_map"):
            with open(f"/proc/{child}/{name}", "w") as file:
                file.write(f"0 {base} {IDS_PER_SANDBOX}")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
