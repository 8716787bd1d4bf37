"""A call costs what it imports: the fast paths import nothing slow, and help imports no command."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from sandbox.cli.app import COMMANDS, hutch

LIMIT = 60.0
SLOW = (
    "asyncio",
    "concurrent",
    "email",
    "fastapi",
    "h11",
    "http",
    "httpx",
    "logging",
    "pydantic",
    "requests",
    "rich",
    "ssl",
    "sqlalchemy",
    "subprocess",
    "tempfile",
    "urllib",
    "uvicorn",
)
PROBE = """
import sys
before = set(sys.modules)
from sandbox.cli import main
try:
    main.run({arguments!r})
except main.HutchError as error:
    assert "nothing listens" in str(error) or "cannot connect" in str(error)
import json
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported(*arguments: str) -> list[str]:
    """The modules that one command line imports in a process of its own; there is no daemon behind its socket."""
    program = PROBE.format(arguments=list(arguments))
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={"HUTCH_SOCKET": "/dev/null/hutch.sock"},
        capture_output=True,
        timeout=LIMIT,
        check=True,
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def found(modules: list[str], unwanted: tuple[str, ...]) -> list[str]:
    return [name for name in modules if any(name == one or name.startswith(f"{one}.") for one in unwanted)]


def test_exec_imports_next_to_nothing() -> None:
    modules = imported("exec", "abc", "--", "true")
    assert "sandbox.cli.execute" in modules
    assert not found(modules, (*SLOW, "click", "dataclasses", "inspect", "threading", "pathlib", "sandbox.shapes"))
    # The rest is ours and a handful of small ones; what pushes this number up costs every call of every agent.
    assert len(modules) < 60, modules


@pytest.mark.parametrize(
    "arguments", [["--help"], ["exec", "--help"], ["run", "--help"], ["run", "--", "true"], ["net", "show", "x"]]
)
def test_the_other_commands_import_nothing_slow(arguments: list[str]) -> None:
    assert not found(imported(*arguments), SLOW)


def test_help_imports_no_command() -> None:
    modules = imported("--help")
    assert not found(modules, tuple(module for module, _, _ in COMMANDS.values()))


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    found: list[tuple[tuple[str, ...], click.Command]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        found += leaves(command, (*path, name)) if isinstance(command, click.Group) else [((*path, name), command)]
    return found


def test_every_command_has_json_and_help() -> None:
    commands = leaves(hutch)
    assert len(commands) == 52
    for path, command in commands:
        assert "as_json" in [parameter.name for parameter in command.params], path
        assert command.help, path


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_of_helps_fits_the_terminal(name: str) -> None:
    assert len(COMMANDS[name][2]) <= 64
