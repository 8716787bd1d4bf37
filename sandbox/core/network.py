"""What a task's phases may reach: each phase's setting, what changing it makes of it, and the policy that the filter is told.

Pure. Rules are read by proxy.rules and decided by proxy.policy; nothing here knows whether a name may be reached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from proxy.policy import BadPolicy, decide_name
from proxy.policy import parse as parse_policy
from proxy.rules import BadRule, parse_rule

PHASES: Final = ("setup", "maintenance", "agent")  # those whose network a user sets; every other phase has none
ACCESSES: Final = ("off", "limited", "unrestricted")  # from the least to the most
MAX_RULES: Final = 1_000
_DENY: Final = "deny "


@dataclass(frozen=True)
class NetworkSpec:
    """One phase's setting. `rules` in their canonical spelling; `methods` None: every method."""

    access: str = "off"
    preset: str = "none"
    rules: tuple[str, ...] = ()
    methods: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> NetworkSpec:
        """The inverse of asdict() and JSON."""
        methods = value["methods"]
        return cls(value["access"], value["preset"], tuple(value["rules"]), None if methods is None else tuple(methods))


OFF: Final = NetworkSpec()
UNRESTRICTED: Final = NetworkSpec("unrestricted")
DEFAULTS: Final = {"setup": UNRESTRICTED, "maintenance": UNRESTRICTED, "agent": OFF}


def make(phase: str, given: Mapping[str, Any]) -> NetworkSpec:
    """The setting of what a user gave of access, preset, rules and methods. Raises ValueError with what to write instead.

    Without access it is the phase's default; but to allow something is to allow nothing else, hence limited.
    """
    rules = canonical(given.get("rules", ()))
    narrows = any(not rule.startswith(_DENY) for rule in rules) or given.get("preset", "none") != "none"
    default = DEFAULTS[phase].access
    if narrows or (default == "off" and given.get("methods") is not None):
        default = "limited"
    access = given.get("access") or default
    return _checked(NetworkSpec(access, given.get("preset") or "none", rules, _methods(given.get("methods"))))


def canonical(rules: Iterable[str]) -> tuple[str, ...]:
    """Rules in their canonical spelling, each once. Raises ValueError."""
    try:
        return tuple(dict.fromkeys(parse_rule(rule).text for rule in rules))
    except BadRule as error:
        raise ValueError(str(error)) from error


def _methods(methods: Sequence[str] | None) -> tuple[str, ...] | None:
    return None if methods is None else tuple(dict.fromkeys(method.upper() for method in methods))


def _checked(spec: NetworkSpec) -> NetworkSpec:
    """The same setting, if the filter will take it and every part of it means something."""
    if spec.access == "off" and spec != OFF:
        raise ValueError(
            "with access off there is nothing to allow, deny or restrict: "
            "allow something (--allow, --preset), or say limited or unrestricted (--access)"
        )
    if spec.access == "unrestricted" and spec.preset != "none":
        raise ValueError(f"access unrestricted includes the preset {spec.preset}: leave it out, or say limited")
    if len(spec.rules) > MAX_RULES:
        raise ValueError(f"{len(spec.rules)} rules are more than the {MAX_RULES} that a phase may have")
    try:
        parse_policy(policy("agent", spec))
    except BadPolicy as error:
        raise ValueError(str(error)) from error
    return spec


@dataclass(frozen=True)
class Edited:
    """A setting after a change, and what the user should know about it."""

    spec: NetworkSpec
    notices: tuple[str, ...] = field(default=())


def with_rules(spec: NetworkSpec, rules: Sequence[str]) -> Edited:
    """`spec` with more rules. Allowing what was denied by the same rule takes that back, and the other way round."""
    notices = []
    added = canonical(rules)
    if spec.access == "off":
        if all(rule.startswith(_DENY) for rule in added):
            raise ValueError("access is off, so there is nothing to deny")
        spec = replace(spec, access="limited")
        notices.append("access was off and is limited now: what no rule allows stays out of reach")
    opposites = {_opposite(rule) for rule in added}
    kept = tuple(rule for rule in spec.rules if rule not in opposites)
    notices += [f"took back: {_as_said(rule)}" for rule in spec.rules if rule in opposites]
    spec = _checked(replace(spec, rules=tuple(dict.fromkeys((*kept, *added)))))
    return Edited(spec, (*notices, *_without_effect(spec, added)))


def _without_effect(spec: NetworkSpec, added: Iterable[str]) -> Iterator[str]:
    """A sentence for each added rule that another one makes void."""
    made = parse_policy(policy("agent", spec))
    for rule in map(parse_rule, added):
        if (
            not rule.deny
            and rule.match in ("domain", "exact")
            and not (decision := decide_name(made, rule.host)).allowed
        ):
            yield f"{rule.text} has no effect: {decision.reason}"


def _opposite(rule: str) -> str:
    return rule.removeprefix(_DENY) if rule.startswith(_DENY) else _DENY + rule


def _as_said(rule: str) -> str:
    return rule if rule.startswith(_DENY) else f"allow {rule}"


def with_options(spec: NetworkSpec, given: Mapping[str, Any]) -> Edited:
    """`spec` with other options: what `given` does not name stays, as far as it means something with the new access."""
    access = given.get("access")
    if access == "off":
        kept = OFF
    elif access == "unrestricted":
        kept = replace(spec, preset="none")
    else:
        kept = spec
    notices = []
    if access is None and spec.access == "off":
        if set(given) == {"rules"} and all(rule.startswith(_DENY) for rule in canonical(given["rules"])):
            raise ValueError("access is off, so there is nothing to deny")
        access = "limited"
        notices.append("access was off and is limited now")
    merged = replace(
        kept,
        access=access or spec.access,
        preset=given.get("preset") or kept.preset,
        rules=canonical(given["rules"]) if "rules" in given else kept.rules,
        methods=_methods(given["methods"]) if "methods" in given else kept.methods,
    )
    if gone := [rule for rule in spec.rules if rule not in merged.rules]:
        notices.append(f"no longer: {', '.join(map(_as_said, gone))}")
    return Edited(_checked(merged), tuple(notices))


def policy(
    phase: str,
    spec: NetworkSpec,
    denied_to_all: Sequence[str] = (),
    registries: Iterable[str] = (),
    credentials: Iterable[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """The filter's policy, as its control message has it. `denied_to_all`: the ceiling's rules, without the word deny."""
    if spec.access == "off":
        return {"phase": phase, "access": "off"}  # nothing else matters, and no credential leaves the daemon in vain
    return {
        "phase": phase,
        **asdict(spec),
        "rules": list(spec.rules),
        "methods": None if spec.methods is None else list(spec.methods),
        "registries": list(registries),
        "ceiling": list(denied_to_all),
        "credentials": [dict(credential) for credential in credentials],
    }


def in_words(spec: NetworkSpec) -> str:
    """A setting on one line."""
    parts = [spec.access]
    if spec.preset != "none":
        parts.append(f"preset {spec.preset}")
    parts += [_as_said(rule) for rule in spec.rules]
    if spec.methods is not None:
        parts.append(f"methods {', '.join(spec.methods)}")
    return "; ".join(parts)
