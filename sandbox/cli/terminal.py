"""`hutch shell` and `hutch exec -t`: the user's terminal joined to one inside, byte for byte.

It must give the terminal back as it found it, whatever happens, and pass nothing of the user's environment inside but
what describes the terminal.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import termios
import tty
from binascii import a2b_base64
from collections.abc import Iterator
from typing import Any

from sandbox.cli.codes import process_code
from sandbox.cli.execute import feed_stdin
from sandbox.cli.output import STDERR, STDIN, STDOUT, print_json, write_all
from sandbox.client import Client, ConnectionLost, HutchError

_PASSED_ON = ("TERM", "COLORTERM", "LANG")


def must_be_terminal(as_json: bool = False) -> int:
    """The descriptor to draw on. Raises HutchError where there is no terminal to read from and draw on."""
    screen = STDERR if as_json else STDOUT
    for fd, name in ((STDIN, "standard input"), (screen, "standard output")):
        if not os.isatty(fd):
            raise HutchError(f"{name} is no terminal", "without one, use: hutch exec TASK -- COMMAND")
    return screen


def interactive(client: Client, task: str, command: list[str], *, login: bool, as_json: bool = False) -> int:
    """Run a command (none: the login shell) on a terminal of its own inside; returns its exit code."""
    screen = must_be_terminal(as_json)
    rows, cols = _size(screen)
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    options: dict[str, Any] = {"tty": True, "stdin": True, "login": login, "rows": rows, "cols": cols, "env": env}
    with client.exec(task, command, **options) as stream, contextlib.ExitStack() as stack:
        for event in stream:
            match event.get("type"):
                case "started":
                    _join(client, event["exec"], screen, stack)
                case "output":
                    write_all(screen, a2b_base64(event["data"]))
                case "exit":
                    stack.close()  # the terminal is the user's again before anything else is written
                    code = process_code(int(event["exit_code"]))
                    if as_json:
                        print_json({"exit_code": code})
                    return code
    raise ConnectionLost("the daemon ended the answer before the shell's exit code", "look at the daemon's log")


def _join(client: Client, exec_id: str, screen: int, stack: contextlib.ExitStack) -> None:
    """Raw mode, input and window sizes, until the stack unwinds."""
    stack.enter_context(_raw_terminal())
    read_end, write_end = os.pipe()
    stack.callback(os.close, write_end)  # ends _keys: what is typed from then on stays for the user's own shell
    feed_stdin(client, exec_id, _keys(read_end))

    def resize(*_: object) -> None:
        with contextlib.suppress(HutchError, OSError):  # a wrong size is no reason to end somebody's shell
            client.exec_resize(exec_id, *_size(screen))

    before = signal.signal(signal.SIGWINCH, resize)
    stack.callback(signal.signal, signal.SIGWINCH, before)
    resize()  # the window may have changed between asking for the shell and its start


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """Every key goes inside, Ctrl-C included; restored also when we are told to end."""

    def leave(number: int, _frame: object) -> None:
        raise HutchError(f"ended by signal {signal.Signals(number).name}")

    saved = termios.tcgetattr(STDIN)
    handlers = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        tty.setraw(STDIN, termios.TCSADRAIN)
        yield
    finally:
        termios.tcsetattr(STDIN, termios.TCSADRAIN, saved)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _keys(stop: int) -> Iterator[bytes]:
    """What is typed, until the other end of `stop` is closed."""
    try:
        while stop not in select.select([STDIN, stop], [], [])[0]:
            data = os.read(STDIN, 64 * 1024)
            if not data:
                return
            yield data
    finally:
        os.close(stop)


def _size(fd: int) -> tuple[int, int]:
    """Rows and columns. A terminal that does not know its size says 0: then the usual 24 × 80."""
    size = os.get_terminal_size(fd)
    return size.lines or 24, size.columns or 80
