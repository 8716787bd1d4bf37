"""`hutch doctor`: what this host can and can't do, with a remedy for each lack.

It must work without a daemon, and change nothing on the host.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from sandbox.cli.codes import EXIT_FAILED
from sandbox.cli.common import json_option, pass_client, state_option
from sandbox.cli.output import print_json, print_table
from sandbox.client import Client, DaemonUnreachable

_STYLES = {"ok": "green", "missing": "red", "limited": "yellow"}


@click.command()
@state_option
@json_option
@pass_client
def doctor(client: Client, state: Path, as_json: bool) -> int:
    """Check what this host can and can't do, and how to mend what it can't.

    "missing" must be mended before tasks can run; "limited" only costs a feature. Exit code 1 if something is missing.
    Run as root, it looks for itself and needs no daemon; other users get the daemon's answer where one is running.
    """
    checks = [*host_checks(client, state), daemon_check(client)]
    if as_json:
        print_json({"checks": checks})
    else:
        print_table(("CHECK", "RESULT", "DETAIL", "REMEDY"), [row(check) for check in checks], _STYLES)
    return EXIT_FAILED if any(word(check) == "missing" for check in checks) else 0


def host_checks(client: Client, state: Path) -> list[dict[str, Any]]:
    """The host's checks: made here by root; others ask the daemon, since much can't be seen without root."""
    if os.geteuid() != 0:
        try:
            return client.doctor()
        except DaemonUnreachable:
            pass  # then what this user can see is better than nothing
    from sandbox.host import doctor as host

    return [
        {"name": check.name, "ok": check.ok, "level": check.level, "detail": check.detail, "remedy": check.remedy}
        for check in host.checks(state)
    ]


def daemon_check(client: Client) -> dict[str, Any]:
    """Whether a daemon answers. Optional: on a new host there is none yet."""
    try:
        health = client.health()
        ok, detail, remedy = True, f"version {health.get('version')} answers on {client.socket}", ""
    except DaemonUnreachable as error:
        ok, detail, remedy = False, error.message, error.remedy
    return {"name": "daemon", "ok": ok, "level": "optional", "detail": detail, "remedy": remedy}


def word(check: dict[str, Any]) -> str:
    """ok, missing (required and not there) or limited (optional and not there)."""
    if check["ok"]:
        return "ok"
    return "missing" if check["level"] == "required" else "limited"


def row(check: dict[str, Any]) -> tuple[str, str, str, str]:
    """One line of the table; a remedy only where something lacks."""
    return (check["name"], word(check), check["detail"] or "", "" if check["ok"] else check["remedy"] or "")
