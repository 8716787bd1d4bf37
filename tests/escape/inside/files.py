"""Attacks through files: masked paths, the kernel's settings, devices, privileged programs, overlayfs's own attributes.

Standard library only; runs inside. Opens for writing, but never writes to anything that could be the host's.
"""

from __future__ import annotations

import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from common import attack, read, succeeded, syscall, works

MASKED = (
    "/proc/kcore", "/proc/keys", "/proc/kallsyms", "/proc/kmsg", "/proc/modules", "/proc/timer_list",
    "/proc/interrupts", "/proc/vmallocinfo", "/sys/firmware", "/sys/fs/cgroup", "/sys/fs/bpf", "/sys/kernel/debug",
    "/sys/kernel/tracing", "/sys/kernel/security", "/sys/module", "/sys/dev/block",
)  # fmt: skip
READ_ONLY = (
    "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe", "/proc/sys/kernel/ns_last_pid", "/proc/sysrq-trigger",
    "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register",
    "/proc/irq/default_smp_affinity", "/proc/pressure/cpu", "/sys/kernel/uevent_helper", "/sys/class/net/lo/mtu",
    "/sys/power/state", "/sys/kernel/mm/ksm/run", "/run/hutch",
)  # fmt: skip
NOBODY = 65534


@attack
def masked_paths() -> str:
    def look(path: str) -> bool:
        return bool(os.listdir(path)) if Path(path).is_dir() else bool(os.read(os.open(path, os.O_NONBLOCK), 64))

    found = []
    for path in MASKED:
        with suppress(OSError):
            if look(path):
                found.append(path)
    return ", ".join(found)


@attack
def kernel_settings() -> str:
    def opened(path: str) -> None:
        flags = os.O_WRONLY if not Path(path).is_dir() else os.O_TMPFILE | os.O_WRONLY
        os.close(os.open(path, flags | os.O_NONBLOCK))

    return succeeded({path: lambda path=path: opened(path) for path in READ_ONLY})


@attack
def everything_writable_in_proc() -> str:
    """Every file of /proc that belongs to no process, opened for writing."""
    return ", ".join(path for path in _files("/proc") if works(lambda path=path: os.close(os.open(path, 0o4001))))


def _files(top: str) -> Iterator[str]:
    for directory, names, files in os.walk(top):
        if directory == top:
            names[:] = [name for name in names if not name.isdigit() and name not in ("self", "thread-self")]
        yield from (path for name in files if stat.S_ISREG(os.lstat(path := f"{directory}/{name}").st_mode))


@attack
def devices() -> str:
    numbers = {"mem": (stat.S_IFCHR, 1, 1), "kmsg": (stat.S_IFCHR, 1, 11), "fuse": (stat.S_IFCHR, 10, 229)}
    numbers |= {"tun": (stat.S_IFCHR, 10, 200), "loop": (stat.S_IFBLK, 7, 0), "disk": (stat.S_IFBLK, 254, 0)}
    attempts: dict[str, Callable[[], object]] = {}
    for name, (kind, major, minor) in numbers.items():
        for place in ("/tmp", "/dev"):
            attempts[f"{place}/{name}"] = lambda p=place, mode=kind | 0o666, a=major, b=minor: _make_node(p, mode, a, b)
    # Overlayfs takes a device 0:0 for a file that was deleted.
    attempts["whiteout"] = lambda: _make_node("/tmp", stat.S_IFCHR | 0o666, 0, 0)
    there = ("mem", "kmsg", "fuse", "kvm", "net/tun", "console", "vda", "sda", "loop-control", "kfd", "dri")
    attempts |= {f"/dev/{name}": lambda name=name: Path(f"/dev/{name}").stat() for name in there}
    return succeeded(attempts)


def _make_node(place: str, mode: int, major: int, minor: int) -> None:
    path = f"{place}/node-{os.getpid()}"
    os.mknod(path, mode, os.makedev(major, minor))
    Path(path).unlink()  # where it could be made, this may be the host


@attack
def capabilities() -> str:
    """More than the short list, at once or by asking."""
    limits = (
        0x800405FB  # chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
    )
    fields = dict(line.split(":", 1) for line in read("/proc/self/status").decode().splitlines() if ":" in line)
    sets = {name: int(fields[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    found = [f"{name}={value:x}" for name, value in sets.items() if value & ~limits]
    everything = struct.pack("=6I", *[0xFFFFFFFF, 0xFFFFFFFF, 0, 0x1FF, 0x1FF, 0])
    if works(lambda: syscall(126, struct.pack("=2I", 0x20080522, 0), everything)):
        found.append("capset")
    if fields["NoNewPrivs"].strip() != "1" or fields["Seccomp"].strip() != "2":
        found.append("no_new_privs or seccomp is off")
    return ", ".join(found)


@attack
def programs_with_privileges() -> str:
    """Set-uid and file-capability programs that root inside makes for an ordinary user; sudo and the like, for one who is it."""
    found = []
    if os.geteuid() == 0:
        for name in ("suid", "caps"):
            shutil.copy("/usr/bin/cat", f"/tmp/{name}")
        Path("/tmp/suid").chmod(0o4755)
        caps = struct.pack("<5I", 0x02000001, 0b11, 0, 0, 0)  # chown and dac_override, which root inside has
        with suppress(OSError):
            os.setxattr("/tmp/caps", "security.capability", caps)
        programs = ["/tmp/suid", "/tmp/caps"]
    else:
        programs = []
        with suppress(OSError):
            said = subprocess.run(["su", "-c", "id -u"], capture_output=True, text=True, timeout=10, check=False)
            found += ["su"] if said.stdout.strip() == "0" else []
    for program in programs:
        status = subprocess.run(
            [program, "/proc/self/status"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, text=True,
            check=False,
        ).stdout  # fmt: skip
        fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        if fields and (int(fields["CapEff"], 16) or fields["Uid"].split()[1] != str(NOBODY)):
            found.append(f"{program}: CapEff {fields['CapEff'].strip()}, uid {fields['Uid'].split()[1]}")
    return ", ".join(found)


@attack
def attributes_of_overlayfs() -> str:
    """Extended attributes by which overlayfs would show, or snapshots keep, other files."""
    os.makedirs("/tmp/attributes", exist_ok=True)
    names = ("opaque", "redirect", "metacopy", "origin", "overlay.opaque")
    return succeeded(
        {
            f"trusted.overlay.{n}": lambda n=n: os.setxattr("/tmp/attributes", f"trusted.overlay.{n}", b"y")
            for n in names
        }
    )
