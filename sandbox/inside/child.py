"""The life of a sandbox's first process, and of one that joins it, from fork to exec.

Runs in a keeper's forked child, which never returns from `run`: it becomes the tenant's program or it exits. Nothing here
reads what the tenant wrote. From its first instruction it is in the sandbox's control groups and network namespace (its
keeper is) and in its pid namespace (fork put it there).

    start:  new mount, ipc, uts, cgroup namespaces ─ root file system ─ user namespace ─ privileges ─ exec
    join:   the sandbox's namespaces by its pidfd  ─ user namespace ─ (terminal)       ─ privileges ─ exec

The user namespace is entered last (promise 3): until then the child is host root and nobody inside may trace it.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import struct
import sys
import termios

from sandbox.inside import credentials, mounts, syscalls
from sandbox.inside.plan import JoinPlan, StartPlan

_JOINED = os.CLONE_NEWNS | os.CLONE_NEWNET | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP
_UNSHARED = os.CLONE_NEWNS | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441  # asm-generic/ioctls.h


class _Step:
    """The name of the step under way, for the status pipe."""

    name = "fork"


def run(plan: StartPlan | JoinPlan, fds: list[int], pidfd: int | None, proc: int) -> None:
    """Become what `plan` says; `proc` is the host's /proc. A failure is one JSON object on the status pipe, and exit code 127."""
    step = _Step()
    # From here on an import would read files that a tenant can write: better none than theirs.
    sys.meta_path.clear()
    try:
        credentials.be_killed_first(proc)
        if isinstance(plan, StartPlan):
            _start(plan, fds, step)
        elif pidfd is not None:
            _join(plan, fds, pidfd, step)
    except BaseException as error:
        number = error.errno if isinstance(error, OSError) else None
        subject = error.filename if isinstance(error, OSError) else None
        failure = {"step": step.name, "subject": subject, "errno": number, "message": f"{error}"}
        os.write(fds[plan.status], json.dumps(failure).encode())
    finally:
        os._exit(127)


def _start(plan: StartPlan, fds: list[int], step: _Step) -> None:
    credentials.hide()
    os.setsid()
    os.umask(0)
    step.name = "enter the namespaces"
    trees = mounts.clone_trees(plan, fds)
    os.unshare(_UNSHARED)
    socket.sethostname(plan.hostname)
    step.name = "mount the root file system"
    credentials.act_on_files_as(plan.uid_base)
    mounts.enter_root(plan, trees, fds)
    step.name = "drop privileges"
    credentials.limit_resources()
    credentials.enter_user_namespace(fds[plan.userns])
    _become(plan, fds, step, (fds[plan.stdin], fds[plan.stdout], fds[plan.stderr]), fds[plan.init])


def _join(plan: JoinPlan, fds: list[int], pidfd: int, step: _Step) -> None:
    credentials.hide()
    os.setsid()
    step.name = "enter the namespaces"
    os.setns(pidfd, _JOINED)
    step.name = "drop privileges"
    credentials.limit_resources()
    credentials.enter_user_namespace(fds[plan.userns])
    if plan.terminal is not None:
        step.name = "open a terminal"
        terminal = _open_terminal(plan, fds[plan.terminal])
        streams = (terminal, terminal, terminal)
    elif plan.stdin is not None and plan.stdout is not None and plan.stderr is not None:
        streams = (fds[plan.stdin], fds[plan.stdout], fds[plan.stderr])
    else:
        raise ValueError("a plan needs its three streams or a terminal")
    _become(plan, fds, step, streams, None)


def _open_terminal(plan: JoinPlan, reply: int) -> int:
    """A pseudo-terminal of the sandbox's own devpts: its master goes to the daemon, its slave becomes ours.

    Root inside owns /dev and may have put anything there: no link is followed, and what was opened must be a ptmx.
    """
    here = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK
    master = syscalls.openat2(here, "dev/pts/ptmx", flags, syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_IN_ROOT)
    status = os.fstat(master)
    if not stat.S_ISCHR(status.st_mode) or status.st_rdev != os.makedev(5, 2):
        raise OSError(0, "dev/pts/ptmx is not a terminal multiplexer", "dev/pts/ptmx")
    fcntl.ioctl(master, _TIOCSPTLCK, struct.pack("i", 0))
    slave: int = fcntl.ioctl(master, _TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    termios.tcsetwinsize(slave, (plan.rows, plan.columns))
    with socket.socket(fileno=os.dup(reply)) as channel:
        socket.send_fds(channel, [b"m"], [master])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    return slave


def _become(
    plan: StartPlan | JoinPlan, fds: list[int], step: _Step, streams: tuple[int, int, int], init: int | None
) -> None:
    step.name = f"change to the directory {plan.cwd}"
    os.chdir(plan.cwd)
    os.umask(0o022)
    step.name = "drop privileges"
    filters = [os.pread(fds[index], os.fstat(fds[index]).st_size, 0) for index in plan.seccomp]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    syscalls.close_range_on_exec(3)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # what Python and the spawner ignore would stay ignored after exec
    credentials.drop_privileges(filters)
    credentials.die_with_parent()
    step.name = f"run {plan.argv[0]}"
    if init is None:
        os.execve(plan.argv[0], list(plan.argv), plan.env)
    os.execve(init, ["init", "--", *plan.argv], plan.env)
