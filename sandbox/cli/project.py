"""The checkout that the user stands in, and its hutch.toml: found, read, and its errors told by file and line.

It must not judge settings, the daemon does; and it reads the user's own files only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.client import ApiError, HutchError

FILE = "hutch.toml"
_IN_PROJECT = re.compile(r"project\.([^:]+): (.*)", re.DOTALL)


@dataclass(frozen=True)
class Checkout:
    """A git checkout (`top` None: there is none), the hutch.toml that holds in it, and the URL of its origin."""

    top: Path | None
    file: Path | None

    @classmethod
    def around(cls, start: Path) -> Checkout:
        """What `start` lies in."""
        start = start.resolve()
        top = next((path for path in (start, *start.parents) if (path / ".git").exists()), None)
        inside = [path for path in (start, *start.parents) if top and path.is_relative_to(top)] or [start]
        return cls(top, next((path / FILE for path in inside if (path / FILE).is_file()), None))

    def remote(self) -> str | None:
        """The URL of origin; None where there is none."""
        if self.top is None:
            return None
        return _git_config(self.top, "remote.origin.url") or None


def _git_config(top: Path, key: str) -> str:
    """A value of a checkout's git configuration; empty where there is none. Not by subprocess: its import costs every call."""
    read_end, write_end = os.pipe()
    with open(read_end, encoding="utf-8", errors="surrogateescape") as answer:
        try:
            actions = [(os.POSIX_SPAWN_DUP2, write_end, 1), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)]
            argv = ["git", "-C", str(top), "config", "--get", key]
            pid = os.posix_spawnp("git", argv, os.environ, file_actions=actions)
        except OSError:
            return ""
        finally:
            os.close(write_end)
        value = answer.read().rstrip("\n")
    return value if os.waitpid(pid, 0)[1] == 0 else ""


def load(path: Path) -> dict[str, Any]:
    """The settings of a hutch.toml, scripts that are named as files read. Raises HutchError with the place."""
    import tomllib

    try:
        values = tomllib.loads(path.read_bytes().decode())
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise HutchError(f"{path}, line {line}: {error.reason}; the file must be UTF-8") from error
    except tomllib.TOMLDecodeError as error:
        raise HutchError(f"{path}: {error}", "it must be TOML: hutch env --help shows one") from error
    except OSError as error:
        raise HutchError(f"cannot read {path}: {error.strerror}") from error
    for name in ("setup", "maintenance"):
        if isinstance(values.get(name), dict):
            values[name] = _script(path, name, values[name])
    return values


def _script(path: Path, name: str, named: Mapping[str, Any]) -> str:
    """The content of `setup = { file = "scripts/setup.sh" }`."""
    if list(named) != ["file"] or not isinstance(named["file"], str):
        raise HutchError(f'{place(path, name)}: write a script as text, or as {{ file = "path/of/the/script.sh" }}')
    try:
        return (path.parent / named["file"]).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise HutchError(f"{place(path, name)}: cannot read {named['file']!r}: {reason}") from error


def place(path: Path, key: str) -> str:
    """`hutch.toml, line 7: limits.memory`, as well as a line can be found."""
    line = _line(path.read_text(encoding="utf-8", errors="replace"), key.split("."))
    return f"{path}, line {line}: {key}" if line else f"{path}: {key}"


def _line(text: str, key: list[str]) -> int:
    """The line that sets the longest beginning of `key` that any line sets; 0 if none does."""
    best, found, table = 0, 0, list[str]()
    for number, line in enumerate(text.splitlines(), 1):
        header = re.match(r"\s*\[+\s*([^\[\]]+?)\s*\]", line)
        setting = re.match(r"""\s*([\w."'-]+(?:\s*\.\s*[\w."'-]+)*)\s*=""", line)
        if header:
            names = table = _names(header[1])
        elif setting:
            names = table + _names(setting[1])
        else:
            continue
        if names == key[: len(names)] and len(names) > best:
            best, found = len(names), number
    return found


def _names(dotted: str) -> list[str]:
    return [name.strip().strip("\"'") for name in dotted.split(".")]


@contextmanager
def told_by_line(file: Path | None) -> Iterator[None]:
    """Turn the daemon's refusal of something in the project's file into one that names file, line and key."""
    try:
        yield
    except ApiError as error:
        found = _IN_PROJECT.match(error.message)
        if file is None or found is None:
            raise
        raise HutchError(f"{place(file, found[1])}: {found[2]}", f"mend {file.name}") from error


def complete(request: dict[str, Any]) -> Path | None:
    """Put into a request what the user's checkout says; returns its hutch.toml, if that is used.

    An environment that was named stands for itself: then the file isn't read.
    """
    repo = request.get("repo")
    if repo is not None and not repo.startswith("/"):
        return None  # a URL: the daemon finds its environment
    checkout = Checkout.around(Path(repo or "."))
    if repo is None and checkout.top is not None:
        request["checkout"] = str(checkout.top)
    if remote := checkout.remote() or (str(checkout.top) if checkout.top else None):
        request["remote"] = remote
    if "environment" in request or checkout.file is None:
        return None
    request["project"] = load(checkout.file)
    return checkout.file
