"""`hutch run`: submit a task, stream what it prints, end with its command's exit code.

It must leave no task running that the user believes cancelled: Ctrl-C cancels and waits for the end.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import click

from sandbox.cli import parse
from sandbox.cli.common import INNER_COMMAND, Parsed, image_option, json_option, pass_client, secret_option
from sandbox.cli.network_options import network_options, typed
from sandbox.cli.output import print_json, print_line
from sandbox.cli.render import Renderer, exit_code, result
from sandbox.cli.screen import Screen
from sandbox.client import Client, ConnectionLost, HutchError
from sandbox.shapes import Limits, Task, TaskSpec

_SCRIPT = Parsed("TEXT|@FILE", parse.text_or_file)
_AGENT_HELPS = {
    "access": "The command's network.  [default: off; limited with --allow, --preset or --methods]",
    "preset": "Let the command reach a list of well-known hosts, and the registries of pip, npm and apt.",
    "allow": "Let the command reach what RULE says (hutch net --help); repeatable.",
    "deny": "Let it never reach what RULE says; wins over everything else; repeatable.",
    "methods": "The only HTTP methods that the command may use, for example GET,HEAD,OPTIONS.",
}
_SETUP_HELPS = {
    "access": "The network of setup and maintenance.  [default: unrestricted; limited with --setup-allow or -preset]",
    "preset": "As --preset, for setup and maintenance.",
    "allow": "As --allow, for setup and maintenance; repeatable.",
    "deny": "As --deny, for setup and maintenance; repeatable.",
    "methods": "As --methods, for setup and maintenance.",
}


@click.command(context_settings=INNER_COMMAND)
@image_option
@click.option(
    "--repo", type=Parsed("repo", parse.repository), metavar="URL|PATH", help="Repository; none: an empty workspace."
)
@click.option("--ref", metavar="REF", help="Branch, tag or commit.  [default: the repository's default branch]")
@click.option(
    "--setup", type=_SCRIPT, metavar="TEXT|@FILE", help="Bash script that prepares the environment, network on; cached."
)
@click.option(
    "--maintenance", type=_SCRIPT, metavar="TEXT|@FILE", help="Bash script that freshens a cached environment."
)
@click.option(
    "--env",
    multiple=True,
    type=Parsed("env", parse.variable),
    metavar="K=V",
    help="Variable for all phases; repeatable.",
)
@secret_option
@network_options("", _AGENT_HELPS)
@network_options("setup-", _SETUP_HELPS)
@click.option(
    "--timeout", type=Parsed("duration", parse.duration), metavar="DURATION", help="End the task after 90s, 15m, 1h30m."
)
@click.option("--memory", type=Parsed("size", parse.size), metavar="SIZE", help="Memory limit, for example 2G.")
@click.option(
    "--cpus", type=click.FloatRange(min=0, min_open=True), metavar="N", help="CPU limit in cores, for example 1.5."
)
@click.option("--pids", type=click.IntRange(min=1), metavar="N", help="Limit of processes and threads.")
@click.option("-d", "--detach", is_flag=True, help="Print the task's id and leave it running.")
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_client
def run(client: Client, /, command: tuple[str, ...], as_json: bool, detach: bool, **options: Any) -> int:
    """Run COMMAND on a repository in a fresh sandbox and show what it changed.

    The environment is set up once (--setup, network on) and cached; then COMMAND runs in a new sandbox, in the
    repository's directory, with the network off unless you allow more. Its output comes to your terminal as it is
    written; everything else (phases, notices, setup's output, the summary) goes to standard error.

    \b
    Examples:
      hutch run -- python3 -c 'print("hello")'
      hutch run --repo . -- pytest -q
      hutch run --repo https://example.com/app.git --ref v2 --setup 'pip install -e .' -- pytest
      hutch run --repo . --setup @setup.sh --allow example.com -- ./agent.sh
      hutch run --repo . --preset common-dependencies --deny ads.example.com -- ./agent.sh
      hutch run --repo . --allow 'git.example.com git=read' --methods GET,HEAD -- ./agent.sh
      hutch run --repo . --setup 'make deps' --setup-preset package-managers -- make test
      hutch run --repo . --secret API_TOKEN --allow api.example.com -- ./agent.sh
      hutch run --repo . --json -- make > result.json

    COMMAND is run as it is, without a shell: write sh -c '…' where you need one.

    Exit code: COMMAND's own; 1 where the task failed otherwise (setup failed, say), 2 wrong usage, 124 timed out, 130
    cancelled. With --json the fields state, exit_code and error tell them apart. Ctrl-C cancels the task and waits for
    its end; a second Ctrl-C leaves at once.
    """
    spec = task_spec(list(command), **options)
    if detach:
        task = client.create_task(spec)
        print_json(result(task)) if as_json else print_line(task["id"])
        return 0
    screen = Screen(as_json)
    with _cancel_on_signal(client, screen) as cancel:
        cancel.task = task_id = client.create_task(spec)["id"]
        cancel.catch_up()
        screen.heading(f"== task {task_id}")
        task = follow(client, task_id, screen)
    if as_json:
        print_json(result(task))
    return exit_code(task)


def task_spec(command: list[str], **options: Any) -> TaskSpec:
    """The API's request of the options' values."""
    network = {phase: typed(options, prefix) for phase, prefix in (("agent", ""), ("setup", "setup-"))}
    names = ("memory", "cpus", "pids")
    limits = {name: options[name] for name in names if options[name] is not None}
    return TaskSpec(
        repo=options["repo"],
        ref=options["ref"],
        image=options["image"],
        setup=options["setup"],
        maintenance=options["maintenance"],
        env=dict(options["env"]),
        secrets=list(options["secrets"]),
        network={phase: setting for phase, setting in network.items() if setting},
        timeout=options["timeout"],
        command=command,
        limits=Limits(**limits) if limits else None,  # type: ignore[typeddict-item]
    )


def follow(client: Client, task_id: str, screen: Screen) -> Task:
    """Show a task's events until it ends; returns how it ended."""
    renderer = Renderer(screen)
    with client.events(task_id, follow=True) as events:
        for event in events:
            renderer.show(event)
            if event.get("type") == "end":
                task: Task = event["task"]
                return task
    raise ConnectionLost("the daemon ended the answer before the task's end", f"see: hutch task show {task_id}")


class _Cancel:
    """The first Ctrl-C (or SIGTERM) cancels the task, the second leaves."""

    def __init__(self, client: Client, screen: Screen) -> None:
        self.task = ""
        self._client = client
        self._screen = screen
        self._asked = False

    def handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._asked:
            if self.task:
                self._screen.notice(f"left; to see how task {self.task} ends: hutch task logs -f {self.task}")
            raise KeyboardInterrupt
        self._asked = True
        self._screen.notice("cancelling; Ctrl-C again leaves without waiting for the end")
        self.catch_up()

    def catch_up(self) -> None:
        """Cancel if that was asked for. Before the task has an id there is nothing to cancel yet: then called again."""
        if self._asked and self.task:
            try:
                self._client.cancel(self.task)
            except HutchError as error:
                self._screen.notice(f"cannot cancel: {error}")


@contextlib.contextmanager
def _cancel_on_signal(client: Client, screen: Screen) -> Iterator[_Cancel]:
    cancel = _Cancel(client, screen)
    before = {number: signal.signal(number, cancel.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
