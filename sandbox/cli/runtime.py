"""`hutch runtime …`: the language runtimes that a task may ask for.

It must not know any of them; the daemon does.
"""

from __future__ import annotations

import click

from sandbox.cli.common import Group, json_option, pass_client
from sandbox.cli.output import print_json, print_table
from sandbox.client import Client
from sandbox.shapes import LanguageRuntime


@click.group(cls=Group)
def runtime() -> None:
    """List language runtimes, which a task asks for by --runtime NAME=VERSION.

    Each version is a layer of its own. The first task that asks for one on an image has it built, which takes seconds to minutes;
    from then on it costs a task nothing. A layer is kept for 30 days (hutch snapshot ls shows them) and then built anew, with the
    newest patch release.

    \b
    Examples:
      hutch run --runtime node=22 --runtime python=3.11 -- node --version
      hutch env create web --repo https://example.com/app.git --runtime node=24

    \b
    In hutch.toml:
      [runtimes]
      python = "3.13"
    """


@runtime.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List them, with the versions that can be had and those that are built."""
    found = client.runtimes()
    if as_json:
        print_json({"runtimes": found})
        return
    rows = [(one["name"], _versions(one), ", ".join(one["built"]) or "-", one["description"]) for one in found]
    print_table(("NAME", "VERSIONS", "BUILT", ""), rows)


def _versions(one: LanguageRuntime) -> str:
    return ", ".join(one["versions"]) + (", and longer ones" if one["exact"] else "")
