"""`hutch gc`: have the daemon drop what nobody needs any more, and say what that freed.

It must not decide what may go; the daemon does.
"""

from __future__ import annotations

import click

from sandbox import units
from sandbox.cli.common import Parsed, json_option, pass_client
from sandbox.cli.output import plural, print_json, print_line
from sandbox.client import Client
from sandbox.shapes import Collected
from sandbox.units import bytes_text


@click.command()
@click.option(
    "--older-than",
    type=Parsed("duration", units.duration),
    metavar="DURATION",
    help="Also snapshots that were made, and tasks that ended, longer ago than this.  [default for tasks: 7d]",
)
@click.option(
    "--keep", type=click.IntRange(min=0), metavar="N", help="Also all but the newest N snapshots of each origin."
)
@click.option(
    "--free",
    type=Parsed("size", units.size),
    metavar="SIZE",
    help="Also the oldest snapshots, until this much of the disk is free.",
)
@json_option
@pass_client
def gc(client: Client, /, as_json: bool, **wanted: float | None) -> None:
    """Drop expired snapshots, unused layers and old tasks, and say what was freed.

    Nothing that a running task or an image needs is touched. The daemon does it by itself every hour, and drops snapshots before
    they expire when less than 5 % of the disk is free.

    \b
    Examples:
      hutch gc
      hutch gc --older-than 2h --keep 1
      hutch gc --free 20G
    """
    freed = client.gc(**{name: value for name, value in wanted.items() if value is not None})
    print_json(freed) if as_json else print_line(freed_text(freed))


def freed_text(freed: Collected) -> str:
    """What was dropped, as one line."""
    parts = ((freed["snapshots"], "snapshot"), (freed["layers"], "layer"), (freed["tasks"], "task"))
    dropped = ", ".join(plural(count, noun) for count, noun in parts if count)
    return f"freed {bytes_text(freed['bytes'])}: {dropped}" if dropped else "nothing to drop"
