"""`hutch serve`: the daemon in the foreground. Takes options and hands over to sandbox.core.daemon.

It must not import the daemon before it is asked to run it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sandbox import units
from sandbox.cli.common import Parsed, json_option, state_option
from sandbox.cli.main import socket_path
from sandbox.cli.output import print_json
from sandbox.client import HutchError


def _size_or_nothing(text: str) -> int:
    return 0 if text.strip() == "0" else units.size(text)


@click.command()
@state_option
@click.option(
    "--socket",
    type=click.Path(path_type=Path),
    help="Unix socket to listen on.  [env: HUTCH_SOCKET; default: /run/hutch/hutch.sock]",
)
@click.option(
    "--private-name",
    "private_names",
    multiple=True,
    metavar="NAME|NETWORK",
    help="Name that may lead to a private address, or network that may be reached; repeatable.",
)
@click.option(
    "--ceiling",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="HUTCH_CEILING",
    help="File of what no task may exceed.  [env: HUTCH_CEILING; default: /etc/hutch/ceiling.toml if it is there]",
)
@click.option(
    "--max-tasks",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many tasks run at once; others wait.  [default: 64]",
)
@click.option(
    "--hosts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File like /etc/hosts: names that the filter resolves by itself.",
)
@click.option(
    "--cache-size",
    type=Parsed("size", _size_or_nothing),
    metavar="SIZE",
    help="Package downloads kept for all tasks (hutch cache), for example 2G; 0 keeps none.  [default: 10G]",
)
@click.option(
    "--group", metavar="GROUP", help="Whose members may use the socket beside root.  [default: hutch, if there is one]"
)
@json_option
@click.pass_context
def serve(
    ctx: click.Context,
    state: Path,
    socket: Path | None,
    private_names: tuple[str, ...],
    ceiling: Path | None,
    max_tasks: int | None,
    hosts: Path | None,
    cache_size: int | None,
    group: str | None,
    as_json: bool,
) -> None:
    """Run the daemon in the foreground, as root. SIGTERM or Ctrl-C ends its tasks in order and then the daemon.

    Several daemons can run side by side, each with a --state and a --socket of its own. Secrets and keys lie in the
    state directory: only root should reach it. Whoever may use the socket has tasks, secrets and environments of his own;
    root sees everybody's.

    \b
    Examples:
      hutch serve
      hutch serve --state /srv/hutch-b --socket /run/hutch-b.sock
      hutch serve --max-tasks 4 --private-name git.internal.example
      hutch serve --ceiling ceiling.toml

    \b
    A ceiling, each line of which may be left out:
      deny = ["evil.example", "10.0.0.0/8"]           denied to every task in every phase
      agent_access = "limited"                        the most an agent may have: off, limited or unrestricted
      private = ["git.corp.example", "10.1.0.0/16"]   names and networks that may be private (as --private-name)
      limits = { memory = "16G", disk = "50G" }       the most of memory, cpus, pids, disk, files; disk and files also
                                                      hold for tasks that ask for none
    """
    if os.geteuid() != 0:
        raise HutchError("hutch serve makes namespaces and mounts, which needs root", "run it as root, or with sudo")
    chosen = (socket or Path(ctx.find_root().params.get("socket") or socket_path())).absolute()
    if as_json:
        print_json({"state": str(state.absolute()), "socket": str(chosen), "pid": os.getpid()})
    # Only what was given is passed on: the daemon knows its own defaults.
    files = {"hosts": hosts and hosts.absolute(), "ceiling": ceiling and ceiling.absolute()}
    given = {"private_names": private_names, "max_tasks": max_tasks, "group": group, **files}
    options = {name: value for name, value in given.items() if value}
    if cache_size is not None:
        options["cache_size"] = cache_size
    _run(state.absolute(), chosen, options)


def _run(state: Path, socket: Path, options: dict[str, Any]) -> None:
    from rootfs.errors import ImageError
    from sandbox.core import daemon
    from sandbox.core.errors import TaskError
    from sandbox.host.errors import HostError

    try:
        daemon.serve(state, socket, **options)
    except (TaskError, HostError, ImageError) as error:
        raise HutchError(error.message, error.remedy) from error
