"""`hutch image verify`: every tool and every version of every runtime on an image, tried by ordinary tasks."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import click

from sandbox.cli.common import Parsed, complete_runtimes, image_argument, json_option, pass_client
from sandbox.cli.output import print_json, print_table, seconds_text
from sandbox.cli.screen import Screen
from sandbox.cli.trial import PROBE, VERSION_MAX, attend, tools_in, trial
from sandbox.client import Client
from sandbox.shapes import LanguageRuntime


def _wanted(text: str) -> tuple[str, str]:
    name, _, version = text.partition("=")
    return name, version


@click.command()
@click.option(
    "--runtime",
    "only",
    multiple=True,
    type=Parsed("runtime", _wanted),
    metavar="NAME[=VERSION]",
    shell_complete=complete_runtimes,
    help="Only this runtime, or this version of it; repeatable.  [default: all]",
)
@json_option
@image_argument
@pass_client
def verify(client: Client, only: tuple[tuple[str, str], ...], name: str, as_json: bool) -> int:
    """Try every tool and every version of every runtime on the image NAME, and print what each says.

    Runtimes that have no layer yet are built, one after the other: the first time takes minutes. Exit code: 0, or 1 where any
    failed.

    \b
    Examples:
      hutch image verify base
      hutch image verify universal --runtime node --runtime python=3.11
    """
    screen = Screen(as_json)
    runtimes = client.runtimes()
    _check(only, runtimes)
    with trial(client, {"image": name, "command": PROBE, "setup": ""}, screen) as task_id:
        said, _ = attend(client, task_id, screen)
    tools = tools_in(said)
    found = [_try(client, screen, name, one, version) for one, version in _versions(only, runtimes)]
    if as_json:
        print_json({"image": name, "tools": tools, "runtimes": found})
    else:
        print_table(("TOOL", "VERSION"), [(tool, version[:VERSION_MAX]) for tool, version in tools.items()])
        rows = [
            (one["name"], one["version"], one["state"], seconds_text(one["seconds"]), one["says"][:VERSION_MAX])
            for one in found
        ]
        print_table(("RUNTIME", "VERSION", "STATE", "TOOK", "SAYS"), rows, {"succeeded": "green", "failed": "red"})
    return 0 if all(one["state"] == "succeeded" for one in found) else 1


def _check(only: tuple[tuple[str, str], ...], runtimes: list[LanguageRuntime]) -> None:
    known = [one["name"] for one in runtimes]
    for name, _ in only:
        if name not in known:
            raise click.BadParameter(
                f"there is no runtime named {name!r}: use one of {', '.join(known)}", param_hint="--runtime"
            )


def _versions(
    only: tuple[tuple[str, str], ...], runtimes: list[LanguageRuntime]
) -> Iterator[tuple[LanguageRuntime, str]]:
    for one in runtimes:
        asked = [version for name, version in only if name == one["name"]]
        if only and not asked:
            continue
        for version in one["versions"] if not only or "" in asked else asked:
            yield one, version


def _try(client: Client, screen: Screen, image: str, one: LanguageRuntime, version: str) -> dict[str, Any]:
    started = monotonic()
    request = {"image": image, "runtimes": {one["name"]: version}, "command": ["sh", "-c", one["check"]], "setup": ""}
    with trial(client, request, screen) as task_id:
        said, task = attend(client, task_id, screen)
    lines = said.decode("utf-8", "replace").splitlines()
    return {
        "name": one["name"],
        "version": version,
        "state": task["state"],
        "seconds": monotonic() - started,
        "says": lines[-1] if lines else "",  # an image's entrypoint may have said something before
        "error": task["error"],
    }
