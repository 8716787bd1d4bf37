"""What is in force for a running sandbox, read back from the kernel: for an auditor who compares it with inside/profile.py.

Must not trust what the inside wrote: /proc of the host tells everything but the device nodes, and those are looked at without
following a link.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
from pathlib import Path
from typing import Any, Final

from sandbox.host.errors import HostError
from sandbox.host.sandbox import Sandbox
from sandbox.inside import profile, syscalls

_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
_SETS: Final = {
    "CapInh": "inheritable",
    "CapPrm": "permitted",
    "CapEff": "effective",
    "CapBnd": "bounding",
    "CapAmb": "ambient",
}
_CAPABILITIES: Final = {number: name for name, number in profile.CAPABILITIES.items()}
_SECCOMP: Final = {"0": "off", "1": "strict", "2": "filter"}
_LIMITS: Final = (
    "Max core file size",
    "Max open files",
    "Max locked memory",
    "Max processes",
    "Max file size",
    "Max stack size",
)


def in_force(sandbox: Sandbox) -> dict[str, Any]:
    """The walls of a sandbox as JSON; blocking. Raises HostError when it has just ended."""
    process = sandbox.process
    proc = Path(f"/proc/{process.pid}")
    try:
        found = _read(proc, sandbox)
    except (OSError, LookupError, ValueError) as error:
        raise HostError(f"cannot inspect the sandbox: {error}", "it may have just ended") from error
    if not process.alive:  # what was read may be of another process with its number
        raise HostError("cannot inspect the sandbox: it has just ended", "run it again")
    return found


def _read(proc: Path, sandbox: Sandbox) -> dict[str, Any]:
    status = dict(line.split(":\t", 1) for line in (proc / "status").read_text().splitlines() if ":\t" in line)
    return {
        "pid": sandbox.process.pid,
        "address": sandbox.lease.address,
        "namespaces": {name: _namespace(proc, name) for name in _NAMESPACES if (proc / "ns" / name).exists()},
        "uid_map": _map(proc / "uid_map"),
        "gid_map": _map(proc / "gid_map"),
        "capabilities": {name: _capabilities(status[field]) for field, name in _SETS.items()},
        "no_new_privs": status["NoNewPrivs"] == "1",
        "seccomp": {
            "mode": _SECCOMP.get(status["Seccomp"], status["Seccomp"]),
            "filters": int(status.get("Seccomp_filters", 0)),
        },
        "oom_score_adj": int((proc / "oom_score_adj").read_text()),
        "rlimits": _rlimits(proc / "limits"),
        "cgroup": sandbox.lease.group.in_force(),
        "mounts": [_mount(line) for line in (proc / "mountinfo").read_text().splitlines()],
        "devices": _devices(proc),
        "sysctls": _sysctls(sandbox.lease.netns),
        "profile": {
            "capabilities": sorted(profile.CAPABILITIES),
            "masked": [f"/{path}" for path in profile.MASKED_PATHS],
            "read_only": [f"/{path}" for path in profile.READ_ONLY_PATHS],
        },
    }


def _namespace(proc: Path, name: str) -> dict[str, Any]:
    number = (proc / "ns" / name).stat().st_ino
    return {"id": number, "shared_with_daemon": number == Path(f"/proc/self/ns/{name}").stat().st_ino}


def _map(path: Path) -> list[list[int]]:
    """Each line: first id inside, first id outside, how many."""
    return [[int(number) for number in line.split()] for line in path.read_text().splitlines()]


def _capabilities(text: str) -> list[str]:
    mask = int(text, 16)
    return [_CAPABILITIES.get(number, f"cap_{number}") for number in range(mask.bit_length()) if mask & 1 << number]


def _rlimits(path: Path) -> dict[str, list[str]]:
    lines = (re.split(r"\s{2,}", line) for line in path.read_text().splitlines())
    return {name.removeprefix("Max "): [soft, hard] for name, soft, hard, *_ in lines if name in _LIMITS}


def _mount(line: str) -> dict[str, str]:
    fields = line.split(" ")
    path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
    return {"path": path, "type": fields[fields.index("-") + 1], "options": fields[5]}


def _devices(proc: Path) -> dict[str, list[int]]:
    """The character and block devices of its /dev: name -> major and minor."""
    found: dict[str, list[int]] = {}
    with contextlib.ExitStack() as stack:
        root = os.open(proc / "root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, root)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK
        directory = syscalls.openat2(root, "dev", flags, syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_IN_ROOT)
        stack.callback(os.close, directory)
        for name in sorted(os.listdir(directory)):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                found[os.fsencode(name).decode("utf-8", "backslashreplace")] = [
                    os.major(status.st_rdev),
                    os.minor(status.st_rdev),
                ]
    return found


def _sysctls(netns: int) -> dict[str, str]:
    """Those of the profile, read by a thread that has entered the network namespace and then ends."""
    found: dict[str, str] = {}

    def read() -> None:
        with contextlib.suppress(OSError):
            os.setns(netns, os.CLONE_NEWNET)
            for name in profile.NETWORK_SYSCTLS:
                found[f"net/{name}"] = " ".join(Path("/proc/sys/net", name).read_text().split())

    thread = threading.Thread(target=read)
    thread.start()
    thread.join()
    return found
