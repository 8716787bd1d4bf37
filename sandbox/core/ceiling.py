"""The ceiling: what the administrator of the daemon lets no task exceed, read once from a TOML file when the daemon starts.

    deny = ["evil.example", "10.0.0.0/8"]     rules; denied to every task in every phase
    agent_access = "limited"                  the most that an agent may have: off, limited or unrestricted
    private = ["git.corp.example", "10.1.0.0/16"]   names and networks that may be private addresses
    limits = { memory = "16G", disk = "50G" }       the most of each: memory, cpus, pids, disk, files

Strict: a file that is not understood to its last word stops the start, since what was meant to forbid would be missing.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Final

from proxy.addresses import kind
from proxy.names import BadName, canonical
from proxy.rules import BadRule, Rule, parse_rule
from sandbox import units
from sandbox.core.errors import BadRequest, TaskError
from sandbox.core.model import TaskSpec
from sandbox.core.network import ACCESSES, NetworkSpec
from sandbox.host.cgroup_layout import Limits

DEFAULT_FILE: Final = Path("/etc/hutch/ceiling.toml")
_LIMITS: Final = {"memory": 16 << 20, "cpus": 0.01, "pids": 8, "disk": 1 << 20, "files": 100}  # the least of each
_REMEDY: Final = "hutch serve --help shows such a file"


@dataclass(frozen=True)
class Ceiling:
    """`deny`: rules without that word. `private`: names and networks. `file`: where it was read, empty without one. `limits`: the
    most of each.
    """

    deny: tuple[str, ...] = ()
    agent_access: str = "unrestricted"
    private: tuple[str, ...] = ()
    file: str = ""
    limits: Mapping[str, float] = field(default_factory=dict)

    def with_private(self, names: Iterable[str]) -> Ceiling:
        """The same with more names and networks that may be private."""
        return replace(self, private=tuple(dict.fromkeys((*self.private, *names))))

    def check(self, phase: str, spec: NetworkSpec) -> None:
        """Raise BadRequest when a phase's setting exceeds it: told at once, not when a request fails."""
        if phase == "agent" and ACCESSES.index(spec.access) > ACCESSES.index(self.agent_access):
            raise BadRequest(
                f"access {spec.access} is more than the ceiling {self.file} grants an agent: {self.agent_access}",
                f"--access {self.agent_access}, or ask the administrator of the daemon",
            )
        denials = [parse_rule(f"deny {text}") for text in self.deny]
        for rule in map(parse_rule, spec.rules):
            if not rule.deny:
                self._check_rule(rule, denials)

    def capped(self, spec: TaskSpec) -> TaskSpec:
        """The task with limits where it asked for none. Raises BadRequest for one that is above the ceiling."""
        given = {**(asdict(spec.limits) if spec.limits else {}), "disk": spec.disk, "files": spec.files}
        for name, most in self.limits.items():
            asked = given.get(name)
            if asked is not None and asked > most:
                text = f"limits.{name}: {_amount(name, asked)} is above the ceiling of {_amount(name, most)} in {self.file}"
                raise BadRequest(text, f"--{name} {_amount(name, most)}, or ask the administrator of the daemon")
        most_files = self.limits.get("files")
        return replace(
            spec,
            disk=int(self.limits["disk"]) if spec.disk is None and "disk" in self.limits else spec.disk,
            files=int(most_files) if spec.files is None and most_files else spec.files,
        )

    def lowered(self, limits: Limits) -> Limits:
        """Limits of a sandbox, none of them above the ceiling."""
        most = {name: self.limits[name] for name in asdict(limits) if name in self.limits}
        return replace(limits, **{name: min(value, getattr(limits, name)) for name, value in most.items()})

    def _check_rule(self, rule: Rule, denials: Iterable[Rule]) -> None:
        remedy = "leave the rule out, or ask the administrator of the daemon"
        for denial in denials:
            if _denies_all_of(denial, rule):
                raise BadRequest(
                    f"the rule {rule.text!r} is of no use: the ceiling {self.file} has {denial.text!r} for everybody",
                    remedy,
                )
        if rule.network is not None and not self._leaves(rule.network):
            where = f"the ceiling {self.file} does not" if self.file else "no ceiling does"
            raise BadRequest(
                f"the rule {rule.text!r} names {kind(rule.network[0])} addresses, and {where} list them as private",
                "hutch serve --private-name, or `private` in the ceiling's file",
            )

    def _leaves(self, network: IPv4Network) -> bool:
        """Whether a network is public, or among the private ones that may be reached."""
        what = kind(network[0])
        if what is None or what != kind(network[-1]):
            return True  # at least a part of it is public; the filter refuses the rest
        leaves = (_network(text) for text in self.private)
        return any(isinstance(leave, IPv4Network) and network.subnet_of(leave) for leave in leaves)


def _denies_all_of(denial: Rule, rule: Rule) -> bool:
    """Whether nothing is left of what `rule` allows."""
    if denial.path or denial.methods is not None or denial.scheme not in ("", rule.scheme):
        return False
    if denial.ports and not set(rule.ports) <= set(denial.ports):
        return False
    if rule.network is not None:
        return denial.network is not None and rule.network.subnet_of(denial.network)
    below = {"domain": ("domain",), "subdomains": ("domain", "subdomains")}.get(rule.match)
    if below is None:
        return denial.covers(rule.host)
    # Whoever allows what is below a name loses all of it only to a rule that reaches below that name, or one above it.
    reaches = denial.host == rule.host and denial.match in below
    return reaches or (denial.match in ("domain", "subdomains") and rule.host.endswith(f".{denial.host}"))


def load(path: Path | None) -> Ceiling:
    """The ceiling in `path`, or without one in the usual place; no ceiling where there is no file. Raises TaskError."""
    if path is None and not DEFAULT_FILE.exists():
        return Ceiling()
    file = path or DEFAULT_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TaskError(f"cannot read the ceiling {file}: {error.strerror}", "mend or remove it") from error
    except UnicodeDecodeError as error:
        raise TaskError(f"the ceiling {file} is not UTF-8 text", _REMEDY) from error
    return parse(text, str(file))


def parse(text: str, file: str) -> Ceiling:
    """The ceiling in a file's text. Raises TaskError that names file, key and what is expected."""
    try:
        value = tomllib.loads(text)
        if unknown := sorted(set(value) - _KEYS.keys()):
            raise ValueError(f"there is no key {unknown[0]!r}: the keys are {', '.join(_KEYS)}")
        return Ceiling(**{key: _KEYS[key](value[key]) for key in value}, file=file)
    except ValueError as error:
        raise TaskError(f"the ceiling {file} can't be used: {error}", _REMEDY) from error


def _deny(value: Any) -> tuple[str, ...]:
    return _each("deny", value, "rules, for example ['evil.example', '10.0.0.0/8']", _denial)


def _denial(text: str) -> str:
    try:
        return parse_rule(f"deny {text}").text.removeprefix("deny ")
    except BadRule as error:
        raise ValueError(f"deny: {error}") from error


def _agent_access(value: Any) -> str:
    if value not in ACCESSES:
        raise ValueError(f"agent_access is 'off', 'limited' or 'unrestricted', not {value!r}")
    return str(value)


def _private(value: Any) -> tuple[str, ...]:
    return _each("private", value, "names and networks, for example ['git.corp.example', '10.1.0.0/16']", _name)


def _name(text: str) -> str:
    network = _network(text)
    try:
        return canonical(text) if network is None else str(network)
    except BadName as error:
        raise ValueError(f"private: {text!r} is neither a name nor a network: {error}") from error


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text)
    except ValueError:
        return None


def _limits(value: Any) -> dict[str, float]:
    known = ", ".join(_LIMITS)
    if not isinstance(value, dict) or not value.keys() <= set(_LIMITS):
        raise ValueError(f"limits is a table of {known}, not {value!r}")
    found = {name: units.size(most) if isinstance(most, str) else most for name, most in value.items()}
    for name, most in found.items():
        if (
            not isinstance(most, int | float)
            or isinstance(most, bool)
            or not math.isfinite(most)
            or most < _LIMITS[name]
        ):
            raise ValueError(
                f"limits.{name} is a number, or a size like '16G', of {_LIMITS[name]} or more, not {value[name]!r}"
            )
    return {name: most if name == "cpus" else int(most) for name, most in found.items()}


def _amount(name: str, value: float) -> str:
    return units.bytes_text(value) if name in ("memory", "disk") else f"{value:g}"


def _each(key: str, value: Any, expected: str, read: Callable[[str], str]) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ValueError(f"{key} is a list of {expected}, not {value!r}")
    return tuple(dict.fromkeys(read(item) for item in value))


_KEYS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "deny": _deny,
    "agent_access": _agent_access,
    "private": _private,
    "limits": _limits,
}
