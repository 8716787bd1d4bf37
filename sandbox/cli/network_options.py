"""The options that set what a phase may reach, for `hutch run` (agent and setup) and `hutch net set`.

It must not judge rules: the daemon reads them, and says what to write instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from sandbox.cli import parse
from sandbox.cli.common import Parsed

ACCESSES = ["off", "limited", "unrestricted"]
PRESETS = ["none", "common-dependencies", "package-managers"]
_NAMES = ("access", "preset", "allow", "deny", "methods")


def network_options[F: Callable[..., Any]](prefix: str, helps: dict[str, str]) -> Callable[[F], F]:
    """Add --access, --preset, --allow, --deny and --methods, all with `prefix`; `helps` has a sentence for each."""
    kinds: dict[str, dict[str, Any]] = {
        "access": {"type": click.Choice(ACCESSES)},
        "preset": {"type": click.Choice(PRESETS)},
        "allow": {"multiple": True, "metavar": "RULE", "type": Parsed("rule", parse.allowed_rule)},
        "deny": {"multiple": True, "metavar": "RULE", "type": Parsed("rule", parse.denied_rule)},
        "methods": {"metavar": "M,M…|any", "type": Parsed("methods", parse.methods)},
    }

    def add(function: F) -> F:
        for name in reversed(_NAMES):
            function = click.option(f"--{prefix}{name}", help=helps[name], **kinds[name])(function)
        return function

    return add


def typed(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The setting in the API's form, of the options that were typed; those that weren't are left out."""
    access, preset, allow, deny, methods = (options[prefix.replace("-", "_") + name] for name in _NAMES)
    setting: dict[str, Any] = {}
    if access:
        setting["access"] = access
    if preset:
        setting["preset"] = preset
    if allow or deny:
        setting["rules"] = [*allow, *deny]
    if methods is not None:
        setting["methods"] = methods or None
    return setting
