"""What people type, turned into what the API takes: variables, repositories, scripts, rules (amounts: sandbox/units.py).

Pure but for text_or_file, which reads the file it is named. Every function raises ValueError with one sentence that
says what would be right; it must not import click.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

from sandbox import units

_RULE_OPTIONS = ("methods=", "mode=", "git=")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)


def variable(text: str) -> tuple[str, str]:
    """Name and value of K=V; the value may be empty and may hold more equals signs."""
    name, equals, value = text.partition("=")
    if not equals or not _VARIABLE.fullmatch(name):
        raise ValueError(f"{text!r} is no variable: write NAME=VALUE, the name in letters, digits and underscores")
    return name, value


def runtime(text: str) -> tuple[str, str]:
    """Name and version of NAME=VERSION."""
    name, equals, version = text.partition("=")
    if not equals or not name or not version:
        raise ValueError(f"{text!r} is no runtime: write NAME=VERSION, as node=22")
    return name, version


def lifetime(text: str) -> int:
    """Seconds of a duration; 0 for `off`."""
    return 0 if text.strip() == "off" else units.duration(text)


def environment(text: str) -> str:
    """The name of an environment; what looks like a variable is none."""
    if "=" in text:
        raise ValueError(f"{text!r} is no environment's name: for a variable write --var {text}")
    return text


def text_or_file(text: str) -> str:
    """The text itself, or for @FILE the file's content (@- is standard input)."""
    if not text.startswith("@"):
        return text
    name = text[1:]
    try:
        if name == "-":
            return sys.stdin.read()
        with open(name, encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ValueError(f"cannot read the script file {name!r}: {reason}") from error


def repository(text: str) -> str:
    """A URL as it is; a local path made absolute, since the daemon stands in another directory.

    As git reads it: scheme://… is a URL, and a colon before the first slash makes host:path, unless that file exists.
    """
    if not text:
        raise ValueError("the repository is empty: give a URL or a path, or leave --repo out for a task without one")
    head = text.partition("/")[0]
    if "://" in text or (":" in head and not os.path.lexists(text)):
        return text
    return os.path.abspath(os.path.expanduser(text))  # noqa: PTH111 - a path is text here


def allowed_rule(text: str) -> str:
    """A rule for --allow, as it is; the daemon reads it."""
    if text.split()[:1] == ["deny"]:
        raise ValueError(f"{text!r} denies: write it without that word behind --deny")
    return text


def denied_rule(text: str) -> str:
    """A rule for --deny, with the word that the API knows it by."""
    return text if text.split()[:1] == ["deny"] else f"deny {text}"


def rules(words: Sequence[str]) -> list[str]:
    """Rules out of a command line: a rule's options may be words of their own, as in `example.com methods=GET`."""
    found: list[str] = []
    for word in words:
        if found and word.startswith(_RULE_OPTIONS):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def methods(text: str) -> list[str]:
    """HTTP methods of GET,HEAD,OPTIONS; none for `any`, which is no restriction."""
    names = [name.strip().upper() for name in text.split(",")]
    if names == ["ANY"]:
        return []
    if not all(name.replace("-", "").isalpha() and name.isascii() for name in names) or "ANY" in names:
        raise ValueError(f"{text!r} are no methods: write GET,HEAD,OPTIONS, or any for no restriction")
    return names
