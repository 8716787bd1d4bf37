"""Makes, limits, kills and removes the cgroups of sandboxes, the same way on cgroup v2 and on v1 or hybrid hosts.

Must not decide what a limit is, and must not start processes: a sandbox's first process joins by itself, through fds.
Blocking calls (`kill`, `remove`, `sweep`) are bounded in time; an event loop runs them in a thread.

    v2, delegated (systemd Delegate=yes)      v2, else                    v1 / hybrid, in each hierarchy
    <own group>/                              <mount>/hutch/              <mount of memory, cpu, pids, freezer>/hutch/
      ├─ daemon            the daemon           └─ <instance>/              └─ <instance>/
      └─ hutch-<instance>/                           └─ <name>/  limits          └─ <name>/   limits
           └─ <name>/      limits

    open ─▶ create ─▶ (the sandbox writes "0" to each join fd) ─▶ kill ─▶ remove ─▶ close
      └──▶ sweep: the same kill and remove for what a crash left
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from sandbox.host import oom
from sandbox.host.cgroup_files import CgroupError, descend, make_group, number, read, remove_group, table, write
from sandbox.host.cgroup_layout import (
    NEEDED,
    Layout,
    Limits,
    Tree,
    choose,
    own_v2_group,
    parse_mounts,
    probe_files,
    remedy_for,
    settings,
)
from sandbox.host.errors import UnsupportedHost

__all__ = ["CgroupError", "Cgroups", "Group", "Limits", "Stats", "UnsupportedHost"]

# No dots: a group must never be mistaken for one of the kernel's control files, nor leave its directory.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_PATIENCE = 10.0


@dataclass(frozen=True)
class Stats:
    """What a group used: bytes now and at most, processes killed for memory, processes now, forks refused, processor time."""

    memory: int
    memory_peak: int
    oom_kills: int
    pids: int
    pids_refused: int
    cpu: float  # seconds of processor time


@dataclass
class Group:
    """The cgroup of one sandbox. `join_fds` are open, close-on-exec; whoever writes b"0" to each has joined."""

    name: str
    layout: Layout
    directories: tuple[Path, ...]
    join_fds: tuple[int, ...] = field(default=())
    limits: Limits | None = None

    def kill(self, patience: float = _PATIENCE) -> None:
        """SIGKILL every process in the group and below it, and wait until none is left."""
        deadline = time.monotonic() + patience
        pause = 0.0005
        while True:
            self._kill_once(deadline)
            left = self.pids()
            if not left:
                return
            if time.monotonic() > deadline:
                raise CgroupError(
                    f"kill cgroup {self.name}: {len(left)} processes (first: {min(left)}) outlived SIGKILL for"
                    f" {patience:g} s",
                    f"look at /proc/{min(left)}/stack for what blocks them in the kernel",
                )
            time.sleep(pause)
            pause = min(pause * 2, 0.05)

    def remove(self, patience: float = _PATIENCE) -> None:
        """Kill what is inside and remove the group with all groups below it. Does nothing if it is gone."""
        self.close_fds()
        # The usual case first: all processes are gone and one rmdir per hierarchy is enough.
        gone = [remove_group(directory) for directory in self.directories]
        if all(gone):
            return
        self.kill(patience)
        deadline = time.monotonic() + patience
        for directory in self.directories:
            for path in reversed(list(descend(directory))):
                while not remove_group(path):
                    if time.monotonic() > deadline:
                        raise CgroupError(f"remove cgroup {path}: still busy after {patience:g} s", "see cgroups(7)")
                    # The last process was killed, but the kernel hasn't finished taking it out of the group.
                    time.sleep(0.001)

    def limit(self, limits: Limits) -> None:
        """Put limits in force; those that are already cost nothing."""
        if limits == self.limits:
            return
        order = settings(self.layout.version, limits)
        if self.limits is not None and limits.memory > self.limits.memory:
            order = order[::-1]  # on v1, memory and swap together must not be below memory alone at any time
        self.limits = limits
        for setting in order:
            path = self._directory(setting.controller) / setting.file
            try:
                write(path, setting.value, "limit cgroup")
            except FileNotFoundError:
                if not setting.optional:
                    raise

    def close_fds(self) -> None:
        """Close the join fds: nobody can join from now on."""
        fds, self.join_fds = self.join_fds, ()
        for fd in fds:
            os.close(fd)

    def stats(self) -> Stats:
        """Read the counters. What this kernel doesn't count (the v2 peak before 5.19) is 0."""
        memory, pids = self._directory("memory"), self._directory("pids")
        if self.layout.version == 2:
            current, peak, events = "memory.current", "memory.peak", "memory.events"
        else:
            current, peak, events = "memory.usage_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control"
        return Stats(
            memory=number(memory / current),
            memory_peak=number(memory / peak),
            oom_kills=table(memory / events).get("oom_kill", 0),
            pids=number(pids / "pids.current"),
            pids_refused=table(pids / "pids.events").get("max", 0),
            cpu=self._cpu(),
        )

    def _cpu(self) -> float:
        """Seconds of processor time. Where v1 counts it elsewhere: of the processes, and of those that they waited for."""
        directory = self._directory("cpu")
        if self.layout.version == 2:
            return table(directory / "cpu.stat").get("usage_usec", 0) / 1e6
        if (directory / "cpuacct.usage").exists():
            return number(directory / "cpuacct.usage") / 1e9
        ticks = 0
        for pid in self.pids():
            with contextlib.suppress(OSError):
                ticks += sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def in_force(self) -> dict[str, str]:
        """The limits as the kernel has them: control file -> value."""
        found = {}
        for setting in settings(self.layout.version, self.limits or Limits(1 << 30, 1.0, 1)):
            with contextlib.suppress(CgroupError, FileNotFoundError):
                found[setting.file] = read(self._directory(setting.controller) / setting.file).strip()
        return found

    def killed_for_memory(self, since: float) -> list[str]:
        """The names of the processes that the kernel killed since a moment of the monotonic clock, as far as they are known."""
        return oom.victims(self._directory("memory"), since)

    def _directory(self, controller: str) -> Path:
        tree = self.layout.tree_of(controller)
        assert tree is not None, controller
        return self.directories[self.layout.trees.index(tree)]

    def pids(self) -> set[int]:
        """The processes in the group and below it, as this pid namespace numbers them."""
        # In every hierarchy: a process that is just joining may have entered only the first ones.
        found: set[int] = set()
        for directory in self.directories:
            for path in descend(directory):
                found.update(int(pid) for pid in read(path / "cgroup.procs").split())
        # 0 stands for a process outside this pid namespace; it can't be signalled from here.
        return found - {0}

    def _kill_once(self, deadline: float) -> None:
        if self.layout.version == 2:
            # Atomic in the kernel and recursive: no fork can escape it.
            with contextlib.suppress(FileNotFoundError):
                write(self.directories[0] / "cgroup.kill", "1", "kill cgroup")
            return
        freezer = self.layout.tree_of("freezer")
        state = self.directories[self.layout.trees.index(freezer)] / "freezer.state" if freezer else None
        try:
            # Frozen processes neither fork nor exit, so the pids read stay theirs until the signal is sent.
            if state and state.exists():
                write(state, "FROZEN", "freeze cgroup")
                while read(state).strip() == "FREEZING" and time.monotonic() < deadline:
                    time.sleep(0.0005)
            for pid in self.pids():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        finally:
            if state and state.exists():
                write(state, "THAWED", "thaw cgroup")


@dataclass
class Cgroups:
    """All groups of one daemon (its `instance`), below one parent per hierarchy."""

    layout: Layout
    parents: tuple[Path, ...]
    # Where a daemon of the same instance, started in another way, may have left groups.
    elsewhere: tuple[Path, ...] = ()

    @classmethod
    def open(cls, instance: str) -> Self:
        """Find out what the host has and make the parent groups; raise UnsupportedHost or CgroupError if it can't."""
        _check_name(instance)
        layout = detect()
        if layout.version == 2 and (own := delegated_group(layout.trees[0].root)) is not None:
            _move_aside(own)
            elsewhere = (layout.trees[0].root / "hutch" / instance,)
            layout = Layout(2, (Tree(own, NEEDED),))
            cgroups = cls(layout, (own / f"hutch-{instance}",), elsewhere)
        else:
            parents = tuple(tree.root / "hutch" / instance for tree in layout.trees)
            cgroups = cls(layout, parents)
        for tree, parent in zip(layout.trees, cgroups.parents, strict=True):
            cgroups._make_parent(tree, parent)
        return cgroups

    def create(self, name: str, limits: Limits) -> Group:
        """Make the group `name` with its limits written and its join fds open; on failure nothing is left."""
        _check_name(name)
        group = Group(name, self.layout, tuple(parent / name for parent in self.parents))
        made: list[Path] = []
        try:
            for directory in group.directories:
                make_group(directory, exist_ok=False)
                made.append(directory)
            group.limit(limits)
            for directory in group.directories:
                group.join_fds += (os.open(directory / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC),)
        except BaseException:
            group.close_fds()
            for directory in made:
                with contextlib.suppress(OSError):
                    directory.rmdir()
            raise
        return group

    def sweep(self, keep: set[str]) -> list[str]:
        """Kill and remove every group of this instance that isn't in `keep`; return the names of those removed."""
        gone: set[str] = set()
        for parents in (self.parents, self.elsewhere):
            left: set[str] = set()
            for parent in parents:
                with contextlib.suppress(FileNotFoundError), os.scandir(parent) as entries:
                    left.update(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
            for name in left - keep if parents is self.parents else left:
                Group(name, self.layout, tuple(parent / name for parent in parents)).remove()
                gone.add(name)
        return sorted(gone)

    def close(self) -> None:
        """Remove the parent groups where they are empty; another instance's groups and those still used stay."""
        for tree, parent in zip(self.layout.trees, self.parents, strict=True):
            for path in (parent, parent.parent):
                if path != tree.root:
                    with contextlib.suppress(OSError):
                        path.rmdir()

    def _make_parent(self, tree: Tree, parent: Path) -> None:
        if self.layout.version == 2:
            _enable(tree.root)
        for path in (parent.parent, parent):
            if path != tree.root:
                make_group(path, exist_ok=True)
                if self.layout.version == 2:
                    _enable(path)
        for controller, file in probe_files(self.layout.version):
            if controller in tree.controllers and not (parent / file).exists():
                raise UnsupportedHost(f"cgroup {parent} has no {file}", remedy_for(controller))


def detect() -> Layout:
    """Read this host's mount table and controllers and choose; changes nothing. Raises UnsupportedHost."""
    mounts = parse_mounts(Path("/proc/self/mountinfo").read_text())
    offered = read(mounts.v2 / "cgroup.controllers").split() if mounts.v2 else []
    return choose(mounts, frozenset(offered))


def delegated_group(mount: Path) -> Path | None:
    """The v2 group that the service manager handed to this process (Delegate=yes marks it with an xattr), if any."""
    own = own_v2_group(Path("/proc/self/cgroup").read_text())
    if own is None:
        return None
    group = mount / own.lstrip("/")
    # After an earlier open() in this process, or under an own leaf, the mark is on the parent.
    for candidate in (group, group.parent) if group.name == "daemon" else (group,):
        for name in ("trusted.delegate", "user.delegate"):
            with contextlib.suppress(OSError):
                if os.getxattr(candidate, name) == b"1":
                    return candidate
    return None


def _move_aside(own: Path) -> None:
    """Move every process of `own` into its leaf `daemon`: a v2 group with processes can't hand controllers down."""
    leaf = own / "daemon"
    make_group(leaf, exist_ok=True)
    for pid in read(own / "cgroup.procs").split():
        with contextlib.suppress(ProcessLookupError):
            write(leaf / "cgroup.procs", pid, "move process to cgroup")


def _enable(group: Path) -> None:
    wanted = " ".join(f"+{name}" for name in NEEDED)
    if set(NEEDED) <= set(read(group / "cgroup.subtree_control").split()):
        return
    try:
        write(group / "cgroup.subtree_control", wanted, "enable cgroup controllers")
    except CgroupError as error:
        raise UnsupportedHost(
            error.message, "start the daemon as a systemd service with Delegate=yes (see hutch.service)"
        ) from error


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"cgroup name {name!r}: only letters, digits, '-' and '_' (at most 100) are allowed")
