"""What `hutch net` and the end of a run say about the network: records, refusals, settings, as text. Pure.

Tenants choose names and paths: whoever prints these lines makes them harmless first. It must not talk to the daemon.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sandbox.shapes import Denied, Explanation, NetworkChange, NetworkState, PhaseNetwork
from sandbox.units import bytes_text

_DNS = 53  # the port of what was refused when its name was asked for; nothing else reaches it
MAX_DENIED = 20  # names that the end of a task lists


@dataclass
class DeniedName:
    """Everything that was refused of one name in one phase."""

    phase: str
    name: str
    count: int = 0
    ports: list[int] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    reason: str = ""

    def add(self, entry: Denied) -> None:
        """Join another refusal of the name."""
        self.count += entry.get("count") or 1
        port, rule = entry.get("port"), entry.get("rule")
        if port and port != _DNS and port not in self.ports:
            self.ports.append(port)
        if rule and rule not in self.rules:
            self.rules.append(rule)
        self.reason = self.reason or entry.get("reason") or ""

    def line(self) -> str:
        """The name, and what to type so that it is allowed; where no rule would, why it was refused."""
        ports = f":{self.ports[0]}" if len(self.ports) == 1 else ""
        if len(self.ports) > 1:
            ports = f" (ports {', '.join(map(str, sorted(self.ports)))})"
        where = "" if self.phase in ("agent", "") else f" in {self.phase}"
        times = f", {self.count} times" if self.count > 1 else ""
        option = allow_option(self.phase)
        remedy = "to allow it: " + " ".join(f"{option} {shlex.quote(rule)}" for rule in self.rules)
        return f"{self.name}{ports}{where}{times}; {remedy if self.rules else self.reason or 'no rule allows it'}"


def denied_names(denied: Iterable[Denied]) -> list[DeniedName]:
    """Refusals joined by name: asking for an address and connecting are one wish."""
    names: dict[tuple[str, str], DeniedName] = {}
    for entry in denied:
        key = (entry.get("phase") or "agent", entry["name"])
        names.setdefault(key, DeniedName(*key)).add(entry)
    return list(names.values())


def denied_lines(denied: Iterable[Denied], task: str) -> Iterator[str]:
    """A line for each name, and where there are too many, where the others are."""
    names = denied_names(denied)
    yield from (name.line() for name in names[:MAX_DENIED])
    if len(names) > MAX_DENIED:
        yield f"{len(names) - MAX_DENIED} names more: hutch net log --denied {task}"


def allow_option(phase: str) -> str:
    """The option of `hutch run` that allows something in a phase."""
    return "--setup-allow" if phase in ("setup", "maintenance") else "--allow"


def refusal(record: dict[str, Any]) -> str:
    """A refusal when it happens, in a few words."""
    reason = record.get("reason")
    return f"denied: {_place(record)}" + (f" ({reason})" if reason else "")


def record_line(record: dict[str, Any]) -> str:
    """A record of the network as one line."""
    words = [
        _time(record.get("at")),
        f"{record.get('phase') or '-':11}",
        f"{record.get('decision') or '-':5}",
        f"{record.get('method') or '-':7}",
        _place(record) + str(record.get("path") or ""),
    ]
    if record.get("decision") == "deny":
        rule = record.get("rule")
        words.append(str(record.get("reason") or "no rule allows it") + (f"; this would: {rule}" if rule else ""))
    else:
        rule, reason = record.get("rule"), record.get("reason")
        words += [bytes_text(record.get("bytes") or 0), f"({rule or reason or '-'})"]
        if rule and reason:  # it was allowed, and failed
            words.append(str(reason))
    return "  ".join(words)


def _place(record: dict[str, Any]) -> str:
    name, port = record.get("name") or "-", record.get("port")
    return f"{name}:{port}" if port and port != _DNS else str(name)


def _time(text: Any) -> str:
    """A moment in the reader's time zone, as wide as every other."""
    try:
        return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (TypeError, ValueError):
        return "-" * 19


def setting(phase: PhaseNetwork) -> str:
    """A phase's setting on one line."""
    preset, methods = phase.get("preset", "none"), phase.get("methods")
    parts = [phase["access"], *([f"preset {preset}"] if preset != "none" else [])]
    parts += [f"methods {', '.join(methods)}"] if methods else []
    return "; ".join([*parts, *map(_rule, phase.get("rules") or ())])


def _rule(rule: str) -> str:
    return rule if rule.startswith("deny ") else f"allow {rule}"


def change_lines(change: NetworkChange) -> list[str]:
    """What became of a change."""
    when = "in force now" if change["in_force"] else "in force when the agent starts"
    return [*change["notices"], f"{when}: {setting(change['agent'])}"]


def details(state: NetworkState) -> list[tuple[str, str]]:
    """What `hutch net show` prints, as (name, value); a phase's rules below it."""
    lines = [("task", f"{state['task']}, {state['state']}")]
    for name in ("agent", "setup", "maintenance"):
        phase = state["policy"][name]
        lines.append((name, setting({**phase, "rules": []})))
        lines += [("", _rule(rule)) for rule in phase.get("rules") or ()]
    if any(phase.get("preset", "none") != "none" for phase in state["policy"].values()):
        lines += [("registries", " ".join(state["registries"]))]
    ceiling = state["ceiling"]
    if ceiling["file"]:
        lines.append(("ceiling", f"{ceiling['file']}; agents have at most: {ceiling['agent_access']}"))
        lines += [("", f"deny {rule}") for rule in ceiling["deny"]]
    if ceiling["private"]:
        lines.append(("private", ", ".join(ceiling["private"])))
    return lines


def explanation(found: Explanation) -> list[str]:
    """What would become of a request, and what to type where it would be refused."""
    request = found["url"] if found["url"].startswith("tcp://") else f"{found['method']} {found['url']}"
    asked = f"{request} in the {found['phase']} phase"
    rule = found["rule"]
    if found["allowed"]:
        return [f"allowed: {asked}" + (f", by: {rule}" if rule else "")]
    lines = [f"denied: {asked}: {found['reason']}"]
    if rule and found["phase"] == "agent" and found["state"] in ("queued", "running"):
        lines.append(f"to allow it now: hutch net allow {found['task']} {shlex.quote(rule)}")
    if rule:
        lines.append(f"to allow it in the next run: {allow_option(found['phase'])} {shlex.quote(rule)}")
    return lines
