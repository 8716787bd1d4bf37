"""`hutch run`: submit a task, stream what it prints, end with its command's exit code.

It must leave no task running that the user believes cancelled: Ctrl-C cancels and waits for the end.
"""

from __future__ import annotations

import contextlib
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, cast

import click

from sandbox.cli.common import INNER_COMMAND, environment_option, json_option, pass_client
from sandbox.cli.output import print_json, print_line
from sandbox.cli.project import complete, told_by_line
from sandbox.cli.render import Renderer, exit_code, result
from sandbox.cli.screen import Screen
from sandbox.cli.settings_options import settings, settings_options
from sandbox.client import Client, ConnectionLost, HutchError
from sandbox.shapes import Task, TaskSpec


@click.command(context_settings=INNER_COMMAND)
@environment_option
@click.option(
    "--no-env", is_flag=True, help="Take nothing from an environment or a hutch.toml: what is typed here is all."
)
@click.option("--ref", metavar="REF", help="Branch, tag or commit.  [default: the repository's default branch]")
@settings_options
@click.option(
    "--fresh", is_flag=True, help="Set up from nothing, though a cached state would do; the result is cached."
)
@click.option("-d", "--detach", is_flag=True, help="Print the task's id and leave it running.")
@json_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@pass_client
def run(
    client: Client, /, command: tuple[str, ...], as_json: bool, detach: bool, environment: str | None, no_env: bool,
    ref: str | None, fresh: bool, **options: Any,
) -> int:  # fmt: skip
    """Run COMMAND on a repository in a fresh sandbox and show what it changed.

    The environment is set up once (--setup, network on) and cached; then COMMAND runs in a new sandbox, in the
    repository's directory, with the network off unless you allow more. Its output comes to your terminal as it is
    written; everything else (phases, notices, setup's output, the summary) goes to standard error.

    In a checkout with a hutch.toml, or of a repository that an environment is for (hutch env --help), the settings come from
    there, and COMMAND runs on the checkout's commits. What is typed here wins, but rules and secrets are added; --no-env takes
    nothing from anywhere. Without a repository COMMAND runs in an empty /workspace. It reads no standard input (hutch exec does).
    Without --setup, what the repository's manifests and lock files ask for is installed: npm, yarn, pnpm, pip, pipenv,
    poetry, uv, Go, Cargo, Bundler, Composer, Maven, Gradle.

    \b
    Examples:
      hutch run -- pytest -q                                     in a checkout with a hutch.toml
      hutch run --env web -- npm test
      hutch run -- python3 -c 'print("hello")'
      hutch run --repo . -- pytest -q
      hutch run --repo . --no-setup -- git log --stat
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
    request: dict[str, Any] = settings(options) | {"command": list(command)}
    if environment and no_env:
        raise click.UsageError("--env and --no-env exclude each other: give one of them")
    if environment or no_env:
        request["environment"] = environment or ""
    if ref:
        request["ref"] = ref
    if fresh:
        request["fresh"] = True
    file = complete(request)
    if detach:
        with told_by_line(file):
            task = client.create_task(cast("TaskSpec", request))
        print_json(result(task)) if as_json else print_line(task["id"])
        return 0
    return attend(client, cast("TaskSpec", request), file, Screen(as_json), as_json)


def attend(client: Client, request: TaskSpec, file: Path | None, screen: Screen, as_json: bool) -> int:
    """Submit a task, show its life, and return the exit code. `file`: the hutch.toml that is in the request."""
    with cancel_on_signal(client, screen) as cancel:
        with told_by_line(file):
            created = client.create_task(request)
        cancel.task = created["id"]
        cancel.catch_up()
        screen.heading(f"== task {created['id']}")
        if origin := _origin(created, file):
            screen.notice(origin)
        if created["repo"] is None and "checkout" in request:
            screen.notice(
                f"no repository; --repo {shlex.quote(str(request['checkout']))} runs on this checkout's commits"
            )
        task = follow(client, created["id"], screen)
    if as_json:
        print_json(result(task))
    return exit_code(task)


def _origin(task: Task, file: Path | None) -> str:
    """Where the settings come from that were not typed."""
    sources = [f"environment {task['environment']}"] if task.get("environment") else []
    sources += [str(file)] if file else []
    return f"settings: {' + '.join(sources)}" if sources else ""


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
def cancel_on_signal(client: Client, screen: Screen) -> Iterator[_Cancel]:
    """While inside, Ctrl-C cancels the task that `.task` of what is yielded names."""
    cancel = _Cancel(client, screen)
    before = {number: signal.signal(number, cancel.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield cancel
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
