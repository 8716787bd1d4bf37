"""Which cgroup hierarchies a host offers, and which files a limit is written to: pure decisions about text.

Must not touch the host: everything it knows is handed to it (the mount table, controller lists), so tables test it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from sandbox.host.errors import UnsupportedHost

NEEDED = ("memory", "cpu", "pids")

# The period over which the CPU limit is counted: the kernel's default, long enough to cost nothing.
_PERIOD_US = 100_000
# The kernel refuses a quota below one millisecond.
_MIN_QUOTA_US = 1_000

_REMEDIES = {
    "memory": "boot the kernel with cgroup_enable=memory (and without cgroup_disable=memory)",
    "cpu": "boot a kernel built with CONFIG_CGROUP_SCHED and CONFIG_CFS_BANDWIDTH, without cgroup_disable=cpu",
    "pids": "boot a kernel built with CONFIG_CGROUP_PIDS, without cgroup_disable=pids",
}


@dataclass(frozen=True)
class Limits:
    """What one sandbox may use: bytes of memory (swap included), CPUs' worth of time, processes and threads."""

    memory: int
    cpus: float
    pids: int

    def __post_init__(self) -> None:
        if self.memory < 1 << 20 or not 0.01 <= self.cpus <= 1 << 16 or not 1 <= self.pids <= 1 << 22:
            raise ValueError(f"limits out of range: {self}: at least 1 MiB of memory, 0.01 CPUs and 1 process")


@dataclass(frozen=True)
class Mounts:
    """Where cgroup file systems are mounted: the v2 one, and for v1 a directory per controller."""

    v2: Path | None
    v1: dict[str, Path]


@dataclass(frozen=True)
class Tree:
    """One hierarchy that groups are made in, and what it controls. v2 has one of them, v1 one for each mount."""

    root: Path
    controllers: tuple[str, ...]


@dataclass(frozen=True)
class Layout:
    """What Hutch will use on this host. The freezer is only there on v1, where it makes killing exact."""

    version: int
    trees: tuple[Tree, ...]

    def tree_of(self, controller: str) -> Tree | None:
        return next((tree for tree in self.trees if controller in tree.controllers), None)


@dataclass(frozen=True)
class Setting:
    """One value to write into one control file. Optional ones exist only on some kernels."""

    controller: str
    file: str
    value: str
    optional: bool = False


def parse_mounts(mountinfo: str) -> Mounts:
    """Find cgroup mounts in the text of /proc/self/mountinfo. The first mount of a hierarchy's root wins."""
    v2: Path | None = None
    v1: dict[str, Path] = {}
    for line in mountinfo.splitlines():
        left, separator, right = line.partition(" - ")
        fields, about = left.split(" "), right.split(" ")
        if not separator or len(fields) < 5 or len(about) < 3:
            continue
        point = Path(_unescape(fields[4]))
        if about[0] == "cgroup2":
            v2 = v2 or point
        elif about[0] == "cgroup":
            for option in about[2].split(","):
                v1.setdefault(option, point)
    return Mounts(v2, v1)


def choose(mounts: Mounts, v2_controllers: frozenset[str]) -> Layout:
    """Take v2 where it has all that is needed, else v1; raise UnsupportedHost naming the first missing controller."""
    if mounts.v2 is not None and v2_controllers.issuperset(NEEDED):
        return Layout(2, (Tree(mounts.v2, NEEDED),))
    for controller in NEEDED:
        if controller in mounts.v1:
            continue
        if controller in v2_controllers:
            raise UnsupportedHost(
                f"cgroup controller {controller!r} is on cgroup v2 while others are on v1",
                "boot with systemd.unified_cgroup_hierarchy=1 so that all of them are on v2",
            )
        raise UnsupportedHost(
            f"cgroup controller {controller!r} is neither on cgroup v2 nor mounted as v1", _REMEDIES[controller]
        )
    by_root: dict[Path, list[str]] = {}
    for controller in (*NEEDED, "freezer"):
        if controller in mounts.v1:
            by_root.setdefault(mounts.v1[controller], []).append(controller)
    return Layout(1, tuple(Tree(root, tuple(names)) for root, names in by_root.items()))


def own_v2_group(proc_self_cgroup: str) -> str | None:
    """The path of the calling process in cgroup v2, from the text of /proc/self/cgroup."""
    for line in proc_self_cgroup.splitlines():
        if line.startswith("0::/"):
            return line.removeprefix("0::")
    return None


def settings(version: int, limits: Limits) -> tuple[Setting, ...]:
    """The control files and values that enforce `limits`, in the order in which they have to be written."""
    quota = max(_MIN_QUOTA_US, round(limits.cpus * _PERIOD_US))
    if version == 2:
        return (
            Setting("memory", "memory.max", str(limits.memory)),
            # Absent where the kernel has no swap: then there is nothing to forbid.
            Setting("memory", "memory.swap.max", "0", optional=True),
            # One process out of memory ends the whole sandbox: half of one is worse than none.
            Setting("memory", "memory.oom.group", "1"),
            Setting("cpu", "cpu.max", f"{quota} {_PERIOD_US}"),
            Setting("pids", "pids.max", str(limits.pids)),
        )
    return (
        Setting("memory", "memory.limit_in_bytes", str(limits.memory)),
        # Memory and swap together; never below the limit above, so it is written after it.
        Setting("memory", "memory.memsw.limit_in_bytes", str(limits.memory), optional=True),
        Setting("memory", "memory.swappiness", "0", optional=True),
        # Buffers of sockets, which v1 counts apart, and only once they have a limit.
        Setting("memory", "memory.kmem.tcp.limit_in_bytes", str(limits.memory // 4), optional=True),
        # The period of a fresh group is the kernel's default, _PERIOD_US.
        Setting("cpu", "cpu.cfs_quota_us", str(quota)),
        Setting("pids", "pids.max", str(limits.pids)),
    )


def probe_files(version: int) -> tuple[tuple[str, str], ...]:
    """(controller, file) pairs that must exist in a fresh group, or the kernel can't enforce what is promised."""
    return tuple((s.controller, s.file) for s in settings(version, Limits(1 << 30, 1.0, 1)) if not s.optional)


def remedy_for(controller: str) -> str:
    """What an administrator does when `controller` is missing."""
    return _REMEDIES[controller]


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
