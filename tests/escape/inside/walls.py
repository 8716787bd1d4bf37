"""Attacks on a sandbox's walls: descriptors, processes, roots, namespaces, mounts, its identity on the host.

Standard library only; runs inside. Opens for writing, but never writes to anything that could be the host's.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from common import ASKED, LIBC, attack, read, succeeded, syscall, works

NAMESPACES = {
    "mount": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000,
    "net": 0x40000000, "time": 0x80,
}  # fmt: skip


def processes() -> list[str]:
    return [name for name in os.listdir("/proc") if name.isdigit() and name != str(os.getpid())]


@attack
def descriptors_of_its_own() -> str:
    links = {}
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            links[name] = str(Path(f"/proc/self/fd/{name}").readlink())
    # Those of this program's runner: the pipe for the answer, the directory that is being listed.
    ours = {f"/proc/{os.getpid()}/fd", "/proc/self/fd"}
    return ", ".join(
        f"{name} → {target}"
        for name, target in links.items()
        if target not in ours and not target.startswith(("pipe:", "/dev/pts/", "/dev/null"))
    )


@attack
def descriptors_of_init() -> str:
    found = []
    for name in os.listdir("/proc/1/fd"):
        target = str(Path(f"/proc/1/fd/{name}").readlink())
        if not target.startswith(("pipe:", "anon_inode:", "/dev/null")):
            found.append(f"{name} → {target}")
    return ", ".join(found)


@attack
def the_programs_of_the_host() -> str:
    """The file behind /proc/1/exe, opened for writing: how container runtimes were overwritten."""
    flags = {"write": os.O_WRONLY, "read and write": os.O_RDWR, "append": os.O_WRONLY | os.O_APPEND}
    return succeeded({name: lambda flag=flag: os.open("/proc/1/exe", flag) for name, flag in flags.items()})


def identity(path: str) -> tuple[int, int]:
    info = Path(path).stat()
    return info.st_dev, info.st_ino


@attack
def above_the_root() -> str:
    """Up from the working directory, and out of a chroot within a directory that is held open."""
    root, listing = identity("/"), sorted(os.listdir("/"))
    for _ in range(64):
        os.chdir("..")
    if identity(".") != root:
        return f"'..' leads to {os.listdir('.')[:9]}"
    os.makedirs("/tmp/cell", exist_ok=True)
    outside = os.open("/", os.O_RDONLY)
    os.chroot("/tmp/cell")
    os.fchdir(outside)
    for _ in range(64):
        os.chdir("..")
    os.chroot(".")
    now = sorted(os.listdir("/"))
    return "" if identity("/") == root and set(now) <= {*listing, "cell"} else f"out of the chroot lies {now[:9]}"


@attack
def other_roots() -> str:
    """The roots and working directories of all processes that are to be seen."""
    here, found = identity("/"), []
    for pid in processes():
        for name in ("root", "cwd"):
            with suppress(OSError):
                path = f"/proc/{pid}/{name}"
                if name == "root" and identity(path) != here:
                    found.append(f"{path} → {os.listdir(path)[:5]}")
                elif not (target := str(Path(path).readlink())).startswith("/"):
                    found.append(f"{path} → {target}")
    return ", ".join(found)


@attack
def traces_of_the_host() -> str:
    """Paths and variables of the host (given by the test) in what /proc tells of mounts and processes."""
    found = []
    for secret in ASKED["secrets"]:
        for pid in ("self", *processes()):
            for name in ("mountinfo", "environ", "cmdline", "maps"):
                with suppress(OSError):
                    if secret.encode() in read(f"/proc/{pid}/{name}", 1 << 20):
                        found.append(f"{secret} in /proc/{pid}/{name}")
    return ", ".join(found)


@attack
def processes_of_the_host() -> str:
    seen = [line for line in read("/proc/self/status").decode().splitlines() if line.startswith("NSpid")]
    init = read("/proc/1/cmdline").split(b"\0")[0]
    many = len(processes()) > 100
    return "" if len(seen[0].split()) == 2 and init == b"init" and not many else f"{seen} {init!r} {len(processes())}"


@attack
def tracing_init() -> str:
    """Root inside may trace init, which is its own; an ordinary user may not."""
    if os.geteuid() == 0:
        return ""
    attempts: dict[str, Callable[[], object]] = {
        "seize": lambda: syscall(101, 0x4206, 1, 0, 0),
        "memory": lambda: os.open("/proc/1/mem", os.O_RDONLY),
        "environment": lambda: read("/proc/1/environ"),
        "signal": lambda: os.kill(1, 0),
    }
    return succeeded(attempts)


@attack
def new_namespaces() -> str:
    attempts: dict[str, Callable[[], object]] = {}
    for name, flag in NAMESPACES.items():
        attempts[f"unshare {name}"] = lambda flag=flag: _unshare(flag)
        if name != "time":  # clone's low byte is a signal
            attempts[f"clone {name}"] = lambda flag=flag: _clone(flag)
            attempts[f"clone {name}, high bits set"] = lambda flag=flag: _clone(flag | 1 << 40)
    attempts["clone3"] = _clone3
    return succeeded(attempts)


def _unshare(flag: int) -> None:
    """In a child: what it leaves must not change what the next attempt finds."""
    _in_child(lambda: syscall(272, flag))


def _in_child(call: Callable[[], object]) -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0 if works(call) else 1)
    if os.waitpid(pid, 0)[1]:
        raise PermissionError


def _clone(flags: int) -> None:
    pid = syscall(56, flags | 17, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _clone3() -> None:
    arguments = ctypes.create_string_buffer(struct.pack("11Q", 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88)
    pid = syscall(435, arguments, 88)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


@attack
def joining_namespaces() -> str:
    attempts: dict[str, Callable[[], object]] = {"pidfd": lambda: syscall(308, syscall(434, 1, 0), 0x20000)}
    for kind in ("mnt", "pid", "net", "user", "cgroup"):
        attempts[kind] = lambda kind=kind: _in_child(
            lambda: syscall(308, os.open(f"/proc/1/ns/{kind}", os.O_RDONLY), 0)
        )
    return succeeded(attempts)


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    if LIBC.mount(source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), data.encode()) != 0:
        raise OSError(ctypes.get_errno(), "mount")


def umount(target: str) -> None:
    if LIBC.umount2(target.encode(), 2) != 0:
        raise OSError(ctypes.get_errno(), "umount")


@attack
def mounting() -> str:
    os.makedirs("/tmp/mnt", exist_ok=True)
    kinds = ("tmpfs", "proc", "sysfs", "devpts", "mqueue", "cgroup2", "ramfs")
    attempts: dict[str, Callable[[], object]] = {
        f"mount {kind}": lambda kind=kind: mount("none", "/tmp/mnt", kind) for kind in kinds
    }
    attempts |= {
        "mount cgroup": lambda: mount("none", "/tmp/mnt", "cgroup", 0, "rdma"),
        "bind /proc": lambda: mount("/proc", "/tmp/mnt", "none", 4096),
        "remount /sys": lambda: mount("none", "/sys", "none", 32 | 4096),
        "remount /proc/sys": lambda: mount("none", "/proc/sys", "none", 32 | 4096),
        "shared /": lambda: mount("none", "/", "none", 1 << 20),
        "umount /proc/sys": lambda: umount("/proc/sys"),
        "umount /sys/firmware": lambda: umount("/sys/firmware"),
        "umount /dev/shm": lambda: umount("/dev/shm"),
        "open_tree": lambda: syscall(428, -100, b"/", 1),
        "fsopen": lambda: syscall(430, b"tmpfs", 0),
        "fspick": lambda: syscall(433, -100, b"/", 0),
        "mount_setattr": lambda: syscall(442, -100, b"/sys", 0, struct.pack("4Q", 0, 1, 0, 0), 32),
        "open_tree_attr": lambda: syscall(467, -100, b"/", 1, struct.pack("4Q", 0, 0, 0, 0), 32),
    }
    return succeeded(attempts)


@attack
def identity_on_the_host() -> str:
    _, outside, count = map(int, read("/proc/self/uid_map").split()[:3])
    return "" if outside >= 0x50000000 and count == 65536 else f"uid 0 inside is {outside} outside, of {count}"
