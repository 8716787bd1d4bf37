"""Commands that join a hostile sandbox: what it sees of the joiner before its exec, and what it may put in its way.

Until exec the joiner is a process of ours, for some time even the host's root, in the tenant's own /proc.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sandbox.client import HutchError
from tests.support import tasks
from tests.support.daemon import Daemon

# Watches for processes that are still the keeper's program, and tries everything on them.
SPY = r"""
import ctypes, json, os, resource, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
known, got, seen = set(os.listdir("/proc")), [], 0
def ours(pid):
    if time.monotonic() > until: return False
    with open(f"/proc/{pid}/cmdline", "rb") as file: return file.read().startswith((b"hutch-", b"/")) and not own(pid)
def own(pid):
    with open(f"/proc/{pid}/status") as file: return "\nUid:\t0\t" in file.read()
def entered(pid):  # our user namespace: such a one may be killed, like any process of the sandbox
    with open(f"/proc/{pid}/uid_map") as file, open("/proc/self/uid_map") as mine: return file.read() == mine.read()
def attempts(pid):
    for name in ("root", "cwd", "exe"): yield name, lambda n=name: os.readlink(f"/proc/{pid}/{n}")
    for name in ("fd", "map_files"): yield name, lambda n=name: os.listdir(f"/proc/{pid}/{n}")
    for name in ("environ", "maps", "mem", "auxv", "stack", "syscall"):
        yield name, lambda n=name: os.read(os.open(f"/proc/{pid}/{n}", os.O_RDONLY), 100)
    for name in ("mountinfo", "mounts"): yield name, lambda n=name: foreign(open(f"/proc/{pid}/{n}", "rb").read())
    for name in ("etc/shadow", "etc/machine-id"): yield name, lambda n=name: open(f"/proc/{pid}/root/{n}", "rb").read()
    yield "signal", lambda: os.kill(int(pid), 0) or entered(pid) and call(-1)
    yield "priority", lambda: os.setpriority(os.PRIO_PROCESS, int(pid), 19)
    yield "processors", lambda: os.sched_setaffinity(int(pid), {0})
    yield "limits", lambda: resource.prlimit(int(pid), resource.RLIMIT_NOFILE)
    yield "trace", lambda: call(101, 0x4206, int(pid), 0, 0)
    yield "descriptor", lambda: call(438, call(434, int(pid), 0), 3, 0)
def call(*arguments):
    result = libc.syscall(*[ctypes.c_long(a) for a in arguments])
    if result < 0: raise OSError(ctypes.get_errno(), "")
    return result
def foreign(table):
    if b"overlay" in table or not table: raise OSError(1, "it is the sandbox's own, or nothing")
    return table[:200]
until = time.monotonic() + float(sys.argv[1])
print("watching", flush=True)
while time.monotonic() < until:
    for pid in os.listdir("/proc"):
        if not pid.isdigit() or pid in known: continue
        known.add(pid)
        try:
            first = ours(pid)
            while ours(pid):
                seen += first
                first = False
                for name, attempt in attempts(pid):
                    try: answer = attempt()
                    except OSError: continue
                    if ours(pid): got.append(f"{name}: {answer!r}"[:300])
        except OSError: pass
print(json.dumps({"seen": seen, "got": got}))
"""
OBSTACLES = {
    "sh is a pipe": "mkfifo /tmp/x && mv /tmp/x /bin/sh",
    "sh is a loop of links": "ln -s sh /tmp/x && mv /tmp/x /bin/sh",
    "sh is a device": "ln -s /dev/zero /tmp/x && mv /tmp/x /bin/sh",
    "sh is the joiner's own program": "ln -s /proc/self/exe /tmp/x && mv /tmp/x /bin/sh",
    "sh is a script of the joiner's own program": "echo '#!/proc/self/exe' >/tmp/x; chmod 755 /tmp/x; mv /tmp/x /bin/sh",
    "terminals are pipes": "rm /dev/ptmx /dev/tty /dev/null; mkfifo /dev/ptmx /dev/tty /dev/null",
    "the working directory leads elsewhere": "rmdir /workspace; ln -s /proc/1/root/../../.. /workspace",
    "no rights anywhere": "chmod 0 / /dev /dev/pts /dev/pts/ptmx /workspace",
    "no terminal is left": "python3 -c 'import os\nwhile True: os.open(\"/dev/ptmx\", 2)'; exec 2>&1",
    "an interpreter that loads what it is told": "echo /nowhere.so >/etc/ld.so.preload; echo 'exit 9' >/etc/profile",
}


@pytest.mark.holds("seeing or tracing who joins", "not dumpable before exec; keepers live in an empty root directory")
def test_a_spy_sees_nothing_of_who_joins(daemon: Daemon) -> None:
    with tasks.running(daemon) as task, daemon.client.exec(task, ["python3", "-c", SPY, "8"]) as stream:
        told = iter(stream)
        assert [next(told)["type"], next(told)["type"]] == ["started", "output"]
        until = time.monotonic() + 7
        while time.monotonic() < until:
            tasks.execute(daemon, task, "true")
        report = json.loads(tasks.collect(told).stdout)
    assert report["seen"] > 0, "the spy was too slow to see anybody"
    assert report["got"] == []


@pytest.mark.holds(
    "obstacles for who joins", "no path of the tenant's is opened but by exec, in the sandbox; time limits"
)
@pytest.mark.parametrize("obstacle", OBSTACLES, ids=str)
def test_an_obstacle_ends_the_command_alone(daemon: Daemon, obstacle: str) -> None:
    """The command runs or is refused in a sentence, soon; nothing of it runs outside; the task can be ended."""
    with tasks.running(daemon, f"{OBSTACLES[obstacle]}") as task:
        for terminal in (False, True):
            began = time.monotonic()
            try:
                done = tasks.execute(daemon, task, "/usr/bin/touch", "/tmp/hutch-escaped", tty=terminal)
                assert done.code >= 0
            except HutchError as error:
                assert "could not" in str(error), error  # noqa: PT017 - it may also run
            assert time.monotonic() - began < 10
    assert not Path("/tmp/hutch-escaped").exists()
