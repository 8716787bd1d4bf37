"""The spawner: a small single-threaded root process that forks keepers, sandboxes and the commands in them.

It parses nothing but plans from its one socket, imports only the standard library and prctl, and holds no state beyond its
children. `python -I -m sandbox.inside.spawner FD`, where FD is a SEQPACKET socket to the daemon.

    spawner ─┬─ keeper of lease 1 (its own socket to the daemon, in the lease's network namespace and cgroups)
             │    ├─ pid 1 of the sandbox                   ◀─ StartPlan
             │    └─ a command that joined the sandbox      ◀─ JoinPlan
             └─ keeper of lease 2 …                         ◀─ LeasePlan (to the spawner)

    request:  one message, first descriptor a memfd with the plan's JSON, the others what the plan refers to by index
    answers:  {"started": id, "pid": n} + pidfd ─ {"exited": id, "status": exit code or -signal}

Whether the exec worked is told by the status pipe in the plan, not here: end of file means yes. End of file on the
socket means that the daemon is gone: every child is killed and the process ends.
"""

from __future__ import annotations

import array
import contextlib
import errno
import gc
import json
import os
import select
import signal
import socket
import sys

from sandbox.inside import child, credentials, namespaces, syscalls
from sandbox.inside.plan import GatewayPlan, JoinPlan, LeasePlan, Plan, StartPlan, decode

_MAX_FDS = 253  # SCM_MAX_FD of the kernel


class Spawner:
    """Forks what plans ask for and reports exits: the spawner itself, and each of its keepers."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        # pidfd -> (id, pid); "" for a helper whose exit nobody waits for
        self._children: dict[int, tuple[str, int]] = {}
        self._pidfds: dict[str, int] = {}
        self._own_pid_namespace = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._poll = select.poll()
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
        size = array.array("i").itemsize
        _, ancillary, _, _ = self._channel.recvmsg(4096, socket.CMSG_LEN(_MAX_FDS * size), socket.MSG_CMSG_CLOEXEC)
        fds = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds.frombytes(data[: len(data) - len(data) % size])
        if not fds:
            return False
        try:
            plan = decode(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))
            try:
                self._obey(plan, list(fds))
            except OSError as error:  # fork says EAGAIN where the sandbox has as many processes as it may
                self._refuse(plan, list(fds), "fork a process", error)
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _obey(self, plan: Plan, fds: list[int]) -> None:
        if isinstance(plan, LeasePlan | GatewayPlan):
            self._fork_maker(plan, fds)
        elif isinstance(plan, StartPlan):
            self._fork_into_pid_namespace(plan, fds, None)
        else:
            pidfd = self._pidfds.get(plan.sandbox)
            if pidfd is None:
                return self._refuse(plan, fds, "find the sandbox", ProcessLookupError(errno.ESRCH, "it has ended"))
            self._leave_the_host()
            self._fork_into_pid_namespace(plan, fds, pidfd)

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

    def _refuse(self, plan: Plan, fds: list[int], step: str, error: OSError) -> None:
        """Tell why no process was made, in the way that the one who waits for it listens to (or has stopped to)."""
        if isinstance(plan, LeasePlan | GatewayPlan):
            with contextlib.suppress(OSError):
                os.write(fds[plan.reply], f"could not {step}: {error}".encode())
            return
        failure = {"step": step, "subject": plan.id, "errno": error.errno, "message": f"{error}"}
        with contextlib.suppress(OSError):
            os.write(fds[plan.status], json.dumps(failure).encode())
        self._answer({"exited": plan.id, "status": 127})

    def _fork_maker(self, plan: LeasePlan | GatewayPlan, fds: list[int]) -> None:
        pid = os.fork()
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

    def _fork_into_pid_namespace(self, plan: StartPlan | JoinPlan, fds: list[int], joined: int | None) -> None:
        """Fork a child that is in its pid namespace from its first instruction, and still a child of ours to wait for."""
        if joined is None:
            os.unshare(os.CLONE_NEWPID)
        else:
            os.setns(joined, os.CLONE_NEWPID)
        try:
            pid = os.fork()
            if pid == 0:
                child.run(plan, fds, joined, self._proc)
        finally:
            os.setns(self._own_pid_namespace, os.CLONE_NEWPID)
        pidfd = self._watch(plan.id, pid)
        if isinstance(plan, StartPlan):
            self._pidfds[plan.id] = pidfd
        self._answer({"started": plan.id, "pid": pid}, pidfd)

    def _watch(self, identity: str, pid: int) -> int:
        pidfd = os.pidfd_open(pid)
        self._children[pidfd] = (identity, pid)
        self._poll.register(pidfd, select.POLLIN)
        return pidfd

    def _reap(self, pidfd: int) -> None:
        self._poll.unregister(pidfd)
        identity, pid = self._children.pop(pidfd)
        _, status = os.waitpid(pid, 0)
        if self._pidfds.get(identity) == pidfd:
            del self._pidfds[identity]
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
    reply.detach()
    channel = os.dup2(fds[plan.channel], 3, inheritable=False) if fds[plan.channel] != 3 else 3
    syscalls.close_range(4)  # the other leases' descriptors, of which the spawner had copies when it forked
    Spawner(socket.socket(fileno=channel)).serve()


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
