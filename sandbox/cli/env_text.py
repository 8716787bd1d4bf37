"""Settings as text: as TOML, as rows of a table; and errors told for the file that they were read from. Pure but for that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sandbox.cli import project
from sandbox.cli.output import seconds_text
from sandbox.client import ApiError, HutchError
from sandbox.units import bytes_text

_ORDER = (
    "repo",
    "image",
    "setup",
    "maintenance",
    "timeout",
    "secrets",
    "secret_paths",
    "env",
    "runtimes",
    "network",
    "limits",
    "cache",
)
_ADDED = ("rules", "secrets")
_VALUE_MAX = 60


def to_toml(settings: Mapping[str, Any]) -> str:
    """Settings as a hutch.toml."""
    import tomli_w

    known = {name: settings[name] for name in _ORDER if name in settings}
    return tomli_w.dumps(_without_none({**known, **settings}), multiline_strings=True)


def _without_none(value: Any) -> Any:
    """TOML knows no null. `methods` null, every method, is the default where nothing lies below."""
    if not isinstance(value, Mapping):
        return value
    return {name: _without_none(inner) for name, inner in value.items() if inner is not None}


def laid_over(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's settings with others put in: tables entry by entry, rules and secrets added."""
    for name, value in above.items():
        if isinstance(value, Mapping):
            below[name] = laid_over(dict(below.get(name) or {}), value)
        elif name in _ADDED:
            below[name] = list(dict.fromkeys([*below.get(name, []), *value]))
        else:
            below[name] = value
    return below


def flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Each value with its path: `limits.memory`."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def value_text(value: Any, path: str = "") -> str:
    """A value on one line of a table."""
    if path == "cache.trusted_refs":
        return "all" if value is None else ", ".join(value) or "the default branch alone"
    if value is None:
        return "-"
    if path in ("limits.memory", "limits.disk"):
        return bytes_text(value)
    if path in ("timeout", "cache.lifetime"):
        return seconds_text(value)
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    first, *more = str(value).splitlines() or ["(none)"]
    text = f"{first} … ({len(more) + 1} lines)" if more else first
    return text if len(text) <= _VALUE_MAX else text[: _VALUE_MAX - 1] + "…"


@contextmanager
def told_in(path: Path) -> Iterator[None]:
    """Turn the daemon's refusal of something in a file into one that names file, line and key."""
    try:
        yield
    except ApiError as error:
        key, separator, reason = error.message.removeprefix("settings.").partition(": ")
        if not separator or " " in key:
            raise
        raise HutchError(f"{project.place(path, key)}: {reason}", error.remedy) from error
