"""`hutch net …`: what a task's phases may reach, changing it while the agent runs, what was reached and refused, and why.

It must not judge names or rules: the daemon does. How things read is in net_text.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sandbox.cli import net_text, parse
from sandbox.cli.common import Group, complete, json_option, pass_client, task_argument
from sandbox.cli.network_options import network_options, typed
from sandbox.cli.output import STDOUT, paint, print_json, print_line, print_table, printable
from sandbox.client import Client
from sandbox.shapes import NetworkChange

_SET_HELPS = {
    "access": "off: nothing; limited: preset and rules; unrestricted: every public name but what is denied.",
    "preset": "A list of well-known hosts, with the registries of pip, npm and apt.",
    "allow": "With --deny, all rules from now on, instead of those that there were; repeatable.",
    "deny": "With --allow, all rules from now on; repeatable.",
    "methods": "The only HTTP methods that may be used, for example GET,HEAD,OPTIONS; any: no restriction.",
}


def _complete_presets(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return complete(ctx, lambda client: list(client.presets()), incomplete)


rules_argument = click.argument("words", metavar="RULE...", nargs=-1, required=True)


@click.group(cls=Group)
def net() -> None:
    """See and change what a task may reach; see what it reached, and why it was refused.

    A phase's access is off, limited (its preset and its rules, nothing else) or unrestricted. Rules, in quotes where they
    hold blanks or an asterisk:

    \b
      example.com                  it and its subdomains, ports 80 and 443
      example.com:8443             the same on another port only
      =example.com                 exactly this name
      *.example.com                its subdomains only
      https://example.com/path/    what begins so, on exactly this host
      tcp://db.example.com:5432    any protocol, by name
      10.1.2.3, 10.0.0.0/8         addresses, where the daemon may reach them
      deny RULE                    always wins (in --deny and `hutch net deny`, without the word)

    \b
    and behind a rule, as many as make sense:
      methods=GET,HEAD             only these methods
      mode=inspect, mode=splice    look at the requests; pass TLS on unopened (a program that pins certificates)
      git=read                     git fetch and clone, no push, where POST is barred

    \b
    Examples:
      hutch net log 3f2a --denied
      hutch net explain 3f2a https://example.com/api --method POST
      hutch net allow 3f2a example.com
      hutch net allow 3f2a 'https://git.example.com/team/ git=read'
      hutch net deny 3f2a uploads.example.com

    What is changed holds for the agent of a running or queued task, at once, and closes what is no longer allowed.
    Nothing exceeds the ceiling that the administrator of the daemon has set (hutch serve --help).
    """


@net.command()
@json_option
@task_argument
@rules_argument
@pass_client
def allow(client: Client, task: str, words: tuple[str, ...], as_json: bool) -> None:
    """Let the agent of a running task reach more, at once.

    With access off, it is limited to these rules from now on. A rule that was denied by exactly the same words is denied no
    more; what another rule denies stays denied.

    \b
    Examples:
      hutch net allow 3f2a example.com
      hutch net allow 3f2a 'example.com methods=GET,HEAD' tcp://db.example.com:5432
    """
    _told(client.add_rules(task, _rules(words, parse.allowed_rule)), as_json)


@net.command()
@json_option
@task_argument
@rules_argument
@pass_client
def deny(client: Client, task: str, words: tuple[str, ...], as_json: bool) -> None:
    """Keep the agent of a running task from something, at once.

    Connections that are denied are closed. A rule that was allowed by exactly the same words is taken back.

    \b
    Examples:
      hutch net deny 3f2a uploads.example.com
      hutch net deny 3f2a 'example.com methods=POST,PUT,DELETE'
    """
    _told(client.add_rules(task, _rules(words, parse.denied_rule)), as_json)


@net.command("set")
@network_options("", _SET_HELPS)
@json_option
@task_argument
@pass_client
def set_(client: Client, /, task: str, as_json: bool, **options: Any) -> None:
    """Set what the agent of a running task may reach, at once. What is not named stays as it is.

    --allow and --deny together replace all rules; to add some, use hutch net allow and deny. --access off drops all.

    \b
    Examples:
      hutch net set 3f2a --access off
      hutch net set 3f2a --preset common-dependencies --methods GET,HEAD,OPTIONS
      hutch net set 3f2a --allow example.com --deny ads.example.com --methods any
    """
    setting = typed(options)
    if not setting:
        text = "say what to set: --access, --preset, --allow, --deny or --methods"
        raise click.UsageError(text, click.get_current_context())
    _told(client.change_network(task, setting), as_json)


def _rules(words: tuple[str, ...], read: Callable[[str], str]) -> list[str]:
    try:
        return [read(rule) for rule in parse.rules(words)]
    except ValueError as error:
        raise click.UsageError(str(error), click.get_current_context()) from error


def _told(change: NetworkChange, as_json: bool) -> None:
    if as_json:
        print_json(change)
        return
    for line in net_text.change_lines(change):
        print_line(printable(line))


@net.command()
@json_option
@task_argument
@pass_client
def show(client: Client, task: str, as_json: bool) -> None:
    """Show what the phases of a task may reach.

    Also the ceiling above them, if the daemon has one.

    \b
    Example:
      hutch net show 3f2a
    """
    found = client.network(task)
    if as_json:
        print_json(found)
        return
    for name, value in net_text.details(found):
        print_line(f"{paint(f'{name:12}', 'bold', STDOUT)} {printable(value)}".rstrip())


@net.command()
@click.option("-f", "--follow", "following", is_flag=True, help="Stay until the task ends.")
@click.option("--denied", is_flag=True, help="Only what was refused.")
@json_option
@task_argument
@pass_client
def log(client: Client, task: str, following: bool, denied: bool, as_json: bool) -> None:
    """Show what a task reached and what it was refused.

    One line for each name, connection and request: time, phase, decision, method, where to, bytes in both directions, and
    the rule that decided. With --json each is an object on a line of its own.

    \b
    Examples:
      hutch net log 3f2a
      hutch net log -f --denied 3f2a
      hutch net log --json 3f2a | jq -r 'select(.decision == "allow") | .name' | sort -u
    """
    with client.events(task, follow=following, only="network") as records:
        for record in records:
            if denied and record.get("decision") != "deny":
                continue
            if as_json:
                print_json(record)
            else:
                line = printable(net_text.record_line(record))
                print_line(paint(line, "red", STDOUT) if record.get("decision") == "deny" else line)


@net.command()
@click.option("--method", metavar="METHOD", default="GET", show_default=True, help="The request's method.")
@click.option(
    "--phase",
    type=click.Choice(["setup", "maintenance", "agent"]),
    default="agent",
    show_default=True,
    help="Whose request.",
)
@json_option
@task_argument
@click.argument("url")
@pass_client
def explain(client: Client, task: str, url: str, method: str, phase: str, as_json: bool) -> None:
    """Say what would become of a request, and why.

    Also which rule would allow what would be refused. Nothing is sent.

    \b
    Examples:
      hutch net explain 3f2a https://example.com/
      hutch net explain 3f2a https://example.com/items --method POST
      hutch net explain 3f2a tcp://db.example.com:5432 --phase setup
    """
    found = client.explain(task, url, method=method, phase=phase)
    if as_json:
        print_json(found)
        return
    for line in net_text.explanation(found):
        print_line(printable(line))


@net.command()
@click.argument("name", metavar="[PRESET]", required=False, shell_complete=_complete_presets)
@json_option
@pass_client
def presets(client: Client, name: str | None, as_json: bool) -> None:
    """List the presets, or the rules of one. What pip, npm and apt fetch from joins each but none: net show TASK has it.

    \b
    Examples:
      hutch net presets
      hutch net presets package-managers
    """
    found = client.presets()
    if name is not None and name not in found:
        raise click.BadParameter(f"there is no preset {name!r}: use one of {', '.join(found)}", param_hint="PRESET")
    if as_json:
        print_json({"presets": found if name is None else {name: found[name]}})
    elif name is None:
        print_table(("PRESET", "RULES"), [(preset, str(len(rules))) for preset, rules in found.items()])
    else:
        for rule in found[name]:
            print_line(rule)
