"""What one phase of one sandbox may reach: a frozen value, and the function that decides.

Pure: no socket, no clock, no state. Names come in canonical form (names.py) and are compared on dot borders only.
"""

from dataclasses import dataclass
from typing import Any, Literal

from proxy.names import BadName, canonical, covering

Access = Literal["off", "limited", "unrestricted"]
Way = Literal["splice", "inspect"]

# In `limited` an allowed domain means its web server. Other ports would need a rule that names them.
WEB_PORTS = (80, 443)
MAX_DOMAINS = 10_000


class BadPolicy(ValueError):
    """A policy that can't be enforced as written. The message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Policy:
    phase: str
    access: Access
    allow: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` is the rule that allowed it, or for a refusal the rule that would (empty if no rule would)."""

    allowed: bool
    rule: str
    reason: str


def parse(value: Any) -> Policy:
    """The policy in one decoded JSON object {"phase", "access", "allow"}; raises BadPolicy."""
    if not isinstance(value, dict):
        raise BadPolicy("a policy is an object with phase, access and allow")
    if unknown := sorted(set(value) - {"phase", "access", "allow"}):
        # Leaving a key out that was meant to narrow the policy would open it.
        raise BadPolicy(f"a policy has no {unknown[0]!r}: it consists of phase, access and allow")
    phase, allow = value.get("phase"), value.get("allow", [])
    if not isinstance(phase, str) or not phase:
        raise BadPolicy("a policy needs its phase, for example 'setup'")
    if not isinstance(allow, list) or not all(isinstance(item, str) for item in allow) or len(allow) > MAX_DOMAINS:
        raise BadPolicy(f"allow is a list of at most {MAX_DOMAINS} domains")
    match value.get("access"):
        case "off" | "limited" | "unrestricted" as access:
            return Policy(phase, access, tuple(parse_domain(item) for item in allow))
        case other:
            raise BadPolicy(f"access is off, limited or unrestricted, not {other!r}")


def parse_domain(text: str) -> str:
    """An allowed domain in canonical form; raises BadPolicy with what to write instead."""
    if text.startswith("*."):
        raise BadPolicy(f"{text!r}: write {text[2:]!r}, which covers the domain and all below it")
    try:
        return canonical(text)
    except BadName as error:
        raise BadPolicy(f"{text!r} is no domain (like example.com, without scheme, port or path): {error}") from error


def decide(policy: Policy, name: str, port: int | None) -> Decision:
    """May this name be reached on this port? `None` asks for any port at all (a name being resolved)."""
    if policy.access == "off":
        return Decision(False, "", f"network access is off in the {policy.phase} phase")
    if policy.access == "unrestricted":
        return Decision(True, "unrestricted", "")
    rule = covering(name, policy.allow)
    if rule is None:
        return Decision(False, suggest(name), f"{name} is not among the allowed domains of the {policy.phase} phase")
    if port is not None and port not in WEB_PORTS:
        return Decision(False, "", f"port {port} of {name} can't be reached in limited access, only ports 80 and 443")
    return Decision(True, rule, "")


def suggest(name: str) -> str:
    """The narrowest rule that would allow this name."""
    return name


def way(policy: Policy, *, tls: bool) -> Way:
    """How an allowed connection is carried. A list of domains is only worth something if every request is seen,
    since one server answers for many names and the client may change the name after the handshake. Without TLS
    seeing the requests costs the user nothing, and gives a better record."""
    return "splice" if tls and policy.access == "unrestricted" else "inspect"
