"""`hutch cache …`: the package downloads that the filter keeps for all tasks. Not the snapshots: those are hutch gc's.

It must not decide what may be kept; the filter does.
"""

from __future__ import annotations

import time

import click

from sandbox.cli.common import Group, json_option, pass_client
from sandbox.cli.output import plural, print_json, print_line, print_table, seconds_text
from sandbox.client import Client
from sandbox.units import bytes_text


@click.group(cls=Group)
def cache() -> None:
    """List and clear the package downloads that the filter keeps.

    What package managers fetch without credentials from the registries that a task may reach is kept once for all tasks, so that
    the next setup doesn't wait for it. It is asked for again as the server says, and what was used least goes first.
    """


@cache.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List what is kept, what was used last first."""
    found = client.artifacts()
    if as_json:
        print_json(found)
        return
    now = time.time()
    rows = [
        (bytes_text(one["bytes"]), seconds_text(max(0.0, now - one["validated"])), one["url"]) for one in found["items"]
    ]
    print_table(("SIZE", "AGE", "URL"), rows)
    more = found["entries"] - len(rows)
    kept = f"{plural(found['entries'], 'download')}, {bytes_text(found['bytes'])} of {bytes_text(found['limit'])}"
    print_line(f"{kept}; {more} not listed" if more > 0 else kept)


@cache.command()
@json_option
@pass_client
def clear(client: Client, as_json: bool) -> None:
    """Drop everything that is kept; the next setups fetch it again."""
    freed = client.clear_artifacts()
    print_json(freed) if as_json else print_line(
        f"freed {bytes_text(freed['bytes'])}: {plural(freed['entries'], 'download')}"
    )
