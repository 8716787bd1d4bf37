"""`hutch task …`: look at tasks and end them.

It must not follow or render events itself: that is run.py's and render.py's, so that logs look like the run did.
"""

from __future__ import annotations

import os
import shlex
from binascii import b2a_base64
from datetime import UTC, datetime

import click

from sandbox.cli import net_text
from sandbox.cli.codes import EXIT_FAILED
from sandbox.cli.common import Group, json_option, pass_client, task_argument
from sandbox.cli.main import report
from sandbox.cli.output import (
    STDOUT,
    colours,
    paint,
    plural,
    print_json,
    print_line,
    print_table,
    printable,
    seconds_text,
    write_all,
)
from sandbox.cli.render import Renderer, diff_text, network_of
from sandbox.cli.sanitize import Sanitizer
from sandbox.cli.screen import Screen
from sandbox.client import Client, HutchError
from sandbox.shapes import PhaseResult, Task

_COMMAND_MAX = 60  # characters of it in `task ls`
_STYLES = {
    "succeeded": "green",
    "failed": "red",
    "timed_out": "red",
    "lost": "red",
    "running": "cyan",
    "cancelled": "yellow",
}
# The file header before added and removed lines: its +++ and --- begin like them.
_PATCH_COLOURS = (
    *((start, b"1") for start in (b"diff ", b"index ", b"+++ ", b"--- ")),
    (b"@@", b"36"),
    (b"+", b"32"),
    (b"-", b"31"),
)


@click.group(cls=Group)
def task() -> None:
    """List, show, follow, cancel and remove tasks.

    Wherever TASK is asked for, the beginning of an id is enough as long as only one task begins so.
    """


@task.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List all tasks, the newest first.

    \b
    Example:
      hutch task ls --json | jq -r '.tasks[] | select(.state == "running") | .id'
    """
    tasks = client.tasks()
    if as_json:
        print_json({"tasks": tasks})
        return
    now = datetime.now(UTC)
    newest = sorted(tasks, key=lambda one: one["created"], reverse=True)
    several = len({one["owner"] for one in newest}) > 1
    headers = ("ID", "STATE", "AGE", "REPO", "COMMAND", "TOOK", *(["OWNER"] if several else []))
    rows = [(*row(one, now), *([one["owner"]] if several else [])) for one in newest]
    print_table(headers, rows, _STYLES)


@task.command()
@json_option
@task_argument
@pass_client
def show(client: Client, task: str, as_json: bool) -> None:
    """Show one task: what it ran, how it went, its cache use, diff and network."""
    found = client.task(task)
    if as_json:
        print_json(found)
        return
    for name, value in details(found, datetime.now(UTC)):
        print_line(f"{paint(f'{name + ":":12}', 'bold', STDOUT)} {printable(value)}")


@task.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Stay until the task ends.")
@json_option
@task_argument
@pass_client
def logs(client: Client, task: str, following: bool, as_json: bool) -> None:
    """Show a task's output from the beginning, as `hutch run` showed it.

    The command's own output is on standard output, all else on standard error. With --json each event is one line, with
    output in base64. Ctrl-C ends the watching, not the task.

    \b
    Examples:
      hutch task logs -f 3f2a
      hutch task logs 3f2a 2>/dev/null > output.txt
    """
    renderer = Renderer(Screen())
    with client.events(task, follow=following) as events:
        for event in events:
            print_json(event) if as_json else renderer.show(event)


@task.command()
@json_option
@task_argument
@pass_client
def diff(client: Client, task: str, as_json: bool) -> None:
    """Print what a task changed, as a patch for `git apply`.

    \b
    Examples:
      hutch task diff 3f2a | git apply
      hutch task diff 3f2a > change.patch
    """
    stream = client.diff(task)
    if as_json:
        print_json({"id": task, **patch_json(stream.read())})
    elif os.isatty(STDOUT):
        write_all(STDOUT, for_terminal(stream.read(), colours(STDOUT)))
    else:
        with stream:
            for chunk in stream.chunks():
                write_all(STDOUT, chunk)


@task.command()
@json_option
@task_argument
@pass_client
def cancel(client: Client, task: str, as_json: bool) -> None:
    """End a running task. Returns at once; `hutch task logs -f` shows the end."""
    found = client.cancel(task)
    ended = found["state"] not in ("queued", "running")
    text = f"{found['id']} has ended already: {found['state']}" if ended else f"cancelling {found['id']}"
    print_json(found) if as_json else print_line(text)


@task.command()
@json_option
@click.argument("tasks", metavar="TASK...", nargs=-1, required=True)
@pass_client
def rm(client: Client, tasks: tuple[str, ...], as_json: bool) -> int:
    """Forget tasks that have ended, with their logs and diffs."""
    removed, failed = [], []
    for one in tasks:
        try:
            client.remove_task(one)
        except HutchError as error:
            failed.append(error)
            report(error, as_json=False)
        else:
            removed.append(one)
    if as_json:
        print_json({"removed": removed, "errors": [{"message": e.message, "remedy": e.remedy} for e in failed]})
    return EXIT_FAILED if failed else 0


def row(found: Task, now: datetime) -> tuple[str, ...]:
    """One line of `task ls`."""
    age = seconds_text((now - _time(found["created"])).total_seconds())
    return (
        found["id"],
        found["state"],
        age,
        found["repo"] or "-",
        _short(shlex.join(found["command"])),
        took(found, now),
    )


def _short(command: str) -> str:
    return command if len(command) <= _COMMAND_MAX else f"{command[: _COMMAND_MAX - 1]}…"


def took(found: Task, now: datetime) -> str:
    """How long it ran, or has been running; "-" before its start."""
    if not found["started"]:
        return "-"
    end = _time(found["ended"]) if found["ended"] else now
    return seconds_text((end - _time(found["started"])).total_seconds())


def details(found: Task, now: datetime) -> list[tuple[str, str]]:
    """What `task show` prints, as (name, value); what has no value yet is left out."""
    cache, error, network = found.get("cache"), found.get("error"), network_of(found)
    code = found.get("exit_code")
    lines = [
        ("id", found["id"]),
        ("owner", found["owner"]),
        ("state", found["state"] + (f", exit code {code}" if code is not None else "")),
        ("error", f"{error['message']} {error.get('remedy') or ''}".strip() if error else ""),
        ("repository", found["repo"] or ""),
        ("ref", found["ref"] or ""),
        ("commit", found["commit"] or ""),
        ("image", found["image"]),
        ("command", shlex.join(found["command"])),
        ("created", found["created"]),
        ("took", took(found, now)),
        ("cache", f"{'hit' if cache['hit'] else 'miss'}, {cache['reason']} ({cache['key']})" if cache else ""),
        *(("phase", phase_text(one)) for one in found.get("phases") or []),
        ("diff", diff_text(found)),
        *(("network", f"{phase}: {net_text.setting(one)}") for phase, one in (found.get("policy") or {}).items()),
        ("allowed", plural(network["allowed"], "request")),
        *(("denied", line) for line in net_text.denied_lines(network["denied"], found["id"])),
    ]
    return [(name, value) for name, value in lines if value]


def phase_text(phase: PhaseResult) -> str:
    """A phase's time and exit code on one line."""
    code = phase["exit_code"]
    ended = f", exit code {code}" if code is not None else ""
    return f"{phase['name']}, {seconds_text(phase['seconds'] or 0)}{ended}"


def patch_json(patch: bytes) -> dict[str, str]:
    """A patch for JSON: as text where it is UTF-8, else in base64, since a replaced byte would make it another patch."""
    try:
        return {"patch": patch.decode("utf-8")}
    except UnicodeDecodeError:
        return {"patch_base64": b2a_base64(patch, newline=False).decode("ascii")}


def for_terminal(patch: bytes, colour: bool) -> bytes:
    """A patch as a terminal may see it: harmless (tenants wrote it), and with git's colours."""
    lines = Sanitizer().feed(patch, final=True).split(b"\n")
    return b"\n".join(map(_coloured, lines)) if colour else b"\n".join(lines)


def _coloured(line: bytes) -> bytes:
    for start, code in _PATCH_COLOURS:
        if line.startswith(start):
            return b"\x1b[%bm%b\x1b[0m" % (code, line)
    return line


def _time(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
