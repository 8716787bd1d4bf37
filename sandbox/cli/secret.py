"""`hutch secret …`: credentials that tasks may use and never read, and those that only setup may read.

It must not take a value from the command line, where every process of the host can read it, and never prints one.
"""

from __future__ import annotations

import sys

import click

from sandbox.cli.common import Group, json_option, pass_client, secret_argument
from sandbox.cli.output import print_json, print_line, print_table, printable
from sandbox.client import Client, HutchError
from sandbox.shapes import Secret

_PHASES = ("setup", "maintenance", "agent")


@click.group(cls=Group)
def secret() -> None:
    """Set, list, rotate and remove credentials that tasks may use and never read, or that only setup may read.

    With hosts (--for) it is a *brokered* secret. In a task that is given it (hutch run --secret NAME), the variable NAME holds
    a placeholder of the same length and shape. In requests to the secret's hosts, over TLS, the daemon's filter puts the value
    in its place, and takes it out of what comes back. No process of the task ever holds the value. What the task may reach is
    another matter (--allow).

    Without hosts it is a *plain* secret: setup and maintenance have the value itself in the variable NAME, the agent has nothing.
    It is hidden in what they print (***), and where they leave it in a file, the task fails and names the file. Broker what you
    can.

    \b
    Examples:
      hutch secret set API_TOKEN --for api.example.com --header 'Authorization: Bearer {}' < token.txt
      hutch secret set GIT_TOKEN --for git.example.com/team/
      hutch secret set SIGNING_KEY < key.pem
      hutch run --secret API_TOKEN --allow api.example.com -- ./agent.sh
    """


@secret.command("set")
@click.argument("name", metavar="NAME")
@click.option(
    "--for",
    "hosts",
    multiple=True,
    metavar="HOST[/PATH]",
    help="Exactly this host gets the value, only for what begins with PATH if one is given; repeatable.  [default: none, plain]",
)
@click.option(
    "--header",
    metavar="'FIELD: TEXT {}'",
    help="Only in this header and between these words; {} stands for the value.  [default: any header, Basic included]",
)
@click.option("--query", is_flag=True, help="Also in the query of a URL.")
@click.option("--body", is_flag=True, help="Also in the body of a request.")
@click.option(
    "--phase",
    "phases",
    multiple=True,
    type=click.Choice(_PHASES),
    help="Give it to this phase; repeatable.  [default: all three; of a plain secret setup and maintenance]",
)
@json_option
@pass_client
def set_(
    client: Client,
    /,
    name: str,
    hosts: tuple[str, ...],
    header: str | None,
    query: bool,
    body: bool,
    phases: tuple[str, ...],
    as_json: bool,
) -> None:
    """Set the secret NAME: a new one, or another in its place. NAME is the variable that holds its placeholder, or it.

    The value is read from standard input (one line end at its end is not part of it), or asked for on a terminal. With --for it
    must be 12 characters or longer, without line ends, blanks around it or letters beyond ASCII; without, any text from 8
    characters to 64 KiB.

    \b
    Examples:
      hutch secret set API_TOKEN --for api.example.com --header 'Authorization: Bearer {}' < token.txt
      hutch secret set GIT_TOKEN --for git.example.com/team/      git over https: clone https://x:$GIT_TOKEN@git.example.com/…
      hutch secret set MAP_KEY --for maps.example.com --query --phase agent
    """
    places = ["header", *(["query"] if query else []), *(["body"] if body else [])]
    setting = {"for": list(hosts), "header": header, "places": places, "phases": list(phases) or None}
    _told(client.set_secret(name, _value(name), setting), as_json)


@secret.command()
@json_option
@secret_argument
@pass_client
def rotate(client: Client, name: str, as_json: bool) -> None:
    """Give the secret NAME another value, from standard input or asked for; where it may be used stays.

    Tasks that run now use the new one from their next request on.

    \b
    Example:
      hutch secret rotate API_TOKEN < new-token.txt
    """
    _told(client.rotate_secret(name, _value(name)), as_json)


@secret.command()
@json_option
@pass_client
def ls(client: Client, as_json: bool) -> None:
    """List all secrets, and where each may be used. Values are shown by nothing."""
    secrets = client.secrets()
    if as_json:
        print_json({"secrets": secrets})
        return
    rows = [
        (one["name"], ", ".join(one["for"]) or "-", _where(one), ", ".join(one["phases"]), one["changed"])
        for one in secrets
    ]
    print_table(("NAME", "FOR", "IN", "PHASES", "CHANGED"), rows)


@secret.command()
@json_option
@secret_argument
@pass_client
def rm(client: Client, name: str, as_json: bool) -> None:
    """Forget a secret. Tasks that run now can't use it any more."""
    client.remove_secret(name)
    if as_json:
        print_json({"removed": [name]})


def _where(one: Secret) -> str:
    """The places that a value may stand in, as people read them."""
    if not one["for"]:
        return "its variable"
    places = ["headers" if place == "header" else place for place in one["places"]]
    return ", ".join([one["header"], *places[1:]] if one["header"] and places[0] == "headers" else places)


def _told(one: Secret, as_json: bool) -> None:
    if as_json:
        print_json(one)
        return
    hosts = f"for {', '.join(one['for'])}" if one["for"] else "plain,"
    text = f"secret {one['name']}, {hosts} in {_where(one)}; phases: {', '.join(one['phases'])}"
    print_line(printable(text))


def _value(name: str) -> str:
    """The value, from a pipe, a file or a person. It goes into nothing but the request."""
    if sys.stdin.isatty():
        asked: str = click.prompt(f"Value of {name}", hide_input=True, err=True)
        return asked
    try:
        text = sys.stdin.buffer.read().decode()
    except UnicodeDecodeError:
        raise HutchError(f"the value of {name} on standard input is not UTF-8 text") from None
    return text.removesuffix("\n").removesuffix("\r")
