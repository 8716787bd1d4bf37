"""The console script: runs one command line, makes one sentence of a foreseeable failure, exits. The only sys.exit.

It must not import click before it is needed: `hutch exec TASK -- COMMAND…`, which agents call in a loop, has 100 ms
for everything, and click alone would take a third of them. That exact form is run directly, all else by app.py.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from sandbox.cli.codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_PIPE
from sandbox.cli.output import STDERR, STDIN, STDOUT, paint, print_json, print_line, printable
from sandbox.client import DEFAULT_SOCKET, Client, HutchError


def main() -> NoReturn:
    """Run sys.argv and exit with its code."""
    _open_standard_fds()
    arguments = sys.argv[1:]
    try:
        code = run(arguments)
    except HutchError as error:
        code = report(error, wants_json(arguments))
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        code = EXIT_PIPE
    except OSError as error:
        code = report(HutchError(f"cannot {_operation(error)}: {error.strerror or error}"), wants_json(arguments))
    if is_plain_exec(arguments):
        # Taking the interpreter down costs 9 ms, a third of what exec adds to Python's start. Everything was written with
        # write(2), and the thread that may still read our input is to die anyway.
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run one command line and return its exit code."""
    if is_plain_exec(arguments):
        from sandbox.cli.execute import run_exec

        return run_exec(Client(socket_path()), arguments[1], arguments[3:])
    from sandbox.cli.app import run_click

    return run_click(arguments)


def is_plain_exec(arguments: list[str]) -> bool:
    """Whether this is exactly `exec TASK -- COMMAND…`, without options."""
    return len(arguments) > 3 and arguments[0] == "exec" and arguments[2] == "--" and arguments[1][:1] not in ("", "-")


def socket_path() -> str:
    """Where the daemon listens, unless an option says otherwise."""
    return os.environ.get("HUTCH_SOCKET") or DEFAULT_SOCKET


def wants_json(arguments: list[str]) -> bool:
    """Whether --json stands among our own arguments; after `--` it is the inner command's."""
    return "--json" in (arguments[: arguments.index("--")] if "--" in arguments else arguments)


def report(error: HutchError, as_json: bool) -> int:
    """One sentence on stderr; with --json also {"error": {message, remedy}} on stdout, which is JSON always."""
    try:
        print_line(f"{paint('hutch:', 'red', STDERR)} {printable(error)}", STDERR)
        if as_json:
            print_json({"error": {"message": error.message, "remedy": error.remedy}})
    except OSError:
        pass  # nobody listens; the exit code remains
    return EXIT_FAILED


def _operation(error: OSError) -> str:
    return f"use {error.filename!r}" if error.filename else "read or write"


def _open_standard_fds() -> None:
    """A descriptor that our starter closed would be given to the daemon's socket, and output would go into it."""
    for fd in (STDIN, STDOUT, STDERR):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
