"""Settings that lie over each other: of an environment, of a project's hutch.toml, of the request itself. Pure.

A layer is the JSON form of what was given (api/settings.py has checked it), under the name that users know it by. From the lowest
to the highest, a value replaces the one below it, but

    env, runtimes, limits, cache     each entry by itself
    secrets, their paths, rules      are added
    a network's access               gives way to what allows something above it; `off` takes everything below it away
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

_BY_ENTRY: Final = ("env", "runtimes", "limits", "cache")
_ADDED: Final = ("secrets", "secret_paths")
_NARROWING: Final = ("preset", "rules", "methods")


@dataclass(frozen=True)
class Layer:
    """What one source gives; what it doesn't is missing or None."""

    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Effective:
    """What holds in the end, and where each value came from: its path (`limits.memory`) -> source."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]


def merge(layers: Sequence[Layer]) -> Effective:
    """Lay the layers over each other, the lowest first."""
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        for name, value in layer.values.items():
            if value is None:
                continue
            if name == "network":
                _merge_network(values.setdefault(name, {}), sources, layer.source, value)
            elif name in _BY_ENTRY:
                _merge_entries(values.setdefault(name, {}), sources, layer.source, name, value)
            elif name in _ADDED:
                _add(values, sources, layer.source, name, name, value)
            else:
                values[name], sources[name] = value, layer.source
    return Effective(values, sources)


def _merge_entries(
    below: dict[str, Any], sources: dict[str, str], source: str, name: str, above: Mapping[str, Any]
) -> None:
    for entry, value in above.items():
        if value is not None:
            below[entry], sources[f"{name}.{entry}"] = value, source


def _merge_network(below: dict[str, Any], sources: dict[str, str], source: str, above: Mapping[str, Any]) -> None:
    for phase, setting in above.items():
        if setting is not None:
            _merge_phase(below.setdefault(phase, {}), sources, source, f"network.{phase}", setting)


def _merge_phase(
    below: dict[str, Any], sources: dict[str, str], source: str, path: str, above: Mapping[str, Any]
) -> None:
    for name in _given_up(below, above):
        below.pop(name, None)
        sources.pop(f"{path}.{name}", None)
    for name, value in above.items():
        if name == "rules":
            _add(below, sources, source, name, f"{path}.{name}", value)
        elif value is not None or name == "methods":  # methods null: every method
            below[name], sources[f"{path}.{name}"] = value, source


def _given_up(below: Mapping[str, Any], above: Mapping[str, Any]) -> Iterator[str]:
    """What of a phase's setting means nothing any more with what lies over it."""
    access = above.get("access")
    if access == "off":
        yield from _NARROWING
    elif access == "unrestricted":
        yield "preset"
    elif access is None and below.get("access") == "off" and any(above.get(name) for name in _NARROWING):
        yield "access"


def _add(
    below: dict[str, Any], sources: dict[str, str], source: str, name: str, path: str, more: Sequence[str]
) -> None:
    known = below.get(name, [])
    below[name] = list(dict.fromkeys([*known, *more]))
    if more:
        sources[path] = f"{sources[path]} + {source}" if known else source
