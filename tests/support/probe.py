"""Runs inside a sandbox, as `python3 -c <this text>`: prints as one JSON object what a process there has and may do.

Standard library only, and nothing of Hutch. It tries what must be refused and reports the errno's name, "" for success.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import resource
import socket
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x20000, 0x10000000, 0x40000000
MS_REMOUNT_BIND, MNT_DETACH = 32 | 4096, 2
NR_X86 = {"clone3": 435, "io_uring_setup": 425, "bpf": 321, "keyctl": 250, "setns": 308, "init_module": 175}
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


def readlink(path: str) -> str:
    return str(Path(path).readlink())


def result(call: Callable[[], Any]) -> str:
    ctypes.set_errno(0)
    try:
        value = call()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    if value == -1:
        return errno.errorcode.get(ctypes.get_errno(), "-1")
    return ""


def descriptors() -> dict[str, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the directory
            found[name] = readlink(f"/proc/self/fd/{name}").split(":")[0]
    return found


def status() -> dict[str, str]:
    with open("/proc/self/status") as file:
        fields = dict(line.rstrip("\n").split(":", 1) for line in file if ":" in line)
    names = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid", "Gid", "Groups")
    return {name: " ".join(fields[name].split()) for name in names}


def read(path: str) -> str:
    """What is to be seen at a path: content, names, or the errno."""
    try:
        if Path(path).is_dir():
            return " ".join(sorted(os.listdir(path)))
        with open(path, "rb") as file:
            return file.read(200).decode(errors="replace")
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")


def write(path: str) -> str:
    def attempt() -> None:
        os.close(os.open(path, os.O_WRONLY))

    return result(attempt)


def mounts() -> dict[str, list[str]]:
    """Mount point -> its own options and its optional fields (propagation); the topmost where several are stacked."""
    lines = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {line[4]: [*line[5].split(","), *line[6 : line.index("-")]] for line in lines}


def device(path: str) -> list[Any]:
    info = os.lstat(path)
    numbers = [os.major(info.st_rdev), os.minor(info.st_rdev)] if stat.S_ISCHR(info.st_mode) else []
    return [stat.filemode(info.st_mode)[0], *numbers]


def netlink(kind: int, family: int) -> str:
    """Ask the kernel to add an address (20) or a route (24), or to change a link (16); its answer's errno."""

    def attempt() -> int:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as channel:
            body = bytes([family, 24, 0, 0]) + (2).to_bytes(4, sys.byteorder)
            if kind == 20:
                body += (8).to_bytes(2, sys.byteorder) + (2).to_bytes(2, sys.byteorder) + bytes([10, 9, 8, 7])
            if kind == 16:  # bring lo down
                body = bytes([0, 0, 0, 0]) + (1).to_bytes(4, sys.byteorder) + bytes(4) + (1).to_bytes(4, sys.byteorder)
            if kind == 24:
                body = bytes([2, 0, 0, 0, 254, 4, 253, 1]) + bytes(4)
                body += (8).to_bytes(2, sys.byteorder) + (4).to_bytes(2, sys.byteorder) + (2).to_bytes(4, sys.byteorder)
            length = 16 + len(body)
            head = length.to_bytes(4, sys.byteorder) + kind.to_bytes(2, sys.byteorder)
            channel.sendto(head + (0x0405).to_bytes(2, sys.byteorder) + bytes(8) + body, (0, 0))
            code = int.from_bytes(channel.recv(4096)[16:20], sys.byteorder, signed=True)
            if code:
                raise OSError(-code, os.strerror(-code))
            return 0

    return result(attempt)


def other_socket(family: int, kind: int, protocol: int = 0) -> str:
    def attempt() -> None:
        socket.socket(family, kind, protocol).close()

    return result(attempt)


def terminal_injection() -> str:
    master, slave = os.openpty()
    try:
        return result(lambda: fcntl.ioctl(slave, 0x5412, b"x"))
    finally:
        os.close(master)
        os.close(slave)


def attempts() -> dict[str, str]:
    nothing = ctypes.c_char_p(None)
    tried = {
        "mount tmpfs": lambda: LIBC.mount(b"none", b"/mnt", b"tmpfs", 0, nothing),
        "mount proc": lambda: LIBC.mount(b"none", b"/mnt", b"proc", 0, nothing),
        "bind /proc": lambda: LIBC.mount(b"/proc", b"/mnt", nothing, 4096, nothing),
        "remount /proc/sys": lambda: LIBC.mount(b"none", b"/proc/sys", nothing, MS_REMOUNT_BIND, nothing),
        "umount /proc/sys": lambda: LIBC.umount2(b"/proc/sys", MNT_DETACH),
        "umount /dev/pts": lambda: LIBC.umount2(b"/dev/pts", MNT_DETACH),
        "unshare user": lambda: LIBC.unshare(CLONE_NEWUSER),
        "unshare mnt": lambda: LIBC.unshare(CLONE_NEWNS),
        "unshare net": lambda: LIBC.unshare(CLONE_NEWNET),
        "sethostname": lambda: LIBC.sethostname(b"x", 1),
        "mknod": lambda: os.mknod("/tmp/device", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        "chroot escape": lambda: os.chdir("/proc/1/root/../../../../.hutch-nowhere"),
        "clone3": lambda: LIBC.syscall(NR_X86["clone3"], 0, 0),
        "io_uring": lambda: LIBC.syscall(NR_X86["io_uring_setup"], 1, 0),
        "bpf": lambda: LIBC.syscall(NR_X86["bpf"], 0, 0, 0),
        "keyctl": lambda: LIBC.syscall(NR_X86["keyctl"], 0, 0, 0),
        "setns": lambda: LIBC.syscall(NR_X86["setns"], 0, 0),
        "init_module": lambda: LIBC.syscall(NR_X86["init_module"], 0, 0, 0),
    }
    return {
        **{name: result(call) for name, call in tried.items()},
        "add address": netlink(20, 2),
        "add route": netlink(24, 2),
        "lo down": netlink(16, 0),
        "packet socket": other_socket(17, socket.SOCK_RAW),
        "raw socket": other_socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "vsock": other_socket(40, socket.SOCK_STREAM),
        "alg socket": other_socket(38, socket.SOCK_SEQPACKET),
        "nf_tables": other_socket(16, socket.SOCK_RAW, 12),
        "terminal injection": terminal_injection(),
    }


def main() -> None:
    asked = json.loads(sys.argv[1])
    found = {
        "fds": descriptors(),
        "namespaces": {kind: readlink(f"/proc/self/ns/{kind}") for kind in KINDS},
        "status": status(),
        "uid_map": " ".join(read("/proc/self/uid_map").split()),
        "gid_map": " ".join(read("/proc/self/gid_map").split()),
        "hostname": os.uname().nodename,
        "environment": dict(os.environ),
        "dev": {name: device(f"/dev/{name}") for name in os.listdir("/dev")},
        "read": {path: read(path) for path in asked["read"]},
        "write": {path: write(path) for path in asked["write"]},
        "mounts": mounts(),
        "oom score": read("/proc/self/oom_score_adj").strip(),
        "pids": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "links": sorted(os.listdir("/sys/class/net")),
        "attempts": attempts(),
        "core limit": resource.getrlimit(resource.RLIMIT_CORE),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
