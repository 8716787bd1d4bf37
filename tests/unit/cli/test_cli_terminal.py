"""`hutch shell`, `exec -t` and colours on a real terminal (a pty): keys, sizes, signals, and the terminal given back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.cli.conftest import HUTCH, LIMIT, Server

PROMPT = r"bash-[\d.]+[#$] "


class Terminal:
    """A terminal with `hutch` on it, and us as the person in front of it."""

    def __init__(self, server: Server, *arguments: str, rows: int = 33, cols: int = 101, **environ: str) -> None:
        self.master, self._inner = pty.openpty()
        self.resize(rows, cols)
        self.before: list[Any] = termios.tcgetattr(self._inner)
        self.shown = b""
        self.process = subprocess.Popen(
            ["setsid", "--ctty", *HUTCH, *arguments],  # setsid becomes hutch: the same process
            stdin=self._inner,
            stdout=self._inner,
            stderr=self._inner,
            env={**server.environ(), **environ},
        )

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def read_until(self, pattern: str) -> str:
        """What was shown until the pattern appeared; what follows it stays for the next call."""
        end = time.monotonic() + LIMIT
        while not (match := re.search(pattern.encode(), self.shown)):
            assert time.monotonic() < end, f"{pattern!r} never came: {self.shown!r}"
            if select.select([self.master], [], [], 1)[0]:
                self.shown += os.read(self.master, 65536)
        text, self.shown = self.shown[: match.end()], self.shown[match.end() :]
        return text.decode()

    def end(self) -> int:
        """Wait for the end; the exit code. Everything that was shown is in .shown."""
        end = time.monotonic() + LIMIT
        while self.process.poll() is None or select.select([self.master], [], [], 0.1)[0]:
            assert time.monotonic() < end, "it never ended"
            if select.select([self.master], [], [], 0.1)[0]:
                self.shown += os.read(self.master, 65536)
        return self.process.wait()

    def attributes(self) -> list[Any]:
        return termios.tcgetattr(self._inner)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(LIMIT)
        os.close(self.master)
        os.close(self._inner)


@contextlib.contextmanager
def terminal(server: Server, *arguments: str, **options: Any) -> Iterator[Terminal]:
    made = Terminal(server, *arguments, **options)
    try:
        yield made
    finally:
        made.close()


def test_a_shell_is_a_real_terminal(server: Server, running_task: str) -> None:
    with terminal(server, "shell", running_task) as screen:
        screen.type("stty size; tty; echo TERM=$TERM SECRET=$SECRET.\r")
        assert "33 101" in screen.read_until(r"/dev/pts/\d+")
        assert "TERM=xterm-256color SECRET=.\r\n" in screen.read_until(r"SECRET=\.\r\n")
        screen.resize(44, 55)
        screen.type("sleep 0.5; stty size\r")
        screen.read_until("44 55")
        screen.type("exit 7\r")
        assert screen.end() == 7
        assert screen.attributes() == screen.before


def test_only_the_terminals_own_variables_go_inside(server: Server, running_task: str) -> None:
    with terminal(server, "shell", running_task, "--", "env", SECRET="s3cret", COLORTERM="truecolor") as screen:
        assert screen.end() == 0
        assert b"COLORTERM=truecolor" in screen.shown
        assert b"s3cret" not in screen.shown


def test_ctrl_c_and_ctrl_d_go_inside(server: Server, running_task: str) -> None:
    with terminal(server, "shell", running_task) as screen:
        screen.read_until(PROMPT)
        screen.type("sh -c 'echo start\"\"ed; exec sleep 600'\r")
        screen.read_until("started")  # said by the program itself, so it is what Ctrl-C meets
        screen.type("\x03")
        screen.read_until(PROMPT)
        screen.type("echo sta'tus' $?\r")
        screen.read_until("status 130")
        screen.read_until(PROMPT)  # a Ctrl-D that comes before the shell reads is lost on every terminal
        screen.type("\x04")
        assert screen.end() == 0


def test_the_terminal_is_given_back_when_killed(server: Server, running_task: str) -> None:
    with terminal(server, "shell", running_task) as screen:
        screen.type("echo re'ady'\r")
        screen.read_until("ready")
        assert screen.attributes() != screen.before
        screen.process.send_signal(signal.SIGTERM)
        assert screen.end() == 1
        assert b"hutch: ended by signal SIGTERM" in screen.shown.replace(b"\x1b[31mhutch:\x1b[0m", b"hutch:")
        assert screen.attributes() == screen.before


def test_exec_on_a_terminal(server: Server, running_task: str) -> None:
    with terminal(server, "exec", "-t", running_task, "--", "sh", "-c", "tty; read x; echo got=$x; exit 4") as screen:
        screen.read_until("/dev/pts/")
        screen.type("hello\r")
        screen.read_until("got=hello")
        assert screen.end() == 4


def test_without_a_terminal_it_says_what_to_use(server: Server, running_task: str) -> None:
    for arguments in (["shell", running_task], ["exec", "-t", running_task, "--", "true"]):
        done = server.hutch(*arguments)
        assert done.returncode == 1
        expected = b"hutch: standard input is no terminal (without one, use: hutch exec TASK -- COMMAND)\n"
        assert done.stderr == expected


EVIL = r"printf '\033]0;title\007\033[31mred\033[0m \033[6n\033[2Jend\n'"


@pytest.mark.parametrize("command", ["run", "exec"])
def test_output_can_not_command_the_terminal(server: Server, running_task: str, command: str) -> None:
    arguments = ["run", "--"] if command == "run" else ["exec", running_task, "--"]
    with terminal(server, *arguments, "sh", "-c", EVIL) as screen:
        assert screen.end() == 0
        assert b"\x1b[31mred\x1b[0m end\r\n" in screen.shown
        assert b"\x1b]" not in screen.shown
        assert b"\x1b[6n" not in screen.shown
        assert b"\x1b[2J" not in screen.shown


def test_redirected_output_is_untouched(server: Server, running_task: str) -> None:
    done = server.hutch("exec", running_task, "--", "sh", "-c", EVIL)
    assert done.stdout == b"\x1b]0;title\x07\x1b[31mred\x1b[0m \x1b[6n\x1b[2Jend\n"


def test_colours_only_where_they_are_wanted(server: Server) -> None:
    with terminal(server, "run", "--", "true") as screen:
        screen.end()
        assert b"\x1b[1m== agent\x1b[0m" in screen.shown
    with terminal(server, "run", "--", "true", NO_COLOR="1") as screen:
        screen.end()
        assert b"== agent" in screen.shown
        assert b"\x1b" not in screen.shown


def test_a_heading_closes_the_line_that_output_left_open(server: Server) -> None:
    with terminal(server, "run", "--", "printf", "half", NO_COLOR="1") as screen:
        screen.end()
        assert b"half\r\n== agent: done" in screen.shown


def test_tables_are_drawn_on_a_terminal(server: Server, running_task: str) -> None:
    with terminal(server, "task", "ls", cols=160) as screen:
        assert screen.end() == 0
        assert running_task.encode() in screen.shown
        assert "─".encode() in screen.shown


def test_a_patch_on_a_terminal_has_colours_and_nothing_worse(server: Server) -> None:
    done = server.hutch("run", "--json", "--", "sh", "-c", r"printf 'new \033]0;x\007line\n' > file")
    assert done.returncode == 0
    task = re.search(rb'"id": "(\w+)"', done.stdout)
    assert task
    with terminal(server, "task", "diff", task[1].decode()) as screen:
        assert screen.end() == 0
        assert b"\x1b[32m+new line\x1b[0m" in screen.shown
        assert b"\x1b[36m@@" in screen.shown
        assert b"\x1b]" not in screen.shown
    with terminal(server, "image", "build", "base") as screen:  # the bar
        assert screen.end() == 0
        assert b"downloading packages" in screen.shown
