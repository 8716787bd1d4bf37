"""One phase's policy as a value: parsed once, its rules found by host. The functions that decide are in policy.py.

Pure: no socket, no clock, no state. Names come in canonical form (names.py), and rules are found at dot borders only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Network
from itertools import chain
from typing import Any, Literal, get_args

from proxy.credentials import BadCredential, Credential, parse_credential
from proxy.presets import PRESETS
from proxy.rules import BadRule, Rule, as_address, parse_methods, parse_rule

Access = Literal["off", "limited", "unrestricted"]

MAX_RULES = 10_000
MAX_CREDENTIALS = 1_000
_rule = lru_cache(2 * MAX_RULES)(parse_rule)  # policies are told again with one rule more, and to many sandboxes
_KEYS = frozenset(("phase", "access", "preset", "registries", "rules", "methods", "ceiling", "credentials"))


class BadPolicy(ValueError):
    """A policy that can't be enforced as written. The message says what to write instead."""


class Index:
    """Rules by host: finding those that cover a name takes as many look-ups as the name has labels."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        by_host: dict[str, list[Rule]] = {}
        networks: list[Rule] = []
        for rule in rules:
            (networks if rule.network else by_host.setdefault(rule.host, [])).append(rule)
        for group in by_host.values():
            group.sort(key=lambda rule: (rule.match != "exact", -len(rule.path)))
        self._by_host = by_host
        self._networks = sorted(networks, key=lambda rule: -rule.network.prefixlen if rule.network else 0)

    def covering(self, host: str) -> Iterator[Rule]:
        """The rules about this host, the narrowest first."""
        domain = host if self._by_host else ""
        while domain:
            for rule in self._by_host.get(domain, ()):
                if rule.covers(host):
                    yield rule
            domain = domain.partition(".")[2]
        if self._networks and host[-1:].isdigit():
            yield from (rule for rule in self._networks if rule.covers(host))


@dataclass(frozen=True, slots=True)
class _Indexes:
    allow: Index
    deny: Index
    ceiling: Index
    preset: Index
    registries: Index


@dataclass(frozen=True, slots=True)
class Policy:
    """What one phase of one sandbox may reach. All rules stand in the order in which they were written."""

    phase: str
    access: Access
    preset: str = "none"
    registries: tuple[Rule, ...] = ()  # part of every preset but none
    rules: tuple[Rule, ...] = ()
    methods: frozenset[str] | None = None
    ceiling: tuple[Rule, ...] = ()  # denies that hold for everybody
    credentials: tuple[Credential, ...] = ()
    artifact_hosts: frozenset[str] = field(init=False, repr=False, compare=False)
    denied_networks: tuple[IPv4Network, ...] = field(init=False, repr=False, compare=False)
    _indexes: _Indexes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        denies = [rule for rule in self.rules if rule.deny]
        networks = (rule.network for rule in (*self.ceiling, *denies))
        known = (*self.registries, *PRESETS["package-managers"])
        derived = {
            "artifact_hosts": frozenset(rule.host or str(rule.network).removesuffix("/32") for rule in known),
            "denied_networks": tuple(network for network in networks if network),
            "_indexes": _Indexes(
                Index(rule for rule in self.rules if not rule.deny),
                Index(denies),
                Index(self.ceiling),
                _PRESETS[self.preset],
                Index(self.registries if self.preset != "none" else ()),
            ),
        }
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    def allows(self, host: str) -> Iterator[Rule]:
        """The rules that allow something of this host, the narrowest first."""
        return self._indexes.allow.covering(host)

    def denies(self, host: str) -> Iterator[Rule]:
        """What denies this host or something of it, the administrator's ceiling first."""
        return chain(self._indexes.ceiling.covering(host), self._indexes.deny.covering(host))

    def ceils(self, host: str, rule: Rule) -> bool:
        """Is this rule about the host one of the administrator's?"""
        return any(rule is other for other in self._indexes.ceiling.covering(host))

    def preset_covers(self, host: str, port: int | None, tls: bool | None) -> bool:
        found = chain(self._indexes.preset.covering(host), self._indexes.registries.covering(host))
        return any(rule.fits(port, tls) for rule in found)


_PRESETS = {name: Index(rules) for name, rules in PRESETS.items()}


def parse(value: Any) -> Policy:
    """The policy in one decoded JSON object (see _KEYS; phase and access are needed); raises BadPolicy."""
    if not isinstance(value, dict):
        raise BadPolicy("a policy is an object with phase, access and rules")
    if unknown := sorted(map(str, set(value) - _KEYS)):
        # Leaving a key out that was meant to narrow the policy would open it.
        raise BadPolicy(f"a policy has no {unknown[0]!r}: it consists of {', '.join(sorted(_KEYS))}")
    phase, preset = value.get("phase"), value.get("preset", "none")
    if not isinstance(phase, str) or not phase:
        raise BadPolicy("a policy needs its phase, for example 'setup'")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise BadPolicy(f"preset is one of {', '.join(PRESETS)}, not {preset!r}")
    try:
        policy = Policy(
            phase,
            _access(value),
            preset,
            tuple(_registry(text) for text in _texts(value, "registries")),
            tuple(_rule(text) for text in _texts(value, "rules")),
            _methods(value.get("methods")),
            tuple(_ceiling(text) for text in _texts(value, "ceiling")),
            _credentials(value.get("credentials", [])),
        )
    except (BadRule, BadCredential) as error:
        raise BadPolicy(str(error)) from error
    _check(policy)
    return policy


def _access(value: dict[str, Any]) -> Access:
    found: Access | None = next((access for access in get_args(Access) if access == value.get("access")), None)
    if found is None:
        raise BadPolicy(f"access is off, limited or unrestricted, not {value.get('access')!r}")
    return found


def _texts(value: dict[str, Any], key: str) -> list[str]:
    texts = value.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts) or len(texts) > MAX_RULES:
        raise BadPolicy(f"{key} is a list of at most {MAX_RULES:,} texts")
    return texts


def _registry(text: str) -> Rule:
    """A registry is exactly one host; a port stands behind it if it is another than the web's."""
    try:
        rule = _rule(text if as_address(text.partition(":")[0]) else f"={text}")
    except BadRule as error:
        raise BadPolicy(f"a registry is one host like example.com or example.com:8443, not {text!r}") from error
    if rule.partial or rule.mode:
        raise BadPolicy(f"a registry is one host without options, not {text!r}")
    return rule


def _ceiling(text: str) -> Rule:
    if text.split()[:1] == ["deny"]:
        raise BadPolicy(f"all of the ceiling is denied: leave the word out of {text!r}")
    return _rule(f"deny {text}")


def _methods(value: Any) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(method, str) for method in value):
        raise BadPolicy("methods is null or a list like GET, HEAD, OPTIONS")
    return parse_methods(value)


def _credentials(value: Any) -> tuple[Credential, ...]:
    if not isinstance(value, list) or len(value) > MAX_CREDENTIALS:
        raise BadPolicy(f"credentials is a list of at most {MAX_CREDENTIALS:,} objects")
    return tuple(parse_credential(credential) for credential in value)


def _check(policy: Policy) -> None:
    spliced = next((rule for rule in policy.rules if rule.mode == "splice"), None)
    if policy.methods is not None and spliced:
        raise BadPolicy(
            f"rule {spliced.text!r}: the policy's methods can't be seen in what is spliced: leave mode=splice out, or "
            f"write tcp://{spliced.host or spliced.network}:443, which lets any protocol through"
        )
