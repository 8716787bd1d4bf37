"""Attacks on the kernel's surface: system calls, other ways to make them, socket families, terminals, netlink, shared limits.

Standard library only; runs inside. Calls that would do something to the machine are made so that they can only fail or do
nothing (wrong magic numbers, null pointers): that the kernel began to work on one is breach enough.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from common import LIBC, attack, netlink, netlink_attribute, reached, succeeded, syscall

HIGH = 1 << 32  # the kernel reads some arguments as 32-bit numbers and drops what lies above


@attack
def system_calls() -> str:
    nothing = ctypes.c_void_p(None)
    calls: dict[str, Callable[[], object]] = {
        "acct": lambda: syscall(163, b"/nowhere"),
        "add_key": lambda: syscall(248, nothing, nothing, nothing, 1, -3),
        "bpf": lambda: syscall(321, 0, nothing, 0),
        "clock_settime": lambda: syscall(227, 99, nothing),
        "delete_module": lambda: syscall(176, b"nothing", 0),
        "fanotify_init": lambda: syscall(300, 0, 0),
        "finit_module": lambda: syscall(313, -1, b"", 0),
        "init_module": lambda: syscall(175, nothing, 0, b""),
        "io_setup": lambda: syscall(206, 1, ctypes.byref(ctypes.c_ulong(0))),
        "io_uring_setup": lambda: syscall(425, 1, ctypes.create_string_buffer(120)),
        "iopl": lambda: syscall(172, 3),
        "ioperm": lambda: syscall(173, 0, 1, 1),
        "kcmp": lambda: syscall(312, 1, 1, 0, 0, 0),
        "kexec_load": lambda: syscall(246, 0, 0, nothing, 1 << 30),
        "keyctl": lambda: syscall(250, 99, 0, 0),
        "listmount": lambda: syscall(458, nothing, nothing, 0, 0),
        "lsm_set_self_attr": lambda: syscall(460, 0, nothing, 0, 0),
        "open_by_handle_at": lambda: syscall(304, -100, ctypes.create_string_buffer(16), 0),
        "perf_event_open": lambda: syscall(298, ctypes.create_string_buffer(128), 0, -1, -1, 0),
        "pivot_root": lambda: syscall(155, b"/nowhere", b"/nowhere"),
        "quotactl": lambda: syscall(179, 0x80000100, nothing, 0, nothing),
        "reboot": lambda: syscall(169, 0, 0, 0, nothing),
        "request_key": lambda: syscall(249, nothing, nothing, nothing, 0),
        "setdomainname": lambda: syscall(171, b"x" * 999, 999),
        "settimeofday": lambda: syscall(164, nothing, nothing),
        "statmount": lambda: syscall(457, nothing, nothing, 0, 0),
        "swapoff": lambda: syscall(168, b"/nowhere"),
        "syslog": lambda: syscall(103, 10, nothing, 0),
        "uselib": lambda: syscall(134, b"/nowhere"),
        "userfaultfd": lambda: syscall(323, 1),
        "vhangup": lambda: syscall(153) if os.getsid(0) == os.getpid() else _refused(),
    }
    return reached(calls)


def _refused() -> None:
    raise PermissionError(errno.EPERM, "not tried")


@attack
def other_ways_into_the_kernel() -> str:
    """The 32-bit and x32 entries, which a filter of 64-bit numbers alone would not see. 20 and 39 are getpid."""
    found = []
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20; int 0x80; ret
    entry = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    if entry() > 0:
        found.append("int 0x80")
    with suppress(OSError):
        syscall(0x40000000 | 39)
        found.append("x32")
    return ", ".join(found)


@attack
def socket_families() -> str:
    usual = (1, 2, 10, 16)
    calls: dict[str, Callable[[], object]] = {}
    for family in range(48):
        for kind in (1, 2, 3, 5):
            if family not in usual:
                calls[f"family {family} type {kind}"] = lambda family=family, kind=kind: _socket(family, kind, 0)
                calls[f"family {family} type {kind}, high bits"] = lambda family=family, kind=kind: _socket(
                    family | HIGH, kind, 0
                )
    return reached(calls)


@attack
def socket_protocols() -> str:
    """Raw sockets; transports whose modules the kernel would load for us; netlink but for routes."""
    calls: dict[str, Callable[[], object]] = {}
    for protocol in (33, 46, 50, 115, 132, 136, 137, 255, 256, 262):
        for kind in (1, 2, 3, 5):
            for high in (0, HIGH):
                calls[f"inet {protocol} type {kind}"] = lambda k=kind, p=protocol | high: _socket(2, k, p)
                calls[f"inet6 {protocol} type {kind}"] = lambda k=kind, p=protocol | high: _socket(10, k, p)
    for protocol in (0, 1, 6, 17, 58):
        calls[f"raw {protocol}"] = lambda p=protocol: _socket(2, 3, p)
    for protocol in range(1, 24):
        calls[f"netlink {protocol}"] = lambda p=protocol: _socket(16, 3, p)
        calls[f"netlink {protocol}, high bits"] = lambda p=protocol: _socket(16 | HIGH, 3, p | HIGH)
    return reached(calls)


def _socket(family: int, kind: int, protocol: int) -> None:
    os.close(syscall(41, family, kind, protocol))


@attack
def terminal_injection() -> str:
    """Into a terminal of its own and, where it has one, into that of the user who joined."""
    master, slave = os.openpty()
    ends = {"own": slave} | ({"the user's": 0} if os.isatty(0) else {})
    calls: dict[str, Callable[[], object]] = {}
    for name, fd in ends.items():
        calls |= {
            f"TIOCSTI {name}": lambda fd=fd: syscall(16, fd, 0x5412, b"x"),
            f"TIOCSTI {name}, high bits": lambda fd=fd: syscall(16, fd, 0x5412 | HIGH, b"x"),
            f"TIOCLINUX {name}": lambda fd=fd: syscall(16, fd, 0x541C, b"\x03"),
            f"TIOCSETD {name}": lambda fd=fd: syscall(16, fd, 0x5423, struct.pack("i", 0)),
        }
    found = reached(calls)
    os.close(master)
    return found


@attack
def network_settings() -> str:
    """Addresses, routes, links, neighbours and rules by netlink; interface flags by ioctl."""
    index = struct.pack("=I", _index_of("lo"))
    attempts: dict[str, Callable[[], object]] = {
        "address": lambda: netlink(20, b"\2\x18\0\0" + index + netlink_attribute(2, bytes([10, 9, 8, 7])), 0x605),
        "route": lambda: netlink(
            24, bytes([2, 0, 0, 0, 254, 4, 253, 1]) + bytes(4) + netlink_attribute(4, index), 0x605
        ),
        "lo down": lambda: netlink(16, bytes(4) + index + struct.pack("=II", 0, 1)),
        "new link": lambda: netlink(
            16, bytes(16) + netlink_attribute(3, b"x0\0") + netlink_attribute(18, netlink_attribute(1, b"dummy")), 0x605
        ),
        "neighbour": lambda: netlink(
            28, b"\2\0\0\0" + index + b"\x80\0\0\0" + netlink_attribute(1, b"\n\0\0\1"), 0x605
        ),
        "rule": lambda: netlink(32, bytes([2, 0, 0, 0, 254, 0, 0, 1]) + bytes(4), 0x605),
        "flags": _interface_down,
    }
    return succeeded(attempts)


def _index_of(name: str) -> int:
    return socket.if_nametoindex(name)


def _interface_down() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh22x", b"lo", 0))


@attack
def core_dumps() -> str:
    """Only a limit of 1 keeps a piped core pattern, a program that the host runs as root, from being started by a crash."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        resource.prlimit(0, resource.RLIMIT_CORE, (0, 1))
    with suppress(OSError):
        syscall(160, resource.RLIMIT_CORE | HIGH, struct.pack("2Q", 0, 0))
    limit = resource.getrlimit(resource.RLIMIT_CORE)
    return "" if limit == (1, 1) else f"the limit is {limit}"


@attack
def what_the_host_has_only_once() -> str:
    """Huge pages, kernel AIO, pressure triggers, raised limits: what one sandbox must not take from all others."""
    LIBC.mmap.restype = ctypes.c_void_p
    calls: dict[str, Callable[[], object]] = {
        "memfd of huge pages": lambda: syscall(319, b"x", 4),
        "pressure trigger": lambda: os.open("/proc/pressure/memory", os.O_RDWR),
        "locked memory": lambda: syscall(160, resource.RLIMIT_MEMLOCK, struct.pack("2Q", 1 << 40, 1 << 40)),
        "real-time priority": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
        "negative nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -5),
        "real-time I/O": lambda: syscall(251, 1, 0, 1 << 13),
        "protection from the OOM killer": lambda: _write("/proc/self/oom_score_adj", "-500"),
    }
    found = succeeded(calls)
    if LIBC.mmap(None, 2 << 20, 3, 0x40022, -1, 0) != ctypes.c_void_p(-1).value:
        found += ", huge page"
    return found


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)
