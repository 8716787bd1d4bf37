"""Processes that stand by for the next command: there when needed, harmless when they die, gone with their sandbox."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh


@pytest.fixture
def busy(daemon: Daemon) -> Iterator[str]:
    with tasks.running(daemon) as task:
        yield task


def standing_by(daemon: Daemon) -> list[int]:
    """Those that have joined a sandbox: a lease's first one is pid 1 of its namespace."""
    found = []
    for pid in tasks.descendants(daemon.pid):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            continue
        inside = next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1]
        if status.startswith("Name:\thutch-standby") and inside != "1":
            found.append(pid)
    return found


def test_who_joined_once_has_one_for_the_next(daemon: Daemon, busy: str) -> None:
    assert standing_by(daemon) == []
    assert tasks.execute(daemon, busy, "true").code == 0
    first = tasks.wait_for(lambda: standing_by(daemon), "one that stands by")
    assert tasks.execute(daemon, busy, *sh("echo $$")).text != ""
    second = tasks.wait_for(lambda: set(standing_by(daemon)) - set(first) or None, "the next one")
    assert len(second) == 1
    tasks.cancel(daemon, busy)
    tasks.wait_for(lambda: not standing_by(daemon), "its end with the sandbox")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_one_that_was_killed_is_not_missed(daemon: Daemon, busy: str, number: int) -> None:
    """As the kernel may when the sandbox has used its memory up."""
    tasks.execute(daemon, busy, "true")
    waiting = tasks.wait_for(lambda: standing_by(daemon), "one that stands by")
    os.kill(waiting[0], number)
    done = tasks.execute(daemon, busy, "echo", "fine")
    assert (done.code, done.text) == (0, "fine")


def test_inside_it_has_no_secrets_and_takes_no_signals(daemon: Daemon, busy: str) -> None:
    tasks.execute(daemon, busy, "true")
    look = """for _ in $(seq 200); do found=$(grep -lx hutch-standby /proc/[0-9]*/comm) && break; sleep 0.05; done
        cd ${found%comm}; cat comm; tr '\\0' ' ' <cmdline; kill -9 ${PWD#/proc/} 2>&1; ls fd 2>&1; cat environ 2>&1"""
    told = tasks.execute(daemon, busy, *sh(look)).stdout.decode(errors="replace")
    assert told.startswith("hutch-standby\nhutch-standby")
    assert "site-packages" not in told
    assert "python" not in told
    assert told.count("ermission denied") + told.count("not permitted") == 3, told


def test_a_program_is_found_in_path_as_a_shell_does(daemon: Daemon, busy: str) -> None:
    make = """mkdir -p /tmp/one /tmp/two; printf 'echo a script without its first line\\n' >/tmp/two/tool; chmod 755 /tmp/two/tool
        printf x >/tmp/one/tool"""
    assert tasks.execute(daemon, busy, *sh(make)).code == 0
    # The shell runs the first that may be run, though a later one is no script.
    assert tasks.execute(daemon, busy, *sh("mkdir /tmp/three; cp /bin/true /tmp/three/tool")).code == 0
    env = {"PATH": "/nowhere:/tmp/one:/tmp/two:/tmp/three:/usr/bin:/bin"}
    assert tasks.execute(daemon, busy, "tool", env=env).text == "a script without its first line"
    for missing in ("no-such-program", "/no/such/program"):
        done = tasks.execute(daemon, busy, missing)
        assert done.code == 127
        assert b"not found" in done.stderr
    assert tasks.execute(daemon, busy, "/tmp/one/tool").code == 126


def test_commands_start_with_no_signal_ignored_or_blocked(daemon: Daemon) -> None:
    """Whatever the daemon was started with: `hutch serve &` in a script ignores SIGINT and SIGQUIT."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGQUIT, signal.SIGUSR1)}
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    try:
        daemon.restart()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR2])
        for number, handler in before.items():
            signal.signal(number, handler)
    with tasks.running(daemon) as task:
        for _ in range(2):  # forked for it, and standing by before
            assert hindered(tasks.execute(daemon, task, "cat", "/proc/self/status").text) == set()
    done = tasks.run(daemon, "cat", "/proc/self/status")
    # The static init itself ignores the stop signals of terminals, and its child inherits it.
    assert hindered(tasks.output(daemon, done["id"]).decode()) <= {signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    daemon.restart()


def hindered(status: str) -> set[int]:
    """The signals that /proc/self/status tells as ignored or blocked, but for the C library's own two (32, 33)."""
    fields = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    mask = int(fields["SigIgn"], 16) | int(fields["SigBlk"], 16)
    return {number for number in signal.valid_signals() if mask >> (number - 1) & 1}
