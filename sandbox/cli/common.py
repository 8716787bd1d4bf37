"""What several commands share: the --json option, arguments that complete themselves, types made of parse functions.

It must not talk to the daemon, except to complete a word in the user's shell.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from sandbox.cli import parse
from sandbox.client import Client, HutchError

pass_client = click.make_pass_decorator(Client)

json_option = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON on standard output, and nothing else there."
)


class Group(click.Group):
    """A group of commands that shows its help when none is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, args or ["--help"])


# The inner command's own options are not ours: everything from its first word on is passed as it is.
INNER_COMMAND = {"allow_interspersed_args": False}


class Parsed[T](click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A type made of a function that raises ValueError with one sentence."""

    def __init__(self, name: str, function: Callable[[str], T]) -> None:
        self.name = name
        self._function = function

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> T:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        try:
            return self._function(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


def complete(ctx: click.Context, names: Callable[[Client], list[str]], incomplete: str) -> list[str]:
    """Those of the daemon's names that a word may become."""
    try:
        return [name for name in names(_client(ctx)) if name.startswith(incomplete)]
    except HutchError:
        return []  # a word that can't be completed is no reason to write into the user's prompt


def _complete_tasks(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, lambda client: [task["id"] for task in client.tasks()], incomplete)


def complete_images(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of images."""
    return complete(ctx, lambda client: [image["name"] for image in client.images()], incomplete)


def complete_runtimes(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Runtimes with their versions, as node=22."""
    return complete(
        ctx,
        lambda client: [f"{one['name']}={version}" for one in client.runtimes() for version in one["versions"]],
        incomplete,
    )


def _complete_environments(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, lambda client: [one["name"] for one in client.environments()], incomplete)


def _complete_secrets(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, lambda client: [secret["name"] for secret in client.secrets()], incomplete)


def _client(ctx: click.Context) -> Client:
    from sandbox.cli.main import socket_path

    # While a word is completed no callback runs, so there is no ctx.obj.
    return Client(ctx.find_root().params.get("socket") or socket_path())


def inner_command(words: tuple[str, ...], *, needed: bool) -> list[str]:
    """The command after TASK, without the -- before it: click leaves that in once it has seen a word of its own."""
    command = list(words[1:] if words[:1] == ("--",) else words)
    if needed and not command:
        raise click.UsageError("Missing argument 'COMMAND...'", click.get_current_context())
    return command


task_argument = click.argument("task", metavar="TASK", shell_complete=_complete_tasks)
image_argument = click.argument("name", metavar="NAME", shell_complete=complete_images)
environment_argument = click.argument("name", metavar="NAME", shell_complete=_complete_environments)
environment_option = click.option(
    "--env",
    "environment",
    type=Parsed("env", parse.environment),
    metavar="NAME",
    shell_complete=_complete_environments,
    help="The environment (hutch env --help).  [default: hutch.toml, or the one for the checkout's origin]",
)
secret_argument = click.argument("name", metavar="NAME", shell_complete=_complete_secrets)
secret_option = click.option(
    "--secret",
    "secrets",
    multiple=True,
    metavar="NAME",
    shell_complete=_complete_secrets,
    help="A secret (hutch secret --help) that may be used, by the placeholder in the variable NAME; repeatable.",
)
state_option = click.option(
    "--state",
    type=click.Path(path_type=Path),
    envvar="HUTCH_STATE",
    default=Path("/var/lib/hutch"),
    show_default=True,
    metavar="DIR",
    help="The daemon's directory of images, snapshots, tasks and keys.  [env: HUTCH_STATE]",
)
