"""The spawner: a small single-threaded root process that forks keepers, sandboxes and the commands in them.

It parses nothing but plans from its one socket, imports only the standard library and prctl, and holds no state beyond its
children. `python -I -m sandbox.inside.spawner FD`, where FD is a SEQPACKET socket to the daemon.

    spawner ─┬─ keeper of lease 1 (its own socket to the daemon, in the lease's network namespace and cgroups)
             │    ├─ pid 1 of the sandbox, standing by from the beginning       ◀─ StartPlan (to itself: child.py)
             │    └─ a command that joined the sandbox, standing by before      ◀─ StandbyPlan; JoinPlan (to itself)
             └─ keeper of lease 2 …                                             ◀─ LeasePlan (to the spawner)

    answers:  {"started": id, "pid": n} + pidfd ─ {"exited": id, "status": exit code or -signal}

End of file on the socket means that the daemon is gone: every child is killed and the process ends.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

from sandbox.inside import child, credentials, messages, namespaces, syscalls
from sandbox.inside.plan import GatewayPlan, LeasePlan, StandbyPlan


class Spawner:
    """Forks what plans ask for and reports exits: the spawner itself, and each of its keepers."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        # pidfd -> (id, pid); "" for a helper whose exit nobody waits for
        self._children: dict[int, tuple[str, int]] = {}
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._poll = select.poll()
        self._first = -1  # pidfd of the sandbox's pid 1, while there is one
        self._left = False

    def serve(self) -> None:
        """Work until the daemon closes its end."""
        self._poll.register(self._channel, select.POLLIN)
        while True:
            for fd, _ in self._poll.poll():
                if fd != self._channel.fileno():
                    self._reap(fd)
                elif not self._request():
                    return self._kill_all()

    def _request(self) -> bool:
        fds = messages.receive(self._channel)
        if not fds:
            return False
        try:
            plan = messages.read_plan(fds)
            if isinstance(plan, LeasePlan | GatewayPlan):
                self._make(plan, fds)
            elif isinstance(plan, StandbyPlan):
                self._stand_by(plan, socket.socket(fileno=os.dup(fds[plan.plans])))
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _make(self, plan: LeasePlan | GatewayPlan, fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            with contextlib.suppress(OSError):
                os.write(fds[plan.reply], f"could not fork a process: {error}".encode())
            return
        if pid == 0:
            reply = socket.socket(fileno=fds[plan.reply])
            try:
                self._channel.close()
                if isinstance(plan, GatewayPlan):
                    namespaces.make_gateway(plan, reply)
                else:
                    namespaces.make_lease(plan, fds, reply)
                    _keep(plan, fds, reply)
                os._exit(0)
            except BaseException as error:
                with contextlib.suppress(OSError):
                    reply.send(f"error: {error}".encode())
            finally:
                os._exit(1)
        self._watch("", pid)

    def begin(self, identity: str, uid_base: int, plans: socket.socket) -> None:
        """Fork the sandbox's pid 1, which stands by for its StartPlan."""
        os.unshare(os.CLONE_NEWPID)
        self._first = self._fork(identity, plans, lambda: child.stand_by_to_start(plans, self._proc, uid_base))

    def _stand_by(self, plan: StandbyPlan, plans: socket.socket) -> None:
        """Fork a process that stands by for a JoinPlan, or tell why there is none, as it would itself."""
        with plans:
            try:
                if self._first < 0:
                    raise ProcessLookupError(errno.ESRCH, "it has ended")
                self._leave_the_host()
                first = self._first
                os.setns(first, os.CLONE_NEWPID)
                self._fork(plan.id, plans, lambda: child.stand_by_to_join(plans, self._proc, first))
            except OSError as error:  # fork says EAGAIN where the sandbox has as many processes as it may
                step = "find the sandbox" if self._first < 0 else "fork a process"
                with contextlib.suppress(OSError):
                    plans.send(messages.failure(step, error, plan.id))
                self._answer({"exited": plan.id, "status": 127})

    def _leave_the_host(self) -> None:
        """Make an empty directory our root. Who joins is seen in the sandbox's /proc from its fork on, before it has left
        the host's mount namespace, and everybody may read a process's mountinfo: it only shows what is below its root.
        """
        if self._left:
            return
        empty = syscalls.new_filesystem("tmpfs", {"mode": "0555", "size": "4k"}, syscalls.MOUNT_ATTR_RDONLY)
        os.fchdir(empty)
        os.chroot(".")
        os.close(empty)
        self._left = True

    def _fork(self, identity: str, plans: socket.socket, become: Callable[[], NoReturn]) -> int:
        """Fork a child that is in its pid namespace from its first instruction, and still a child of ours to wait for."""
        try:
            pid = os.fork()
            if pid == 0:
                try:
                    self._channel.close()
                    become()
                finally:
                    os._exit(127)  # or it would go on as another keeper
        finally:
            os.setns(self._own_pid_namespace, os.CLONE_NEWPID)
        plans.close()
        try:
            pidfd = self._watch(identity, pid)
        except OSError:  # whom nobody watches must not run
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        self._answer({"started": identity, "pid": pid}, pidfd)
        return pidfd

    def _watch(self, identity: str, pid: int) -> int:
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (identity, pid)
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        identity, pid = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        if pidfd == self._first:
            self._first = -1
        os.close(pidfd)
        if identity:
            self._answer({"exited": identity, "status": os.waitstatus_to_exitcode(status)})

    def _answer(self, message: dict[str, object], *fds: int) -> None:
        socket.send_fds(self._channel, [json.dumps(message).encode()], list(fds))

    def _kill_all(self) -> None:
        for pidfd in self._children:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        # In whatever order they end: a pid 1 isn't done before those that joined have been waited for.
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


def _keep(plan: LeasePlan, fds: list[int], reply: socket.socket) -> None:
    """Stay as the keeper of a lease: hold nothing but its channel, and follow the plans that come over it."""
    credentials.hide()
    credentials.be_called("hutch-keeper")
    reply.detach()
    channel, plans = fds[plan.channel], fds[plan.plans]
    for fd in range(3, max(fds) + 1):
        if fd not in (channel, plans):
            with contextlib.suppress(OSError):
                os.close(fd)
    syscalls.close_range(max(fds) + 1)  # the other leases' descriptors, of which the spawner had copies when it forked
    keeper = Spawner(socket.socket(fileno=channel))
    keeper.begin(plan.first, plan.uid_base, socket.socket(fileno=plans))
    keeper.serve()


def main() -> None:
    """Serve the socket whose descriptor is the first argument."""
    # Terminal signals are the daemon's to handle; without it the socket's end tells us to stop.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    gc.disable()
    gc.freeze()  # children then share our pages instead of copying them
    Spawner(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
