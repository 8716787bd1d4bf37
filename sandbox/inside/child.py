"""The life of a sandbox's first process, and of one that joins it, from fork to exec.

Runs in a keeper's forked child, which never returns: it becomes the tenant's program or it exits. Nothing here reads what the
tenant wrote. From its first instruction it is in the sandbox's control groups and network namespace (its keeper is) and in its
pid namespace (fork put it there). What needs no plan is done ahead of it, and then the process stands by:

    start:  new mount, ipc, uts, cgroup namespaces ─ /proc /sys /dev │ plan │ root ─ user namespace ─ privileges │ go │ exec
    join:   the sandbox's namespaces by its pidfd                    │ plan │ user namespace ─ (terminal) ─ privileges ─ exec

The user namespace is entered last (promise 3): until then the child is host root, and nobody inside may trace or kill it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import stat
import struct
import sys
import termios
from collections.abc import Iterator
from typing import NoReturn

from sandbox.inside import credentials, messages, mounts, profile, syscalls
from sandbox.inside.plan import JoinPlan, StartPlan

_JOINED = os.CLONE_NEWNS | os.CLONE_NEWNET | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP
_UNSHARED = os.CLONE_NEWNS | os.CLONE_NEWIPC | os.CLONE_NEWUTS | os.CLONE_NEWCGROUP
_TIOCSPTLCK, _TIOCGPTPEER = 0x40045431, 0x5441  # asm-generic/ioctls.h
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class _Step:
    """The name of the step under way, for whoever hears of a failure."""

    name = "fork"


def stand_by_to_start(plans: socket.socket, proc: int, uid_base: int) -> NoReturn:
    """Become pid 1 of a sandbox that is still to be described, and then what the StartPlan says; `proc` is the host's /proc."""
    step = _Step()
    with _telling(plans.fileno(), step):
        _prepare(proc)
        step.name = "enter the namespaces"
        os.unshare(_UNSHARED)
        socket.sethostname(profile.HOSTNAME)
        step.name = "mount /proc, /sys and /dev"
        credentials.act_on_files_as(uid_base)
        prepared = mounts.prepare(uid_base)
        fds = _wait_for_plan(plans)
        plan = messages.read_plan(fds)
        assert isinstance(plan, StartPlan)
    with _telling(fds[plan.status], step):
        step.name = "mount the root file system"
        mounts.enter_root(plan, prepared, fds)
        step.name = "drop privileges"
        credentials.enter_user_namespace(fds[plan.userns])
        streams = (fds[plan.stdin], fds[plan.stdout], fds[plan.stderr])
        _become(plan, fds, step, streams)
        if plans.recv(len(messages.GO)) != messages.GO:
            os._exit(0)
        os.write(fds[plan.status], messages.EXEC)
        os.execve(fds[plan.init], ["init", "--", *plan.argv], plan.env)
    os._exit(127)


def stand_by_to_join(plans: socket.socket, proc: int, pidfd: int) -> NoReturn:
    """Enter the sandbox whose pid 1 is `pidfd`, and then become what the JoinPlan says."""
    step = _Step()
    with _telling(plans.fileno(), step):
        _prepare(proc)
        step.name = "enter the namespaces"
        os.setns(pidfd, _JOINED)
        fds = _wait_for_plan(plans)
        plan = messages.read_plan(fds)
        assert isinstance(plan, JoinPlan)
    with _telling(fds[plan.status], step):
        step.name = "drop privileges"
        credentials.enter_user_namespace(fds[plan.userns])
        step.name = "open a terminal"
        _become(plan, fds, step, _streams(plan, fds))
        os.write(fds[plan.status], messages.EXEC)
        _execute(plan)
    os._exit(127)


@contextlib.contextmanager
def _telling(fd: int, step: _Step) -> Iterator[None]:
    """End the process where the block fails, having told why on `fd`."""
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.write(fd, messages.failure(step.name, error))
        os._exit(127)


def _prepare(proc: int) -> None:
    # From here on an import would read files that a tenant can write: better none than theirs.
    sys.meta_path.clear()
    credentials.be_killed_first(proc)
    credentials.hide()
    credentials.be_called("hutch-standby")
    credentials.limit_resources()
    os.setsid()
    os.umask(0)
    # What Python, the spawner or whoever started the daemon ignores or blocks would stay so after exec.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _wait_for_plan(plans: socket.socket) -> list[int]:
    """Stand by. Who gets no plan any more has nothing to do: its keeper or the daemon is gone, or the sandbox released."""
    credentials.die_with_parent()
    messages.rehearse()
    plans.send(messages.READY)
    fds = messages.receive(plans)
    if not fds:
        os._exit(0)
    return fds


def _streams(plan: JoinPlan, fds: list[int]) -> tuple[int, int, int]:
    if plan.terminal is not None:
        terminal = _open_terminal(plan, fds[plan.terminal])
        return terminal, terminal, terminal
    if plan.stdin is None or plan.stdout is None or plan.stderr is None:
        raise ValueError("a plan needs its three streams or a terminal")
    return fds[plan.stdin], fds[plan.stdout], fds[plan.stderr]


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
    if plan.uid:
        os.fchown(slave, plan.uid, -1)  # or the user could not open it by its name
    return slave


def _become(plan: StartPlan | JoinPlan, fds: list[int], step: _Step, streams: tuple[int, int, int]) -> None:
    """Everything of a tenant's process but its program. The directory is entered as the user: a link that one put there leads
    nobody to where only root inside may go.
    """
    os.umask(0o022)
    step.name = "drop privileges"
    filters = [os.pread(fds[index], os.fstat(fds[index]).st_size, 0) for index in plan.seccomp]
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
    syscalls.close_range_on_exec(3)
    credentials.drop_privileges(filters)
    step.name = f"become the user {plan.uid}:{plan.gid}"
    credentials.become_user(plan.uid, plan.gid, plan.groups)
    step.name = f"change to the directory {plan.cwd}"
    os.chdir(plan.cwd)
    credentials.die_with_parent()
    step.name = f"run {plan.argv[0]}"


def _execute(plan: JoinPlan) -> None:
    """Run a program, looked up in the tenant's PATH as a shell does; what can't be run is left to a shell: it says why not, or
    runs the script.
    """
    name = plan.argv[0]
    path = plan.env.get("PATH", _DEFAULT_PATH).split(":")
    for candidate in [name] if "/" in name else [f"{directory or '.'}/{name}" for directory in path]:
        try:
            os.execve(candidate, list(plan.argv), plan.env)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            continue
        except OSError:
            break
    os.execve("/bin/sh", ["/bin/sh", "-c", 'exec "$@"', "hutch", *plan.argv], plan.env)
