"""`hutch snapshot …`: the cached states of environments, as setup left them.

It must not decide what may go; the daemon does.
"""

from __future__ import annotations

from datetime import UTC, datetime

import click

from sandbox.cli.common import Group, complete, json_option, pass_client
from sandbox.cli.output import plural, print_json, print_line, print_table, printable, seconds_text
from sandbox.client import Client
from sandbox.shapes import Snapshot
from sandbox.units import bytes_text


def _complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, lambda client: [one["id"] for one in client.snapshots()], incomplete)


_argument = click.argument("snapshot", metavar="SNAPSHOT", shell_complete=_complete)


@click.group(cls=Group)
def snapshot() -> None:
    """List, show and drop the cached states of environments, and the layers of language runtimes.

    A task with a setup script starts from the snapshot that the script made, for 12 hours (--cache-lifetime), unless something
    that setup depends on has changed.
    """


@snapshot.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List them, newest first."""
    found = client.snapshots()
    if as_json:
        print_json({"snapshots": found})
        return
    rows = [
        (one["id"], _origin(one), bytes_text(one["bytes"] or 0), _age(one["created"]), _use(one), one["expires"])
        for one in found
    ]
    print_table(("ID", "FROM", "SIZE", "AGE", "USE", "EXPIRES"), rows)


@snapshot.command()
@_argument
@json_option
@pass_client
def show(client: Client, snapshot: str, as_json: bool) -> None:
    """Show one: its key, origin, size, age and use."""
    one = client.snapshot(snapshot)
    if as_json:
        print_json(one)
        return
    rows = {
        "id": one["id"], "key": one["key"], "environment": one["environment"] or "-", "runtime": one["runtime"] or "-",
        "repository": one["repo"] or "-", "commit": one["commit"] or "-",
        "size": bytes_text(one["bytes"] or 0), "created": one["created"],
        "expires": one["expires"], "use": _use(one),
    }  # fmt: skip
    for name, value in rows.items():
        print_line(f"{name:<12} {printable(value)}")


@snapshot.command()
@click.argument("snapshots", metavar="SNAPSHOT...", nargs=-1, required=True, shell_complete=_complete)
@json_option
@pass_client
def rm(client: Client, snapshots: tuple[str, ...], as_json: bool) -> None:
    """Drop snapshots. Tasks that stand on one go on; the next one sets up from nothing."""
    freed = sum(client.remove_snapshot(one)["bytes"] for one in snapshots)
    print_json({"removed": list(snapshots), "bytes": freed}) if as_json else print_line(f"freed {bytes_text(freed)}")


def _origin(one: Snapshot) -> str:
    return one["runtime"] or one["environment"] or one["repo"] or "-"


def _use(one: Snapshot) -> str:
    tasks = plural(one["tasks"], "task")
    return f"{tasks}, now too" if one["in_use"] else tasks


def _age(created: str) -> str:
    return seconds_text(max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds()))
