"""What one phase of one sandbox may reach: all functions that decide, on a name, a connection, a request.

    name ─▶ decide_name ─▶ connection ─▶ relays? ─▶ decide_connection ─▶ way ─▶ request ─▶ decide_request
                                                                                explain: all of it for one URL

Pure: no socket, no clock, no state. A deny always wins. Rules that allow add up; only the preset and unrestricted access
step back where a rule says with methods= or git= which requests it wants of a host.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

from proxy.paths import oddity, plain
from proxy.reach import (
    Decision,
    Way,
    bars_relay,
    base,
    decide_connection,
    decide_name,
    denied,
    place,
    relay_rule,
    relays,
    way,
    web_rules,
)
from proxy.restrict import GIT_FETCH_TYPE, READING, Request, redirects
from proxy.rules import METHOD, BadRule, Rule, parse_rule
from proxy.ruleset import MAX_RULES, Access, BadPolicy, Policy, parse

__all__ = [
    "Access", "BadPolicy", "Decision", "Policy", "Way", "decide_connection", "decide_name", "decide_request", "explain",
    "parse", "relays", "way",
]  # fmt: skip

_URL = re.compile(r"(https?|tcp)://([^/?#\s]+)([^#\s]*)(#\S*)?", re.IGNORECASE)

_plain_of_rule = lru_cache(MAX_RULES)(plain)


def decide_request(
    policy: Policy, host: str, port: int, *, tls: bool, method: str, target: str, fields: Sequence[tuple[str, str]]
) -> Decision:
    """May this request be sent on a connection that was allowed? `target` begins with / or is *."""
    connection = decide_connection(policy, host, port, tls=tls)
    if not connection.allowed:
        return connection
    request = Request.read(method, target, fields)
    if not request.path.startswith("/") and request.path != "*":
        return Decision(False, "", "the request target is malformed")
    denies = [rule for rule in policy.denies(host) if rule.partial and rule.fits(port, tls)]
    allows = web_rules(policy, host, port, tls)
    if any(rule.path for rule in (*denies, *allows)):
        if odd := oddity(request.path):
            return Decision(False, "", f"the path can't be compared with the rules for {host}, because it has {odd}")
        if redirects(name for name, _ in fields):
            return Decision(
                False, "", f"a header field names another path, which can't be compared with the rules for {host}"
            )
    if refusal := _refused_by_deny(policy, host, denies, request):
        return refusal
    here = [rule for rule in allows if request.path.startswith(rule.path)]
    by = base(policy, host, port, tls)
    if granted := _granted(policy, here, by, request):
        return Decision(True, granted, "")
    suggested = _url(host, port, tls, request.path) if not by and all(rule.path for rule in here) else place(host, port)
    return _refused(policy, host, suggested, here, bool(here or by), request)


def explain(policy: Policy, url: str, method: str) -> Decision:
    """What would happen to a request (http, https) or a connection (tcp) to this URL; raises BadRule for what is none."""
    asked, target = _asked(url)
    decision = _foretell(policy, asked, method.upper(), target)
    if decision.allowed or not decision.rule:
        return decision
    # A rule for the host may not be enough, where methods are restricted.
    access: Access = "limited" if policy.access == "off" else policy.access  # which a rule makes of it
    more = replace(policy, access=access, rules=(*policy.rules, parse_rule(decision.rule)))
    again = _foretell(more, asked, method.upper(), target)
    return decision if again.allowed else replace(decision, rule=again.rule)


def _asked(url: str) -> tuple[Rule, str]:
    """Scheme, host and port of a URL in the form of a rule, and the request target; raises BadRule."""
    parts = _URL.fullmatch(url)
    if parts is None:
        raise BadRule("it is no URL like https://example.com/path or tcp://example.com:22")
    scheme, authority, rest = parts[1].lower(), parts[2], parts[3]
    asked = parse_rule(f"{scheme}://{authority}" if scheme == "tcp" else f"{scheme}://{authority}/")
    if asked.match == "subdomains":
        raise BadRule("it names many hosts, and a URL names one")
    return asked, rest if rest.startswith("/") else f"/{rest}"


def _foretell(policy: Policy, asked: Rule, method: str, target: str) -> Decision:
    host, port = asked.host or str(asked.network).removesuffix("/32"), asked.ports[0]
    if relayed := relays(policy, host, port):
        return relayed
    if asked.scheme != "tcp":
        fields = [("content-type", GIT_FETCH_TYPE)] if method == "POST" else []  # it only matters where git fetches
        tls = asked.scheme == "https"
        return decide_request(policy, host, port, tls=tls, method=method, target=target, fields=fields)
    reason = f"only TLS and HTTP pass without a tcp:// rule, and there is none for port {port} of {host}"
    return bars_relay(policy, host, port) or Decision(False, relay_rule(policy, host, port), reason)


def _refused_by_deny(policy: Policy, host: str, denies: list[Rule], request: Request) -> Decision | None:
    """`denies` are about some requests only, and any spelling that a server may read as theirs counts."""
    # Many a server takes a folder with and without its slash for the same.
    folded = plain(f"{request.path}/") if any(deny.path for deny in denies) else ""
    for deny in denies:
        if not folded.startswith(_plain_of_rule(deny.path)):
            continue
        if deny.methods is None or request.method.upper() in deny.methods:
            return denied(policy, host, deny)
        if request.trick:
            return Decision(False, "", f"some methods are denied for {host}, and {request.trick}")
    return None


def _granted(policy: Policy, here: list[Rule], by: str, request: Request) -> str:
    """What allows the request, "" if nothing does. `here` are the rules for its path, `by` the preset or access."""
    choosy = [rule for rule in here if rule.methods is not None or rule.git]
    if choosy and not request.trick and (rule := next((rule for rule in choosy if _lets(rule, request)), None)):
        return rule.text
    granted = next((rule.text for rule in here if rule.methods is None and not rule.git), "")
    if policy.methods is None:
        return granted or ("" if choosy else by)
    pushes = any(rule.git for rule in choosy) and request.pushes_with_git()
    return (granted or by) if request.method in policy.methods and not request.trick and not pushes else ""


def _lets(rule: Rule, request: Request) -> bool:
    if rule.git and request.pushes_with_git():
        return False
    methods = READING if rule.methods is None else rule.methods
    return request.method in methods or (rule.git and request.fetches_with_git())


def _refused(policy: Policy, host: str, rule: str, here: list[Rule], covered: bool, request: Request) -> Decision:
    """The refusal of a request that nothing denies. `covered`: its path is allowed, but not what it does there."""
    who, restricted = f"the {policy.phase} phase", policy.methods is not None
    if (covered or restricted) and request.trick:
        reason = f"the methods for {host} are restricted, and {request.trick}"
        return Decision(False, "" if restricted else rule, reason)
    if covered and any(rule.git for rule in here) and request.pushes_with_git():
        return Decision(False, _with_method(rule, request), f"git=read lets {who} fetch from {host}, not push to it")
    if covered or (policy.methods is not None and request.method not in policy.methods):
        what = request.method if METHOD.fullmatch(request.method) else "this method"
        reason = f"{what} is not among the methods that {who} may use with {host}"
        return Decision(False, _with_method(rule, request), reason)
    return Decision(False, rule, f"this path of {host} is not among what {who} may reach")


def _url(host: str, port: int, tls: bool, path: str) -> str:
    """The rule for just this path, or for the host where no rule can spell the path."""
    authority = host if port == (443 if tls else 80) else f"{host}:{port}"
    return _valid(f"{'https' if tls else 'http'}://{authority}{path}") or place(host, port)


def _with_method(rule: str, request: Request) -> str:
    if request.fetches_with_git():
        return f"{rule} git=read"
    return _valid(f"{rule} methods={request.method}") if METHOD.fullmatch(request.method) else ""


def _valid(rule: str) -> str:
    try:
        return parse_rule(rule).text
    except BadRule:
        return ""
