"""`hutch inspect` and `hutch top`: what a running sandbox is given, and what running tasks use.

It must not judge: `inspect` prints what the kernel says is in force.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from typing import Any

import click

from sandbox.cli.common import json_option, pass_client, task_argument
from sandbox.cli.output import STDOUT, print_json, print_line, print_table, printable
from sandbox.client import Client
from sandbox.units import bytes_text

_COMMAND_MAX = 40
_CLEAR = "\x1b[H\x1b[2J"


@click.command()
@task_argument
@json_option
@pass_client
def inspect(client: Client, task: str, as_json: bool) -> None:
    """Show the walls of a running task's sandbox, read back from the kernel: namespaces, ids, capabilities, limits, mounts.

    \b
    Examples:
      hutch inspect 4be1
      hutch inspect --json 4be1 | jq .capabilities.bounding
    """
    found = client.inspect(task)
    if as_json:
        return print_json(found)
    for name, value in _rows(found):
        print_line(f"{name + ':' if name else '':14}{printable(value)}".rstrip())


def _rows(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "task", f"{found['task']}, {found['phase']}, pid {found['pid']} of the host, address {found['address']}"
    own = [name for name, one in found["namespaces"].items() if not one["shared_with_daemon"]]
    shared = [name for name, one in found["namespaces"].items() if one["shared_with_daemon"]]
    yield "namespaces", f"own: {', '.join(own)}; the daemon's: {', '.join(shared) or 'none'}"
    for kind in ("uid", "gid"):
        yield (
            kind + "s",
            "; ".join(f"{a}-{a + n - 1} are {b}-{b + n - 1} of the host" for a, b, n in found[f"{kind}_map"]),
        )
    for name, held in found["capabilities"].items():
        yield ("capabilities" if name == "inheritable" else ""), f"{name}: {' '.join(held) or 'none'}"
    seccomp, no_more = found["seccomp"], "none can be gained" if found["no_new_privs"] else "MORE CAN BE GAINED"
    yield "privileges", f"{no_more}; seccomp: {seccomp['mode']}, {seccomp['filters']} programs"
    yield "cgroup", ", ".join(f"{name} {value}" for name, value in found["cgroup"].items())
    yield "rlimits", ", ".join(f"{name} {soft}" for name, (soft, _) in found["rlimits"].items())
    yield "oom score", str(found["oom_score_adj"])
    yield "devices", " ".join(found["devices"])
    yield "sysctls", ", ".join(f"{name} {value}" for name, value in found["sysctls"].items())
    for number, mount in enumerate(found["mounts"]):
        yield ("" if number else "mounts"), f"{mount['path']} ({mount['type']}) {mount['options']}"


@click.command()
@click.option(
    "-n",
    "--interval",
    type=click.FloatRange(min=0.1),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option("--once", is_flag=True, help="Look twice, print once. As on what is no terminal.")
@json_option
@pass_client
def top(client: Client, interval: float, once: bool, as_json: bool) -> None:
    """Show what running tasks use: processor, memory, processes, network. Ctrl-C ends it.

    \b
    Examples:
      hutch top
      hutch top --json | jq '.tasks[] | {task, memory}'
    """
    if as_json:
        return print_json({"tasks": client.usage()})
    once = once or not os.isatty(STDOUT)
    before, then = {one["task"]: one["cpu"] for one in client.usage()}, time.monotonic()
    while True:
        time.sleep(min(interval, 0.5) if once else interval)
        found, now = client.usage(), time.monotonic()
        if not once:
            os.write(STDOUT, _CLEAR.encode())
        rows = [_row(one, (one["cpu"] - before.get(one["task"], one["cpu"])) / (now - then)) for one in found]
        print_table(("TASK", "OWNER", "PHASE", "CPU", "MEMORY", "PROCESSES", "NETWORK", "DENIED", "COMMAND"), rows)
        if once:
            return None
        before, then = {one["task"]: one["cpu"] for one in found}, now


def _row(one: dict[str, Any], cores: float) -> tuple[str, ...]:
    limits, command = one["limits"], shlex.join(one["command"])
    return (
        one["task"],
        one["owner"],
        one["phase"] or one["state"],
        f"{100 * max(0.0, cores):.0f} %",  # another phase is another sandbox, whose time begins anew
        f"{bytes_text(one['memory'])} of {bytes_text(limits['memory'])}",
        f"{one['pids']} of {limits['pids']}",
        bytes_text(one["network"]["bytes"]),
        str(one["network"]["denied"]),
        command if len(command) <= _COMMAND_MAX else f"{command[: _COMMAND_MAX - 1]}…",
    )
