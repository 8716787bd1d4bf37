"""`hutch exec` and `hutch shell`: click's side. What they do is in execute.py and terminal.py.

It must not do more than take options: the short form of exec goes past this file (see main.py).
"""

from __future__ import annotations

import click

from sandbox.cli.common import INNER_COMMAND, inner_command, json_option, pass_client, task_argument
from sandbox.client import Client


@click.command("exec", context_settings=INNER_COMMAND)
@click.option("-t", "--tty", is_flag=True, help="Give COMMAND your terminal (editors, prompts, colours).")
@click.option("-l", "--login", is_flag=True, help="Run COMMAND in a login shell's environment.")
@click.option("-n", "--no-stdin", is_flag=True, help="Pass no input on; for loops that read a list themselves.")
@json_option
@task_argument
@click.argument("words", metavar="-- COMMAND...", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_client
def exec_(
    client: Client, task: str, words: tuple[str, ...], tty: bool, login: bool, no_stdin: bool, as_json: bool
) -> int:
    """Run COMMAND in the sandbox of a running task and end with its exit code.

    TASK is a task's id or the beginning of one. COMMAND's output comes on the same streams; a pipe or a file given as
    input is passed on. With --json, COMMAND's output goes to standard error and standard output gets the exit code.

    \b
    Examples:
      hutch exec 3f2a -- git status
      hutch exec 3f2a -- sh -c 'ps aux | grep python'
      hutch exec 3f2a -- tar -C /workspace -cf - . > workspace.tar
      hutch exec 3f2a -- sh -c 'cat > notes.txt' < notes.txt
      hutch exec -t 3f2a -- top
    """
    command = inner_command(words, needed=True)
    if tty:
        from sandbox.cli.terminal import interactive

        return interactive(client, task, command, login=login, as_json=as_json)
    from sandbox.cli.execute import run_exec

    return run_exec(client, task, command, login=login, stdin=not no_stdin, as_json=as_json)


@click.command(context_settings=INNER_COMMAND)
@json_option
@task_argument
@click.argument("words", metavar="[-- COMMAND...]", nargs=-1, type=click.UNPROCESSED)
@pass_client
def shell(client: Client, task: str, words: tuple[str, ...], as_json: bool) -> int:
    """Open a terminal in the sandbox of a running task.

    TASK is a task's id or the beginning of one. You get bash as a login shell (sh where there is no bash), or COMMAND
    instead. All keys go inside, Ctrl-C included; end it with exit or Ctrl-D. What runs inside writes to your terminal
    unfiltered: use exec for what you don't trust that far.

    \b
    Examples:
      hutch shell 3f2a
      hutch shell 3f2a -- python3
    """
    from sandbox.cli.terminal import interactive

    return interactive(client, task, inner_command(words, needed=False), login=True, as_json=as_json)
