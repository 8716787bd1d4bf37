"""`hutch exec` without a terminal, from the call to the exit code: the path that must fit into 100 ms.

It must not import click, rich or anything else that costs milliseconds; -X importtime is the judge.
"""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import time
from binascii import a2b_base64
from collections.abc import Iterator
from types import FrameType
from typing import Any

from sandbox.cli.codes import process_code
from sandbox.cli.output import STDIN, print_json
from sandbox.cli.screen import Screen
from sandbox.client import Client, ConnectionLost, HutchError

_READ = 64 * 1024


def stdin_is_data() -> bool:
    """Whether there is input to pass on: a pipe or a file, but no terminal and not /dev/null."""
    try:
        found = os.fstat(STDIN)
    except OSError:
        return False  # closed by whoever started us
    null = stat.S_ISCHR(found.st_mode) and found.st_rdev == os.makedev(1, 3)
    return not null and not os.isatty(STDIN)


def run_exec(
    client: Client, task: str, command: list[str], *, login: bool = False, stdin: bool = True, as_json: bool = False
) -> int:
    """Run the command in the task's sandbox and return its exit code.

    Output goes to the same streams. The first Ctrl-C goes to the command as SIGINT, the second leaves, which kills it.
    """
    began = time.monotonic()
    screen = Screen(as_json)
    send_input = stdin and stdin_is_data()
    with client.exec(task, command, stdin=send_input, login=login) as stream:
        signals = _Interrupts(client)
        for event in stream:
            match event.get("type"):
                case "output":
                    screen.output(event["stream"], a2b_base64(event["data"]))
                case "started":
                    signals.exec_id = event["exec"]
                    if send_input:
                        feed_stdin(client, event["exec"], _stdin())
                case "exit":
                    return _exit(event, as_json, time.monotonic() - began)
    raise ConnectionLost("the daemon ended the answer before the command's exit code", "look at the daemon's log")


def feed_stdin(client: Client, exec_id: str, data: Iterator[bytes]) -> None:
    """Pass input on from a thread of its own, which nobody waits for: the command may end without reading it."""
    import threading

    def feed() -> None:
        # A command that ended first, or a daemon that died: the output's stream tells which.
        with contextlib.suppress(HutchError):
            client.exec_stdin(exec_id, data)

    threading.Thread(target=feed, name="stdin", daemon=True).start()


def _stdin() -> Iterator[bytes]:
    # os.read, not sys.stdin: that waits for a full buffer, and a thread stuck in its lock breaks the interpreter's end.
    while data := os.read(STDIN, _READ):
        yield data


def _exit(event: dict[str, Any], as_json: bool, seconds: float) -> int:
    code = int(event["exit_code"])
    if as_json:
        print_json({"exit_code": code, "seconds": round(seconds, 3)})
    return process_code(code)


class _Interrupts:
    """From now on the first Ctrl-C is the command's, the next is ours."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.exec_id = ""
        signal.signal(signal.SIGINT, self._interrupt)

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if not self.exec_id:
            raise KeyboardInterrupt
        with contextlib.suppress(HutchError):  # it may just have ended
            self._client.exec_signal(self.exec_id, "INT")
