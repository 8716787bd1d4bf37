"""Commands that join a running task: their output, input, terminals and end, also many at once and with hang-ups.

Uses the command line and the API only.
"""

from __future__ import annotations

import os
import select
import subprocess
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.support import tasks
from tests.support.daemon import HUTCH, Daemon
from tests.support.tasks import sh


@pytest.fixture
def busy(daemon: Daemon) -> Iterator[str]:
    with tasks.running(daemon) as task:
        yield task


def test_many_execs_at_once_each_hear_their_own_output(daemon: Daemon, busy: str) -> None:
    """With hang-ups between them: whatever was left behind would read what belongs to others."""
    wrong: list[object] = []

    def one(number: int) -> None:
        for turn in range(5):
            word = f"{number}-{turn}"
            if (number + turn) % 3 == 0:
                with daemon.client.exec(busy, sh("yes noise")) as stream:
                    assert next(iter(stream))["type"] == "started"
                    time.sleep(0.05)
                continue
            done = tasks.execute(
                daemon, busy, *sh(f"cat; for i in $(seq 50); do echo {word}; done"), stdin=word.encode()
            )
            if done.text != word + "\n".join([word] * 50):
                wrong.append((word, done))

    threads = [threading.Thread(target=one, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert wrong == []
    assert not any(thread.is_alive() for thread in threads)
    tasks.wait_for(lambda: not tasks.host_pids("noise"), "the end of what was hung up on")


def test_the_daemon_holds_no_more_descriptors_than_before(daemon: Daemon) -> None:
    def descriptors() -> int:
        return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))

    def use() -> None:
        with tasks.running(daemon) as task:
            tasks.execute(daemon, task, "true")
            tasks.execute(daemon, task, "true", tty=True)
            with daemon.client.exec(task, ["sleep", "600"], stdin=True) as stream:
                next(iter(stream))

    use()
    time.sleep(1)
    before = descriptors()
    for _ in range(5):
        use()
    tasks.wait_for(lambda: descriptors() <= before + 2, f"the closing of descriptors ({before} before)", 20)


def test_a_slow_reader_gets_all_of_an_exec_s_output(daemon: Daemon, busy: str) -> None:
    size = 3_000_000
    pipeline = f"'{HUTCH}' exec {busy} -- head -c {size} /dev/zero | (sleep 2; wc -c)"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", pipeline], capture_output=True, timeout=60, check=True,
        env={"HUTCH_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert int(done.stdout) == size


def test_exec_passes_input_output_and_exit_code(daemon: Daemon, busy: str) -> None:
    data = bytes(range(256)) * 4000
    done = daemon.hutch("exec", busy, "--", *sh("cat; echo problem >&2; exit 9"), input=data)
    assert (done.returncode, done.stdout, done.stderr) == (9, data, b"problem\n")


def test_exec_in_what_has_ended_or_never_was(daemon: Daemon) -> None:
    ended = tasks.run(daemon, "true")["id"]
    for task in (ended, "feedfeed"):
        done = daemon.hutch("exec", task, "--", "true")
        assert done.returncode == 1
        assert len(done.stderr.decode().strip().splitlines()) == 1


class Terminal:
    """A terminal of the host with `hutch` on it, and somebody who types."""

    def __init__(self, daemon: Daemon, *arguments: str, rows: int = 33, columns: int = 99) -> None:
        self.master, slave = os.openpty()
        termios.tcsetwinsize(slave, (rows, columns))
        environment = {"HUTCH_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin", "TERM": "xterm-256color"}
        # As its session's leader with this as its controlling terminal, so that the kernel tells it of a new size.
        command = ["setsid", "--ctty", HUTCH, *arguments]
        self.process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        self.seen = b""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def expect(self, text: str, seconds: float = 30) -> None:
        """Read until `text` comes; what came before is forgotten."""
        deadline = time.monotonic() + seconds
        while text.encode() not in self.seen:
            ready, _, _ = select.select([self.master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"waited in vain for {text!r}: {self.seen!r}"
            try:
                self.seen += os.read(self.master, 65536)
            except OSError as error:  # EIO: nobody has the terminal open any more
                raise AssertionError(f"it ended without {text!r}: {self.seen!r}") from error
        self.seen = self.seen.partition(text.encode())[2]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(10)
        os.close(self.master)


@pytest.mark.parametrize("arguments", [("shell",), ("exec", "--tty", "--")], ids=["shell", "exec"])
def test_a_shell_is_a_real_terminal(daemon: Daemon, busy: str, arguments: tuple[str, ...]) -> None:
    command = ("shell", busy) if arguments == ("shell",) else ("exec", "--tty", busy, "--", "bash", "-i")
    with Terminal(daemon, *command) as terminal:
        terminal.type("PS1='ready'; stty size; tty; echo $TERM; id -u\n")
        terminal.expect("33 99")
        terminal.expect("/dev/pts/0")
        terminal.expect("xterm-256color")
        terminal.expect("ready")
        termios.tcsetwinsize(terminal.master, (44, 111))
        terminal.type("until stty size | grep 44; do sleep 0.1; done\n")
        terminal.expect("44 111")
        terminal.type("sleep 613.5\n")
        tasks.pid_of("613.5")
        terminal.type("\x03")
        terminal.type("echo the-code-is=$?\n")
        terminal.expect("the-code-is=130")
        terminal.type("exit 7\n")
        assert terminal.process.wait(30) == 7
        assert tasks.host_pids("613.5") == []


def test_a_shell_whose_terminal_goes_away_ends_with_all_its_jobs(daemon: Daemon, busy: str) -> None:
    with Terminal(daemon, "shell", busy) as terminal:
        terminal.type("sleep 613.25\n")
        tasks.pid_of("613.25")
    tasks.wait_for(lambda: not tasks.host_pids("613.25"), "the end of what ran in the shell")
    assert tasks.execute(daemon, busy, "echo", "fine").text == "fine"


def test_a_task_that_ends_under_a_shell(daemon: Daemon) -> None:
    with tasks.running(daemon) as task, Terminal(daemon, "shell", task) as terminal:
        terminal.type("echo $((20 + 22))\n")
        terminal.expect("42")
        tasks.cancel(daemon, task)
        assert terminal.process.wait(30) != 0
