"""`hutch env validate` and `hutch env shell`: an environment tried out by a task that is thrown away afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from sandbox.cli import project
from sandbox.cli.common import json_option, pass_client
from sandbox.cli.output import print_json, print_line, print_table, seconds_text
from sandbox.cli.render import Renderer, exit_code
from sandbox.cli.screen import Screen
from sandbox.cli.settings_options import settings, settings_options
from sandbox.cli.trial import PROBE, VERSION_MAX, attend, tools_in, trial
from sandbox.client import Client
from sandbox.units import bytes_text

_STAY = "echo ready; while :; do sleep 3600; done"


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@settings_options
@json_option
@pass_client
def validate(client: Client, /, name: str | None, as_json: bool, **options: Any) -> int:
    """Set an environment up from nothing, and say what an agent would find in it.

    Setup runs as it does for a task, its output is shown, and its result is cached: the next task starts from it. Without NAME it
    is the environment of the checkout that you stand in. Exit code: 0, or 1 if setup failed.

    \b
    Examples:
      hutch env validate web
      hutch env validate --json > report.json
    """
    request = settings(options) | {"command": PROBE, "fresh": True}
    screen = Screen(as_json)
    with _task(client, request, name, screen) as task_id:
        said, task = attend(client, task_id, screen)
    tools = tools_in(said)
    key = task["cache"]["key"] if task["cache"] else None
    kept = next((one for one in client.snapshots() if one["key"] == key), None)
    if as_json:
        print_json(
            {"state": task["state"], "error": task["error"], "phases": task["phases"], "tools": tools, "snapshot": kept}
        )
        return exit_code(task)
    if task["state"] == "succeeded":
        print_table(("TOOL", "VERSION"), [(tool, version[:VERSION_MAX]) for tool, version in tools.items()])
        times = ", ".join(f"{phase['name']} {seconds_text(phase['seconds'] or 0)}" for phase in task["phases"])
        print_line(f"times: {times}")
        print_line(f"cached: {bytes_text(kept['bytes'] or 0)}, until {kept['expires']}" if kept else "cached: nothing")
    return exit_code(task)


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
@settings_options
@json_option
@pass_client
def shell(client: Client, /, name: str | None, as_json: bool, **options: Any) -> int:
    """Open a terminal in an environment's cached state; what you do there is thrown away.

    It is what an agent would find: the repository checked out, the agent's network. Without NAME it is the environment of the
    checkout that you stand in.

    \b
    Examples:
      hutch env shell web
      hutch env shell --access unrestricted
    """
    from sandbox.cli.terminal import interactive, must_be_terminal

    must_be_terminal(as_json)  # before anything is set up
    request = settings(options) | {"command": ["sh", "-c", _STAY]}
    screen = Screen(json=True)
    with _task(client, request, name, screen) as task_id:
        if not _until_ready(client, task_id, screen):
            return exit_code(client.task(task_id))
        try:
            return interactive(client, task_id, [], login=True, as_json=as_json)
        finally:
            client.cancel(task_id)
            _ended(client, task_id)


@contextmanager
def _task(client: Client, request: dict[str, Any], name: str | None, screen: Screen) -> Iterator[str]:
    """A task in the environment `name`, or that of the checkout; forgotten at the end."""
    if name is not None:
        request["environment"] = name
    with trial(client, request, screen, project.complete(request)) as task_id:
        yield task_id


def _until_ready(client: Client, task_id: str, screen: Screen) -> bool:
    """Show the phases before the command; False if the task ended before that ran."""
    renderer = Renderer(screen)
    with client.events(task_id, follow=True) as events:
        for event in events:
            if event.get("type") == "output" and event.get("phase") == "agent":
                return True
            if event.get("phase") != "agent":
                renderer.show(event)
    return False


def _ended(client: Client, task_id: str) -> None:
    with client.events(task_id, follow=True, only="network") as events:
        for _ in events:
            pass
