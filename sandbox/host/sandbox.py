"""One sandbox, from its lease to its release, and the commands that join it.

    async with sandboxes.open(spec, sink, on_network) as sandbox:      lease ─ limits ─ policy ─ plan ─ start
        await sandbox.wait()                                           … and in reverse on the way out, whatever happened

Every acquisition is pushed on one AsyncExitStack; nothing here is named in the file system but the lease's cgroup and the task's
`work` directory, so a crash leaves only those two kinds of things for the sweep.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rootfs.tree import remove_tree
from rootfs.users import ROOT, User
from sandbox.host import fault, streams
from sandbox.host.cgroup import Limits
from sandbox.host.channel import FdTable, Process, SpawnerDied
from sandbox.host.errors import HostError
from sandbox.host.filter import Filter, Record
from sandbox.host.leases import Lease, Leases
from sandbox.host.standby import Standby, stand_by
from sandbox.host.streams import Pipe, Pump, Sink
from sandbox.inside import syscalls
from sandbox.inside.plan import JoinPlan, StartPlan

_LAST_OUTPUT = 2.0
_HEAD_START: Final = 0.02  # seconds that a command has the processor for itself before the next one's process is forked
_BIND: Final = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True)
class SandboxSpec:
    """What a phase needs. `layers` bottom first; `writable` is a directory that holds `upper` (work is made in it).

    With `redirects` directories of the layers can be renamed; such an `upper` makes no layer.
    `policy` is the filter's; `files` and `binds` appear below /run/hutch, read-only; with `executable` those files can be run.
    `user`: whom its command, and each that joins, runs as. Limits: bytes, cores, processes.
    """

    layers: tuple[Path, ...]
    writable: Path
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    policy: Record
    limits: Limits
    files: Mapping[str, bytes] = field(default_factory=dict)
    binds: Mapping[str, Path] = field(default_factory=dict)
    redirects: bool = False
    executable: bool = False
    user: User = ROOT


@dataclass(frozen=True)
class Command:
    """A command for a running sandbox."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


class Sandbox:
    """A running sandbox: wait for its command, or run another one in it."""

    def __init__(self, factory: Sandboxes, spec: SandboxSpec, lease: Lease, process: Process) -> None:
        self._factory = factory
        self._pumps: list[Pump] = []
        self.spec = spec
        self.lease = lease
        self.process = process
        self._ending = False
        self._next: asyncio.Task[Standby] | None = None

    async def wait(self) -> int:
        """Wait for the command's end and all its output; the exit code (128 + n when signal n ended it)."""
        status = await self.process.wait()
        await streams.finish(self._pumps, _LAST_OUTPUT)
        return exit_code(status)

    async def change_policy(self, policy: Record) -> None:
        """Put another policy in force; what it no longer allows is closed when this returns. Raises HostError."""
        await self._factory.filter.change(self.lease.address, policy)

    def kill(self) -> None:
        """End everything in the sandbox at once."""
        self.process.kill()

    def terminate(self) -> None:
        """Ask the command to end (SIGTERM to its init, which passes it on)."""
        self.process.kill(signal.SIGTERM)

    @contextlib.asynccontextmanager
    async def run(self, command: Command, sink: Sink, wants_stdin: bool) -> AsyncIterator[Joined]:
        """Run `command` in the sandbox with pipes; it is killed when the block is left before its end."""
        async with contextlib.AsyncExitStack() as stack:
            owner = self.lease.uid_base + self.spec.user.uid
            stdin, stdout, stderr = (_pipe(stack, owner) for _ in range(3))
            table, plan = self._join_plan(command)
            plan = plan._replace(
                stdin=table.add(stdin.read), stdout=table.add(stdout.write), stderr=table.add(stderr.write)
            )
            process = await self._spawn(stack, plan, table)
            for end in (stdin.close_read, stdout.close_write, stderr.close_write):
                end()
            if not wants_stdin:
                stdin.close_write()
            pumps = [_pump(stack, p.take_read(), n, sink) for p, n in ((stdout, "stdout"), (stderr, "stderr"))]
            yield Joined(process, pumps, stdin.write if wants_stdin else -1, stdin.close_write)

    @contextlib.asynccontextmanager
    async def terminal(self, command: Command, sink: Sink, rows: int, columns: int) -> AsyncIterator[Joined]:
        """Run `command` on a terminal of the sandbox's own; only its master leaves the sandbox, as `Joined.input`."""
        async with contextlib.AsyncExitStack() as stack:
            ours, theirs = socket.socketpair()
            stack.enter_context(ours)
            with theirs:
                table, plan = self._join_plan(command)
                plan = plan._replace(terminal=table.add(theirs.fileno()), rows=rows, columns=columns)
                process = await self._spawn(stack, plan, table)
            master = _last_master(ours)
            stack.callback(os.close, master)
            # One descriptor to read and one to write: each is watched by the event loop on its own.
            yield Joined(process, [_pump(stack, os.dup(master), "stdout", sink)], master, lambda: None)

    def _join_plan(self, command: Command) -> tuple[FdTable, JoinPlan]:
        table = FdTable()
        plan = JoinPlan(
            userns=table.add(self.lease.userns),
            seccomp=tuple(table.add(fd) for fd in self._factory.seccomp),
            argv=command.argv,
            env=dict(command.env),
            cwd=command.cwd,
            uid=self.spec.user.uid,
            gid=self.spec.user.gid,
            groups=self.spec.user.groups,
        )
        return table, plan

    async def _spawn(self, stack: contextlib.AsyncExitStack, plan: JoinPlan, table: FdTable) -> Process:
        process = await self._become(plan, table.fds)
        stack.push_async_callback(_end, process)
        # Who joins once joins again: the next command finds its process in place.
        if self._next is None and not self._ending:
            self._next = asyncio.create_task(self._prepare_next(process))
        return process

    async def _become(self, plan: JoinPlan, fds: list[int]) -> Process:
        standby = await self._standing_by()
        if standby is not None:
            with contextlib.suppress(SpawnerDied):  # the sandbox has used its memory up since
                return await standby.become(plan, fds)
        return await (await stand_by(self.lease.keeper)).become(plan, fds)

    async def _standing_by(self) -> Standby | None:
        waiting, self._next = self._next, None
        # When it was forked, the sandbox may have had all its processes, or the daemon all its descriptors.
        with contextlib.suppress(HostError, OSError):
            return await waiting if waiting else None
        return None

    async def _prepare_next(self, running: Process) -> Standby:
        await asyncio.wait([running.exited], timeout=_HEAD_START)
        return await stand_by(self.lease.keeper)

    async def dismiss(self) -> None:
        """End the process that stands by for the next command, and prepare no other."""
        self._ending = True
        waiting, self._next = self._next, None
        if waiting is not None:
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled() and waiting.exception() is None:
                waiting.result().close()


@dataclass(frozen=True)
class Joined:
    """A command that was started in a running sandbox. `input` is -1 where it takes none."""

    process: Process
    pumps: list[Pump]
    input: int
    close_input: Callable[[], None]

    async def wait(self) -> int:
        """The exit code, after the output that was written until then."""
        status = await self.process.wait()
        await streams.finish(self.pumps, 0.2)
        return exit_code(status)


class Sandboxes:
    """Makes sandboxes out of leases and the filter's consent."""

    def __init__(self, leases: Leases, egress: Filter, init: int, seccomp: tuple[int, ...]) -> None:
        self._leases = leases
        self.filter = egress
        self._init = init
        self.seccomp = seccomp

    @contextlib.asynccontextmanager
    async def open(self, spec: SandboxSpec, sink: Sink, on_network: Callable[[Record], None]) -> AsyncIterator[Sandbox]:
        """Make the sandbox of `spec` and start its command; leaving the block ends and releases everything."""
        async with contextlib.AsyncExitStack() as stack:
            loop = asyncio.get_running_loop()
            lease = await self._leases.acquire()
            stack.push_async_callback(self._leases.release, lease)
            lease.group.limit(spec.limits)
            fault.at("sandbox: limited")
            registering = asyncio.Task(
                self.filter.register(lease.address, spec.policy, on_network), loop=loop, eager_start=True
            )
            stack.push_async_callback(self.filter.drop, lease.address)
            stack.callback(registering.cancel)
            owner = lease.uid_base + spec.user.uid
            stdout, stderr = _pipe(stack, owner), _pipe(stack, owner)
            with contextlib.ExitStack() as transient:
                table, plan = self._start_plan(transient, spec, lease, stdout, stderr)
                process = await lease.first.become(plan, table.fds, registering)
            stack.push_async_callback(_end, process)
            fault.at("sandbox: started")
            stdout.close_write()
            stderr.close_write()
            sandbox = Sandbox(self, spec, lease, process)
            stack.push_async_callback(sandbox.dismiss)
            sandbox._pumps = [_pump(stack, p.take_read(), n, sink) for p, n in ((stdout, "stdout"), (stderr, "stderr"))]
            yield sandbox

    def _start_plan(
        self, stack: contextlib.ExitStack, spec: SandboxSpec, lease: Lease, stdout: Pipe, stderr: Pipe
    ) -> tuple[FdTable, StartPlan]:
        table = FdTable()
        tree = _mapper(stack, table, lease.userns)
        _fresh_work_directory(spec.writable)
        stdin = _pipe(stack, lease.uid_base + spec.user.uid)
        stdin.close_write()  # the command reads an end of file, not the daemon's input
        plan = StartPlan(
            layers=tuple(tree(layer, syscalls.MOUNT_ATTR_RDONLY) for layer in spec.layers),
            writable=tree(spec.writable, 0),
            userns=table.add(lease.userns),
            init=table.add(self._init),
            seccomp=tuple(table.add(fd) for fd in self.seccomp),
            stdin=table.add(stdin.read),
            stdout=table.add(stdout.write),
            stderr=table.add(stderr.write),
            argv=spec.argv,
            env=dict(spec.env),
            cwd=spec.cwd,
            files={name: table.add(_memory_file(stack, content)) for name, content in spec.files.items()},
            binds={name: tree(path, _BIND) for name, path in spec.binds.items()},
            redirects=spec.redirects,
            executable=spec.executable,
            uid=spec.user.uid,
            gid=spec.user.gid,
            groups=spec.user.groups,
        )
        return table, plan


def _last_master(connection: socket.socket) -> int:
    """The terminal's master that came over `connection`; the last one, since a process that was killed may have sent another."""
    connection.setblocking(False)
    masters: list[int] = []
    with contextlib.suppress(BlockingIOError):
        while received := socket.recv_fds(connection, 1, 1)[1]:
            masters += received
    for master in masters[:-1]:
        os.close(master)
    if not masters:
        raise HostError("cannot open a terminal: the command ended before it had one", "try again")
    os.set_inheritable(masters[-1], False)
    return masters[-1]


def exit_code(status: int) -> int:
    """A wait status as shells tell it: 128 + n for signal n."""
    return status if status >= 0 else 128 - status


def _pipe(stack: contextlib.ExitStack | contextlib.AsyncExitStack, owner: int | None) -> Pipe:
    pipe = Pipe(owner)
    stack.callback(pipe.close)
    return pipe


def _mapper(stack: contextlib.ExitStack, table: FdTable, userns: int) -> Callable[[Path, int], int]:
    """Clones directories as id-mapped mounts that are attached nowhere yet. Here, because the kernel clones no mount of a
    namespace that isn't the caller's, and the process that stands by has left the host's.
    """

    def tree(path: Path, attributes: int) -> int:
        fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            mount = syscalls.open_tree(fd)
        finally:
            os.close(fd)
        stack.callback(os.close, mount)
        syscalls.mount_setattr(mount, attributes | syscalls.MOUNT_ATTR_NODEV, userns=userns)
        return table.add(mount)

    return tree


def _memory_file(stack: contextlib.ExitStack, content: bytes) -> int:
    fd = os.memfd_create("file", os.MFD_CLOEXEC)
    stack.callback(os.close, fd)
    with open(os.dup(fd), "wb") as file:
        file.write(content)
    return fd


def _fresh_work_directory(writable: Path) -> None:
    """overlayfs wants `work` empty: an earlier phase over the same `upper` leaves its marks there."""
    work = writable / "work"
    if work.exists():
        remove_tree(work)
    work.mkdir(mode=0o700)


def _pump(stack: contextlib.AsyncExitStack, fd: int, name: str, sink: Sink) -> Pump:
    pump = Pump(fd, name, sink)
    stack.push_async_callback(streams.stop, [pump])
    return pump


async def _end(process: Process) -> None:
    process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(30):
            await process.wait()
