"""`hutch gc`: have the daemon drop what nobody needs any more, and say what that freed.

It must not decide what may go; the daemon does.
"""

from __future__ import annotations

import click

from sandbox.cli.common import json_option, pass_client
from sandbox.cli.output import bytes_text, plural, print_json, print_line
from sandbox.client import Client
from sandbox.shapes import Collected


@click.command()
@json_option
@pass_client
def gc(client: Client, as_json: bool) -> None:
    """Drop expired snapshots, unused layers and old tasks, and say what was freed.

    Nothing that a running task or an image needs is touched.
    """
    freed = client.gc()
    print_json(freed) if as_json else print_line(freed_text(freed))


def freed_text(freed: Collected) -> str:
    """What was dropped, as one line."""
    parts = ((freed["snapshots"], "snapshot"), (freed["layers"], "layer"), (freed["tasks"], "task"))
    dropped = ", ".join(plural(count, noun) for count, noun in parts if count)
    return f"freed {bytes_text(freed['bytes'])}: {dropped}" if dropped else "nothing to drop"
