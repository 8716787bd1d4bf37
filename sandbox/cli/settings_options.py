"""The options that set what a task is made of, for `hutch run` and `hutch env`; and the settings that were typed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sandbox import units
from sandbox.cli import parse
from sandbox.cli.common import Parsed, complete_images, complete_runtimes, secret_option
from sandbox.cli.network_options import network_options, typed

_SCRIPT = Parsed("TEXT|@FILE", parse.text_or_file)
_AGENT_HELPS = {
    "access": "The command's network.  [default: off; limited with --allow, --preset or --methods]",
    "preset": "Let the command reach a list of well-known hosts (hutch net presets), and the registries of pip, npm and apt.",
    "allow": "Let the command reach what RULE says (hutch net --help); repeatable.",
    "deny": "Let it never reach what RULE says; wins over everything else; repeatable.",
    "methods": "The only HTTP methods that the command may use, for example GET,HEAD,OPTIONS.",
}
_SETUP_HELPS = {
    "access": "The network of setup and maintenance.  [default: unrestricted; limited with --setup-allow or -preset]",
    "preset": "As --preset, for setup and maintenance.",
    "allow": "As --allow, for setup and maintenance; repeatable.",
    "deny": "As --deny, for setup and maintenance; repeatable.",
    "methods": "As --methods, for setup and maintenance.",
}
_LIMITS = ("memory", "cpus", "pids", "disk", "files")
_OPTIONS = (
    click.option(
        "--image", metavar="NAME", shell_complete=complete_images, help="The image.  [default: base]"
    ),
    click.option(
        "--runtime", "runtimes", multiple=True, type=Parsed("runtime", parse.runtime), metavar="NAME=VERSION",
        shell_complete=complete_runtimes,
        help="A language runtime, for example node=22 (hutch runtime ls); repeatable.",
    ),
    click.option("--repo", type=Parsed("repo", parse.repository), metavar="URL|PATH", help="The repository."),
    click.option(
        "--setup", type=_SCRIPT, metavar="TEXT|@FILE",
        help="Bash script that prepares the environment, network on; cached.  [default: what lock files ask for]",
    ),
    click.option("--no-setup", is_flag=True, help="Set nothing up."),
    click.option(
        "--maintenance", type=_SCRIPT, metavar="TEXT|@FILE", help="Bash script that freshens a cached environment."
    ),
    click.option(
        "-e", "--var", "variables", multiple=True, type=Parsed("var", parse.variable), metavar="K=V",
        help="Variable for all phases; repeatable.",
    ),
    secret_option,
    click.option(
        "--allow-secret-in", "secret_paths", multiple=True, metavar="PATH",
        help="Where setup may leave a plain secret, for example /root/.npmrc; the agent can read it then; repeatable.",
    ),
    network_options("", _AGENT_HELPS),
    network_options("setup-", _SETUP_HELPS),
    click.option(
        "--timeout", type=Parsed("duration", units.duration), metavar="DURATION", help="End the task after 90s, 15m, 1h30m."
    ),
    click.option(
        "--memory", type=Parsed("size", units.size), metavar="SIZE",
        help="Memory limit, for example 2G.  [default: 8G, or half of the host's]",
    ),
    click.option(
        "--cpus", type=click.FloatRange(min=0, min_open=True), metavar="N",
        help="CPU limit in cores, for example 1.5.  [default: all]",
    ),
    click.option("--pids", type=click.IntRange(min=1), metavar="N", help="Limit of processes and threads.  [default: 4096]"),
    click.option(
        "--disk", type=Parsed("size", units.size), metavar="SIZE",
        help="End the task when it has more on the disk, for example 10G; its log and diff stay.",
    ),
    click.option("--files", type=click.IntRange(min=100), metavar="N", help="Or more files than this."),
    click.option(
        "--cache-lifetime", type=Parsed("duration|off", parse.lifetime), metavar="DURATION|off",
        help="How long setup's result is kept for other tasks.  [default: 12h]",
    ),
)  # fmt: skip

# For environments alone: a task can't trust more than its own.
trusted_option = click.option(
    "--trusted-ref", "trusted_refs", multiple=True, metavar="PATTERN",
    help="Only tasks of the default branch, of branches like PATTERN (main, release/*) and of refs like it (refs/tags/v*) leave "
    "setup's result to others; repeatable.  [default: those of all refs]",
)  # fmt: skip


def settings_options[F: Callable[..., Any]](function: F) -> F:
    """Add them all."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def settings(options: dict[str, Any]) -> dict[str, Any]:
    """The settings in the API's form, of the options that were typed; those that weren't are left out."""
    if options["no_setup"] and options["setup"] is not None:
        raise click.UsageError("--setup and --no-setup exclude each other: give one of them")
    network = {phase: typed(options, prefix) for phase, prefix in (("agent", ""), ("setup", "setup-"))}
    lifetime, trusted = options["cache_lifetime"], options.get("trusted_refs")
    cache: dict[str, Any] = {} if lifetime is None else {"lifetime": lifetime} if lifetime else {"enabled": False}
    given = {
        **{name: options[name] for name in ("image", "repo", "maintenance", "timeout")},
        "runtimes": dict(options["runtimes"]) or None,
        "setup": "" if options["no_setup"] else options["setup"],
        "env": dict(options["variables"]) or None,
        "secrets": list(options["secrets"]) or None,
        "secret_paths": list(options["secret_paths"]) or None,
        "network": {phase: setting for phase, setting in network.items() if setting} or None,
        "limits": {name: options[name] for name in _LIMITS if options[name] is not None} or None,
        "cache": cache | ({"trusted_refs": list(trusted)} if trusted else {}) or None,
    }
    return {name: value for name, value in given.items() if value is not None}
