"""What the host looks like, so that a test can show that it looks the same before and after.

Must only read: /proc, /sys and `nft list ruleset`. It judges differences, it never cleans up.
"""

from __future__ import annotations

import gc
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

PATIENCE = 10.0
_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
_SYSCTLS = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/forwarding")

Kinds = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Process:
    """One process of the host; `start` makes a reused pid another process."""

    pid: int
    parent: int
    start: int
    name: str
    state: str
    mnt: str
    cgroup: str

    @property
    def in_hutch(self) -> bool:
        """Whether it is in a group that Hutch made."""
        return "/hutch" in self.cgroup


def look(daemon: int | None = None) -> Kinds:
    """Everything that could leak, by kind: an identity and a description each.

    While a daemon runs, what belongs to itself (its helpers, its pool of network namespaces) is left out;
    what belongs to a sandbox never is.
    """
    gc.collect()
    processes = _processes()
    ours = _ours(processes)
    infra = _infrastructure(processes, daemon)
    strays = [process for process in ours if process.pid not in infra]
    return {
        "process": {f"{p.pid}/{p.start}": p.name for p in strays if p.state not in "ZX"},
        "namespace": dict(_namespaces(strays)),
        "link": dict.fromkeys(os.listdir("/sys/class/net"), ""),
        "nft rule": dict.fromkeys(_nft(), ""),
        "sysctl": {f"{name}={_text(Path('/proc/sys') / name).strip()}": "" for name in _SYSCTLS},
        "mount": dict(_mounts()),
        # A running daemon's pool makes and removes groups at any time; what stays in one shows as a process.
        "cgroup": {} if daemon else dict.fromkeys(_cgroups(), ""),
        "fd": dict(_fds()),
        "file": {str(path): "" for path in Path("/run").glob("hutch*")},
    }


def difference(before: Kinds, after: Kinds) -> list[str]:
    """What is there after but wasn't before (and settings that changed), one line each."""
    return [
        f"{kind} {identity} {text}".rstrip()
        for kind, things in after.items()
        for identity, text in things.items()
        if identity not in before[kind] and not (kind == "cgroup" and _instance(identity) in before[kind])
    ]


def settled_difference(before: Kinds, daemon: int | None = None, patience: float = PATIENCE) -> list[str]:
    """The difference once it has settled: the kernel and init need a moment to take the dead away."""
    deadline, pause = time.monotonic() + patience, 0.01
    while True:
        found = difference(before, look(daemon))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(pause)
        pause = min(pause * 2, 0.5)


def _processes() -> dict[int, Process]:
    found: dict[int, Process] = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        with suppress(OSError, ValueError, IndexError):
            text = Path(f"/proc/{entry}/stat").read_text()
            name, rest = text[text.index("(") + 1 : text.rindex(")")], text[text.rindex(")") + 2 :].split()
            mnt = ""
            with suppress(OSError):
                mnt = str(Path(f"/proc/{entry}/ns/mnt").readlink())
            cgroup = _text(Path(f"/proc/{entry}/cgroup"))
            found[int(entry)] = Process(int(entry), int(rest[1]), int(rest[19]), name, rest[0], mnt, cgroup)
    return found


def _ours(processes: dict[int, Process]) -> list[Process]:
    """Descendants of this process, and orphans that started in its cgroup or are in one of Hutch's."""
    me = processes[os.getpid()]

    ancestors, pid = {me.pid}, me.parent
    while pid in processes and pid != 1:
        ancestors.add(pid)
        pid = processes[pid].parent

    def is_ours(process: Process) -> bool:
        in_hutch = process.in_hutch
        for _ in range(1000):
            if process.parent == me.pid:
                return True
            if process.parent in ancestors:
                return False
            if process.parent not in processes or process.parent == 1:
                return process.cgroup == me.cgroup or (in_hutch and process.in_hutch)
            process = processes[process.parent]
        return False

    # What started this process, and what else that started, isn't ours.
    return [p for p in processes.values() if p.pid not in ancestors and is_ours(p)]


def _infrastructure(processes: dict[int, Process], daemon: int | None) -> set[int]:
    if daemon is None or daemon not in processes:
        return set()
    inside, found = processes[daemon].mnt, {daemon}
    # The daemon's helpers live in its own mount namespace or in that of a helper that made them (the filter's workers), are
    # its own children like the filter, or stand by to become a sandbox or a command; a sandbox never is any of these.
    while True:
        helpers = {
            p.pid
            for p in processes.values()
            if p.parent == daemon
            or (p.parent in found and (p.mnt in (inside, processes[p.parent].mnt) or p.name == "hutch-standby"))
        }
        more = helpers - found
        if not more:
            return found
        found |= more


def _namespaces(processes: list[Process]) -> Iterator[tuple[str, str]]:
    own = {str(Path(f"/proc/self/ns/{kind}").readlink()) for kind in _NAMESPACES}
    for process in processes:
        links = [f"/proc/{process.pid}/ns/{kind}" for kind in _NAMESPACES]
        with suppress(OSError):
            links += [f"/proc/{process.pid}/fd/{fd}" for fd in os.listdir(f"/proc/{process.pid}/fd")]
        for link in links:
            with suppress(OSError):
                target = str(Path(link).readlink())
                if target.split(":[")[0] in _NAMESPACES and target not in own:
                    yield target, f"held by {process.name} ({process.pid})"


def _nft() -> list[str]:
    with suppress(FileNotFoundError):
        return subprocess.run(
            ["nft", "list", "ruleset"], check=False, capture_output=True, text=True, timeout=20
        ).stdout.splitlines()
    return []


def _mounts() -> Iterator[tuple[str, str]]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, about = line.split(" "), line.partition(" - ")[2]
        if fields[4] != "/run/netns":  # the first `ip netns add` of a host mounts it, for good
            yield f"{fields[0]} {fields[4]}", about


def _cgroups() -> Iterator[str]:
    """Groups that Hutch made, whoever's they are."""
    for top, directories, _ in os.walk("/sys/fs/cgroup"):
        if any(part.startswith("hutch") and not part.endswith(".service") for part in Path(top).parts):
            yield top
        directories.sort()


def _instance(group: str) -> str:
    """The part of a group's path that stands for one daemon: another one, running beside the tests, may make groups."""
    parts = Path(group).parts
    first = next(i for i, part in enumerate(parts) if part.startswith("hutch") and not part.endswith(".service"))
    return str(Path(*parts[: first + (2 if parts[first] == "hutch" else 1)]))


def _fds() -> Iterator[tuple[str, str]]:
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            target = str(Path(f"/proc/self/fd/{fd}").readlink())
            if not target.startswith("/proc/"):
                yield f"{fd} -> {target}", ""


def _text(path: Path) -> str:
    with suppress(OSError):
        return path.read_text()
    return ""
