"""`hutch completion`: the script that teaches a shell hutch's words. click makes it.

It must not write into anybody's shell configuration; it only prints.
"""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from sandbox.cli.common import json_option
from sandbox.cli.output import print_json, print_line


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def completion(ctx: click.Context, shell: str, as_json: bool) -> None:
    """Print a script that completes hutch's commands, options, tasks and images.

    \b
    Examples:
      hutch completion bash > /etc/bash_completion.d/hutch
      hutch completion zsh > "${fpath[1]}/_hutch"
      hutch completion fish > ~/.config/fish/completions/hutch.fish
    """
    found = get_completion_class(shell)
    assert found is not None  # click knows these three
    script = found(ctx.find_root().command, {}, "hutch", "_HUTCH_COMPLETE").source()
    print_json({"shell": shell, "script": script}) if as_json else print_line(script)
