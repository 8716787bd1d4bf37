"""Which names and connections a policy permits, and by which way. Requests are decided in policy.py, after these.

Pure. Nothing here sees a request, so a rule that is about some requests only allows the connection, and has it inspected.
"""

from dataclasses import dataclass
from typing import Literal

from proxy.rules import WEB_PORTS, Rule, as_address
from proxy.ruleset import Policy

Way = Literal["splice", "inspect"]


@dataclass(frozen=True, slots=True)
class Decision:
    """`rule` is the rule that allowed it, or for a refusal the narrowest one that would (empty if none would)."""

    allowed: bool
    rule: str
    reason: str


def decide_name(policy: Policy, name: str) -> Decision:
    """May anything of this name be reached at all? Whoever may not reach it learns no address."""
    if barred := _barred(policy, name, None, None):
        return barred
    granted = next((rule.text for rule in policy.allows(name)), "") or base(policy, name, None, None)
    return Decision(True, granted, "") if granted else Decision(False, _name(name), _out_of_reach(policy, name))


def decide_connection(policy: Policy, host: str, port: int, *, tls: bool) -> Decision:
    """May TLS, or HTTP without it, be spoken with this host on this port? Each request is decided after it."""
    if barred := _barred(policy, host, port, tls):
        return barred
    granted = next((rule.text for rule in web_rules(policy, host, port, tls)), "") or base(policy, host, port, tls)
    if granted:
        return Decision(True, granted, "")
    return Decision(False, _suggested(policy, host, port), _out_of_reach(policy, host, port))


def relays(policy: Policy, host: str, port: int) -> Decision | None:
    """What a tcp:// rule says of this connection, whatever protocol it speaks; None if there is no such rule."""
    rule = next((rule for rule in policy.allows(host) if rule.scheme == "tcp" and rule.fits(port, None)), None)
    if rule is None or policy.access == "off":
        return None
    return bars_relay(policy, host, port) or Decision(True, rule.text, "")


def bars_relay(policy: Policy, host: str, port: int) -> Decision | None:
    """Why no tcp:// rule could let this through. A deny of only some requests counts: nobody would see them."""
    deny = next((deny for deny in policy.denies(host) if deny.fits(port, None)), None)
    if deny is None:
        return _off(policy, relay_rule(policy, host, port)) if policy.access == "off" else None
    if deny.partial and not policy.ceils(host, deny):
        # The user can help himself: by naming the port that it is meant for, as a URL does.
        return Decision(False, "", f"no request could be seen in what tcp:// lets through, as {deny.text!r} needs it")
    return denied(policy, host, deny)


def way(policy: Policy, host: str, port: int, *, tls: bool, cacheable: bool = True) -> Way:
    """How an allowed connection is carried. Seeing the requests of plain HTTP costs nothing, and gives a better record.

    A list of hosts is only worth something if every request is seen, since one server answers for many names and the
    client may change the name after the handshake: limited access is inspected where no rule says otherwise.

    `cacheable` is False for who may not trust our authority and shouldn't fail for the artifact cache's sake alone.
    """
    if not tls or _must_be_seen(policy, host, port):
        return "inspect"
    modes = [
        ((rule.host, rule.match == "exact"), rule.mode) for rule in web_rules(policy, host, port, tls) if rule.mode
    ]
    if modes:
        narrowest, _ = modes[0]
        return "inspect" if (narrowest, "inspect") in modes else "splice"
    opened = cacheable and host in policy.artifact_hosts
    return "splice" if policy.access == "unrestricted" and not opened else "inspect"


def _barred(policy: Policy, host: str, port: int | None, tls: bool | None) -> Decision | None:
    """Why there can be no connection, whatever is allowed. Of a name (no port): why there can be none at all."""
    for rule in policy.denies(host):
        if not rule.partial and (rule.fits(port, tls) if port is not None else not rule.ports):
            return denied(policy, host, rule)
    if policy.access == "off":
        return _off(policy, _name(host) if port is None else _suggested(policy, host, port))
    return None


def _off(policy: Policy, rule: str) -> Decision:
    """A rule alone would change nothing; but who adds one gets limited access with it (`--allow`, `hutch net allow`)."""
    return Decision(False, rule, f"network access is off in the {policy.phase} phase")


def _must_be_seen(policy: Policy, host: str, port: int) -> bool:
    rules = (*policy.denies(host), *web_rules(policy, host, port, True))
    return (
        policy.methods is not None
        or any(rule.partial and rule.fits(port, True) for rule in rules)
        or any(credential.covers(host) for credential in policy.credentials)
    )


def denied(policy: Policy, host: str, rule: Rule) -> Decision:
    """The refusal by a deny; no rule would help."""
    if policy.ceils(host, rule):
        return Decision(False, "", f"{host} is denied to everybody by the administrator of this host")
    return Decision(False, "", f"{host} is denied by the rule {rule.text!r}")


def base(policy: Policy, host: str, port: int | None, tls: bool | None) -> str:
    """What allows this without a rule for it: unrestricted access (only of names) or the preset; "" if nothing does."""
    if policy.access == "unrestricted" and as_address(host) is None:
        return "unrestricted"
    return f"preset {policy.preset}" if policy.preset_covers(host, port, tls) else ""


def web_rules(policy: Policy, host: str, port: int, tls: bool) -> list[Rule]:
    """The rules that allow something of this TLS or HTTP connection, the narrowest first."""
    return [rule for rule in policy.allows(host) if rule.scheme != "tcp" and rule.fits(port, tls)]


def place(host: str, port: int) -> str:
    """The rule for all of this host's web server on this port."""
    return _name(host) if port in WEB_PORTS else f"{host}:{port}"


def _suggested(policy: Policy, host: str, port: int) -> str:
    """The rule that would allow it; none for what is only the administrator's to open."""
    return "" if _is_closed(policy, host) else place(host, port)


def relay_rule(policy: Policy, host: str, port: int) -> str:
    """The rule that would allow any protocol; likewise."""
    return "" if _is_closed(policy, host) else f"tcp://{host}:{port}"


def _is_closed(policy: Policy, host: str) -> bool:
    """Whether it is a private or local address that no rule names; those that do are only taken by the administrator's leave."""
    address = as_address(host)
    return address is not None and not address.is_global and next(iter(policy.allows(host)), None) is None


def _name(host: str) -> str:
    return "=deny" if host == "deny" else host  # the one name that is a word of the grammar


def _out_of_reach(policy: Policy, host: str, port: int | None = None) -> str:
    some = next(iter(policy.allows(host)), None) is not None  # of this host, but not this
    where = host if port is None or (port in WEB_PORTS and not some) else f"port {port} of {host}"
    if _is_closed(policy, host):
        return f"{where} can't be reached: it is a private or local address, which only the administrator of this host can open"
    if as_address(host) is not None:
        return f"{where} can't be reached, because it is an address that no rule of the {policy.phase} phase names"
    return f"{where} is not among what the {policy.phase} phase may reach"
