"""The command table: which command lives in which module, imported only when it is called, and click's errors.

It must not import a command's module by itself, not even for `hutch --help`: the table holds the one-line helps.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import click

from sandbox.cli.codes import EXIT_INTERRUPTED, EXIT_USAGE
from sandbox.cli.common import Group
from sandbox.cli.main import report, socket_path, wants_json
from sandbox.client import Client, HutchError

# name: (module, attribute, help)
COMMANDS = {
    "run": ("sandbox.cli.run", "run", "Run a command on a repository in a fresh sandbox."),
    "task": ("sandbox.cli.task", "task", "List, show, follow, cancel and remove tasks."),
    "env": ("sandbox.cli.env", "env", "Keep settings of tasks under a name, and try them out."),
    "exec": ("sandbox.cli.exec", "exec_", "Run a command in a running task's sandbox."),
    "shell": ("sandbox.cli.exec", "shell", "Open a terminal in a running task's sandbox."),
    "inspect": ("sandbox.cli.inspect", "inspect", "Show what a running sandbox is given, as the kernel has it."),
    "top": ("sandbox.cli.inspect", "top", "Show what running tasks use: processor, memory, network."),
    "net": ("sandbox.cli.net", "net", "See, change and explain what a task may reach."),
    "secret": (
        "sandbox.cli.secret",
        "secret",
        "Keep credentials that tasks may use and never read.",
    ),
    "image": ("sandbox.cli.image", "image", "Build, import, list and remove images."),
    "runtime": ("sandbox.cli.runtime", "runtime", "List the language runtimes that a task may ask for."),
    "snapshot": ("sandbox.cli.snapshot", "snapshot", "List and drop the cached states of environments."),
    "cache": ("sandbox.cli.cache", "cache", "List and clear the package downloads that the filter keeps."),
    "gc": ("sandbox.cli.gc", "gc", "Drop expired snapshots, unused layers and old tasks."),
    "doctor": ("sandbox.cli.doctor", "doctor", "Check what this host can do, with a remedy for what it can't."),
    "serve": ("sandbox.cli.serve", "serve", "Run the daemon in the foreground."),
    "completion": (
        "sandbox.cli.completion",
        "completion",
        "Print a script that completes hutch's words in your shell.",
    ),
}


class LazyGroup(Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, attribute, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in COMMANDS.items()])


def _version(ctx: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value:
        from importlib.metadata import version

        click.echo(f"hutch {version('hutch')}")
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
First steps, as root:
  hutch doctor                      what this host can and can't do
  hutch serve &                     the daemon; keep it running
  hutch image build base            once: the image that tasks start from
  hutch run --repo . -- ls -la      a command on this repository, in a sandbox

Every command has --help with examples, and --json for scripts.""",
)
@click.option(
    "--socket", metavar="PATH", help="The daemon's socket.  [default: $HUTCH_SOCKET or /run/hutch/hutch.sock]"
)
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.pass_context
def hutch(ctx: click.Context, socket: str | None) -> None:
    """Fresh, isolated, cached environments for coding agents on a bare Linux host.

    A task gets a fresh machine-like sandbox with your repository, set up with the internet on, then runs a command with
    the internet off or filtered, and ends in a diff.
    """
    ctx.obj = Client(socket or socket_path())


def run_click(arguments: list[str]) -> int:
    """Run one command line through click and return its exit code; its usage errors become one sentence."""
    if instruction := os.environ.get("_HUTCH_COMPLETE"):
        from click.shell_completion import shell_complete

        return shell_complete(hutch, {}, "hutch", "_HUTCH_COMPLETE", instruction)
    try:
        # Not hutch.main(): that exits by itself when nobody reads our output any more.
        with hutch.make_context("hutch", list(arguments)) as context:
            code: Any = hutch.invoke(context)
    except click.exceptions.Exit as done:
        return done.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "hutch"
        report(HutchError(error.format_message().rstrip("."), f"see: {where} --help"), wants_json(arguments))
        return EXIT_USAGE
    except click.ClickException as error:
        return report(HutchError(error.format_message()), wants_json(arguments))
    return code if isinstance(code, int) else 0
