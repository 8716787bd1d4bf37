"""`hutch env …`: settings of tasks that the daemon keeps under a name.

It must not judge settings; the daemon does. What tries an environment out (validate, shell) is in env_try.py.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from sandbox.cli import env_text, project
from sandbox.cli.common import Group, environment_argument, json_option, pass_client
from sandbox.cli.output import plural, print_json, print_line, print_table
from sandbox.cli.settings_options import settings, settings_options, trusted_option
from sandbox.client import Client, HutchError
from sandbox.units import bytes_text

_optional_name = click.argument("name", metavar="[NAME]", required=False)


class _Commands(Group):
    """The two commands that run something come from a module of their own."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in ("validate", "shell"):
            from sandbox.cli import env_try

            return {"validate": env_try.validate, "shell": env_try.shell}[cmd_name]
        return super().get_command(ctx, cmd_name)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), "validate", "shell"]


@click.group(cls=_Commands)
def env() -> None:
    """Keep settings of tasks: image, setup, variables, secrets, network, limits, cache.

    An environment is chosen by --env NAME. Without it, `hutch run` takes hutch.toml of the checkout that you stand in, on top
    of the environment that it names (environment = "NAME") or else the one whose repository is the checkout's origin.

    From the lowest to the highest: defaults, environment, hutch.toml, command line. Variables and limits are taken one by one;
    secrets and rules of the network are added; of everything else the highest counts. A file in a repository can't give itself
    secrets: those that it names must be given by the environment or by --secret.

    \b
    Examples:
      hutch env create web --repo https://git.example/team/web --setup 'npm ci' --preset common-dependencies
      hutch run --env web -- npm test
      hutch env show --effective           in a checkout: what would hold, and from where
      hutch env validate web               sets it up from nothing and says what an agent finds
      hutch env edit web                   in your editor

    \b
    A hutch.toml has the same settings, all optional:
      environment = "web"
      image = "base"
      setup = "npm ci"                     or { file = "scripts/setup.sh" }, or "" for none
      maintenance = "npm ci"
      secrets = ["API_TOKEN"]
      timeout = "1h"
      [runtimes]
      node = "22"
      [env]
      NODE_ENV = "test"
      [network.agent]                      likewise setup, maintenance
      preset = "common-dependencies"
      rules = ["api.example.com", "deny ads.example.com"]
      [limits]
      memory = "4G"
      cpus = 2
      disk = "10G"
      [cache]
      lifetime = "1d"                      or enabled = false

    In an environment only: trusted_refs = ["main", "release/*"] below [cache], as --trusted-ref.
    """


@env.command()
@click.argument("name", metavar="NAME")
@settings_options
@trusted_option
@json_option
@pass_client
def create(client: Client, /, name: str, as_json: bool, **options: Any) -> None:
    """Keep the given settings as the environment NAME.

    \b
    Example:
      hutch env create web --repo https://git.example/team/web --setup @setup.sh --secret API_TOKEN
    """
    made = client.create_environment(name, settings(options))
    print_json(made) if as_json else print_line(
        f"environment {made['name']}; try it: hutch env validate {made['name']}"
    )


@env.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List the environments."""
    found = client.environments()
    if as_json:
        print_json({"environments": found})
        return
    rows = [(one["name"], one["repo"] or "-", one["image"] or "base", one["changed"])
            for one in found]  # fmt: skip
    print_table(("NAME", "REPOSITORY", "IMAGE", "CHANGED"), rows)


@env.command()
@_optional_name
@click.option("--effective", is_flag=True, help="What would hold for a task, with the source of each value.")
@settings_options
@json_option
@pass_client
def show(client: Client, /, name: str | None, effective: bool, as_json: bool, **options: Any) -> None:
    """Show an environment, or what would hold for a task.

    With --effective: everything, defaults included, and which layer each value is from. Without NAME it is told for the checkout
    that you stand in. Options are taken as `hutch run` would.

    \b
    Examples:
      hutch env show web
      hutch env show --effective
      hutch env show web --effective --allow api.example.com
    """
    typed = settings(options)
    if name is not None and not effective and not typed:
        found = client.environment(name)
        if as_json:
            return print_json(found)
        for one in found["members"]:
            print_line(f"# {one['member']} may {one['may']} it")
        return print_line(env_text.to_toml(found["settings"]).rstrip("\n"))
    request = typed | ({"environment": name} if name else {})
    file = project.complete(request)
    with project.told_by_line(file):
        holds = client.effective(request)  # type: ignore[arg-type]
    if as_json:
        print_json(holds)
        return
    rows = [
        (path, env_text.value_text(value, path), holds["sources"].get(path, "default"))
        for path, value in env_text.flat(holds["settings"])
    ]
    print_table(("SETTING", "VALUE", "FROM"), rows)


@env.command()
@environment_argument
@settings_options
@trusted_option
@json_option
@pass_client
def edit(client: Client, /, name: str, as_json: bool, **options: Any) -> None:
    """Change an environment: by options, or in your editor ($VISUAL, $EDITOR) without any.

    Options replace what they name, entry by entry, and add rules and secrets; to take something out, use the editor.

    \b
    Examples:
      hutch env edit web
      hutch env edit web --memory 4G --var NODE_ENV=test
    """
    before = client.environment(name)["settings"]
    typed = settings(options)
    if not typed:
        after = _edited(client, name, env_text.to_toml(before))
    else:
        after = client.replace_environment(name, env_text.laid_over(dict(before), typed))
    print_json(after) if as_json else print_line(f"environment {name} is changed")


def _edited(client: Client, name: str, text: str) -> Any:
    """Have the user edit `text` until it is an environment. What was typed is never lost."""
    if not sys.stdin.isatty():
        raise HutchError("no terminal to edit on", f"give options, or: hutch env import {name} FILE --replace")
    editor = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi")
    descriptor, written = tempfile.mkstemp(prefix=f"hutch-{name}-", suffix=".toml")
    path = Path(written)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    while True:
        try:
            subprocess.run([*editor, str(path)], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            raise HutchError(f"cannot edit {path}: {error}", "set EDITOR; the text is still there") from error
        try:
            stored = _stored(client, name, path, replace=True)
        except HutchError as error:
            print_line(f"hutch: {error}", 2)
            if not click.confirm("Edit again?", default=True, err=True):
                raise HutchError(f"environment {name} is as it was", f"what you typed is in {path}") from None
        else:
            path.unlink()
            return stored


def _stored(client: Client, name: str, path: Path, *, replace: bool) -> Any:
    given = project.load(path)
    with env_text.told_in(path):
        if replace:
            return client.replace_environment(name, given)
        return client.create_environment(name, given)


@env.command()
@environment_argument
@click.argument("copy_name", metavar="COPY")
@json_option
@pass_client
def copy(client: Client, name: str, copy_name: str, as_json: bool) -> None:
    """Keep the settings of NAME also as COPY."""
    made = client.create_environment(copy_name, dict(client.environment(name)["settings"]))
    print_json(made) if as_json else print_line(f"environment {made['name']}")


@env.command()
@json_option
@environment_argument
@pass_client
def export(client: Client, name: str, as_json: bool) -> None:
    """Print an environment as a hutch.toml. Secrets are named in it, their values are not.

    \b
    Example:
      hutch env export web > hutch.toml
    """
    settings = client.environment(name)["settings"]
    print_json(settings) if as_json else print_line(env_text.to_toml(settings).rstrip("\n"))


@env.command("import")
@click.argument("name", metavar="NAME")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--replace", is_flag=True, help="Change the environment if there is one already.")
@json_option
@pass_client
def import_(client: Client, name: str, file: Path, replace: bool, as_json: bool) -> None:
    """Keep the settings of FILE, a hutch.toml, as the environment NAME.

    \b
    Example:
      hutch env import web hutch.toml --replace
    """
    there = replace and any(one["name"] == name for one in client.environments())
    made = _stored(client, name, Path("/dev/stdin") if str(file) == "-" else file, replace=there)
    print_json(made) if as_json else print_line(f"environment {name}")


@env.command()
@environment_argument
@json_option
@pass_client
def rm(client: Client, name: str, as_json: bool) -> None:
    """Forget an environment, and drop its cached states. Tasks that run go on."""
    client.remove_environment(name)
    if as_json:
        print_json({"removed": [name]})


@env.command()
@environment_argument
@click.argument("member", metavar="user:NAME|group:NAME")
@click.option("--may", type=click.Choice(("see", "use", "change")), default="use", show_default=True, help="How far.")
@json_option
@pass_client
def share(client: Client, name: str, member: str, may: str, as_json: bool) -> None:
    """Let a user or a group of this host see, use or change an environment of yours.

    \b
    see      its settings, and that it is there
    use      run tasks in it, with its cached states; also with its secrets, of which a plain one can be read in setup
    change   its other settings, and drop its cached states

    They call it OWNER:NAME, and it is taken only where they name it. Its repository is read, and its secrets are given, as yours;
    tasks stay with who ran them. To give it another repository, secrets or trusted refs, to remove and share it is yours alone.

    \b
    Examples:
      hutch env share web user:alice
      hutch env share web group:developers --may change
    """
    shared = client.share_environment(name, member, may)
    print_json(shared) if as_json else print_line(f"{member} may {may} {shared['name']}")


@env.command()
@environment_argument
@click.argument("member", metavar="user:NAME|group:NAME")
@json_option
@pass_client
def unshare(client: Client, name: str, member: str, as_json: bool) -> None:
    """Take back what `hutch env share` gave. Tasks of those who lose it are cancelled; what they set up is kept for nobody."""
    left = client.unshare_environment(name, member)
    print_json(left) if as_json else print_line(f"{member} has no part in {left['name']} any more")


@env.command("reset-cache")
@environment_argument
@json_option
@pass_client
def reset_cache(client: Client, name: str, as_json: bool) -> None:
    """Drop an environment's cached states: its next task sets up from nothing. Tasks that run go on."""
    dropped = client.reset_cache(name)
    print_json(dropped) if as_json else print_line(
        f"freed {bytes_text(dropped['bytes'])}: {plural(dropped['snapshots'], 'snapshot')}"
    )
