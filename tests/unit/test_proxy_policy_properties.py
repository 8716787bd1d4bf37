"""What explain says of any URL, and what holds for every policy and request: a deny always wins. Without I/O."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import Decision, Policy, decide_connection, decide_name, decide_request, explain, parse, relays, way
from proxy.rules import BadRule, parse_rule
from tests.support.policies import HOSTS, OFF, READ, limited, policies, requests, rules, unrestricted

EXPLAINED = limited(
    "example.com", "deny x.example.com", "https://a.org/x/", "tcp://db.org:22", "10.1.2.3", methods=READ
)


@pytest.mark.parametrize(
    ("url", "method", "allowed", "rule"),
    [
        ("https://example.com", "GET", True, "example.com"), ("HTTPS://EXAMPLE.com./a?b#c", "get", True, "example.com"),
        ("http://example.com:80/", "HEAD", True, "example.com"), ("http://10.1.2.3/", "GET", True, "10.1.2.3"),
        ("https://example.com?x", "GET", True, "example.com"), ("https://a.org/x/y", "GET", True, "https://a.org/x/"),
        ("tcp://db.org:22", "GET", True, "tcp://db.org:22"), ("http://db.org:22/", "POST", True, "tcp://db.org:22"),
        ("https://bücher.example/", "GET", False, "xn--bcher-kva.example"),
        ("https://example.com/", "POST", False, "example.com methods=POST"),
        ("https://x.example.com/", "GET", False, ""), ("https://a.org/y", "GET", False, "https://a.org/y"),
        ("https://a.org/y", "PUT", False, "https://a.org/y methods=PUT"), ("https://a.org/x/../y", "GET", False, ""),
        ("https://new.org:8443/", "GET", False, "new.org:8443"),
        ("https://new.org/a", "POST", False, "new.org methods=POST"), ("tcp://db.org:23", "", False, "tcp://db.org:23"),
        ("tcp://x.example.com:22", "", False, ""), ("https://10.9.9.9/", "GET", False, ""),
        ("https://9.9.9.9/", "GET", False, "9.9.9.9"),
        ("tcp://example.com:22/x", "", False, "tcp://example.com:22"),
        ("https://example.com/", "G T", False, ""), ("http://deny/", "GET", False, "=deny"),
        ("https://deny:8443/", "POST", False, "deny:8443 methods=POST"),
    ],
)  # fmt: skip
def test_explain(url: str, method: str, allowed: bool, rule: str) -> None:
    decision = explain(EXPLAINED, url, method)
    assert (decision.allowed, decision.rule, bool(decision.reason)) == (allowed, rule, not allowed)


@pytest.mark.parametrize(
    "url",
    [
        "https://u@example.com/", "https://*.example.com/", "https://[::1]/", "example.com", "ftp://example.com/", "tcp://example.com",
        "https://example.com:0/", "", "https:///", "https://example.com\x00/", "https://example.com /",
    ],
)  # fmt: skip
def test_what_is_no_url_is_not_explained(url: str) -> None:
    with pytest.raises(BadRule):
        explain(EXPLAINED, url, "GET")


def test_explain_when_all_is_off_or_open() -> None:
    assert explain(OFF, "tcp://example.com:22", "GET").reason == "network access is off in the agent phase"
    assert explain(OFF, "https://example.com/", "GET").rule == "example.com"
    assert explain(OFF, "tcp://example.com:22", "GET").rule == "tcp://example.com:22"
    for asked in (OFF, unrestricted()):
        assert explain(asked, "tcp://10.9.9.9:22", "").rule == "", "which only the administrator could open"
    assert explain(replace(OFF, ceiling=(parse_rule("deny example.com"),)), "https://example.com/", "GET").rule == ""
    assert explain(unrestricted(), "https://anything.test:99/", "BREW").rule == "unrestricted"
    assert explain(unrestricted(), "tcp://anything.test:22", "").rule == "tcp://anything.test:22"
    assert explain(unrestricted("deny anything.test methods=GET"), "tcp://anything.test:22", "").rule == ""


@given(st.text(max_size=40) | st.text("htps:/.example0123@[]%?#\\ ", max_size=30), st.text(max_size=5))
def test_explain_answers_whatever_is_asked(url: str, method: str) -> None:
    for text in (url, f"https://{url}", f"tcp://{url}", f"https://example.com/{url}"):
        with suppress(BadRule):
            assert explain(EXPLAINED, text, method).allowed in (True, False)


def requested(asked: Policy, request: dict[str, Any]) -> Decision:
    return decide_request(asked, **request)


def with_rule(asked: Policy, text: str) -> Policy:
    """With a rule as the user gives it: where access was off it is limited then."""
    access = "limited" if asked.access == "off" and not text.startswith("deny ") else asked.access
    return replace(asked, access=access, rules=(*asked.rules, parse_rule(text)))


@given(policies(), rules(deny=True), requests())
def test_another_deny_never_allows_more(value: dict[str, Any], deny: str, request: dict[str, Any]) -> None:
    asked = parse(value)
    host, port, tls = request["host"], request["port"], request["tls"]
    for narrower in (with_rule(asked, deny), replace(asked, ceiling=(*asked.ceiling, parse_rule(deny)))):
        for decide in (
            lambda policy: requested(policy, request).allowed,
            lambda policy: decide_connection(policy, host, port, tls=tls).allowed,
            lambda policy: decide_name(policy, host).allowed,
            lambda policy: (relays(policy, host, port) or Decision(False, "", "")).allowed,
            lambda policy: way(policy, host, port, tls=tls) == "splice",
        ):
            assert decide(asked) or not decide(narrower)


@given(policies(), st.sampled_from(HOSTS), requests())
def test_a_denied_host_is_denied_whatever_else_is_allowed(
    value: dict[str, Any], host: str, request: dict[str, Any]
) -> None:
    asked = with_rule(parse(value), f"deny {host}")
    for name in (host, f"sub.{host}"):
        assert not decide_name(asked, name).allowed
        assert not decide_connection(asked, name, request["port"], tls=request["tls"]).allowed
        assert not requested(asked, request | {"host": name}).allowed
        assert not (relays(asked, name, request["port"]) or Decision(False, "", "")).allowed
        assert decide_name(asked, name).rule == ""


@given(policies(), requests())
def test_the_rule_that_a_refusal_names_would_allow(value: dict[str, Any], request: dict[str, Any]) -> None:
    asked = parse(value)
    host, port, tls = request["host"], request["port"], request["tls"]
    decision = decide_connection(asked, host, port, tls=tls)
    if decision.allowed:
        decision = requested(asked, request)
        assert decision.allowed or not decision.rule or requested(with_rule(asked, decision.rule), request).allowed
    elif decision.rule:
        assert decide_connection(with_rule(asked, decision.rule), host, port, tls=tls).allowed
    named = decide_name(asked, host)
    assert named.allowed or not named.rule or decide_name(with_rule(asked, named.rule), host).allowed
    url = f"{'https' if tls else 'http'}://{host}:{port}{request['target']}"
    told = explain(asked, url, request["method"])
    assert told.allowed or not told.rule or explain(with_rule(asked, told.rule), url, request["method"]).allowed


@given(policies(), requests())
def test_the_decisions_agree(value: dict[str, Any], request: dict[str, Any]) -> None:
    """A request needs its connection and a connection its name; what is spliced is all allowed."""
    asked = parse(value)
    host, port, tls = request["host"], request["port"], request["tls"]
    connection = decide_connection(asked, host, port, tls=tls)
    for decision in (requested(asked, request), connection, decide_name(asked, host)):
        assert decision.allowed is not bool(decision.reason)
        assert decision.rule or not decision.allowed
    assert connection.allowed or not requested(asked, request).allowed
    assert decide_name(asked, host).allowed or not connection.allowed
    spliced = connection.allowed and way(asked, host, port, tls=tls) == "splice"
    assert not spliced or request["target"].startswith("?") or requested(asked, request).allowed


@given(policies(), requests())
def test_a_methods_list_holds(value: dict[str, Any], request: dict[str, Any]) -> None:
    """Where no rule has methods or git of its own, only the policy's pass, and with none of the tricks."""
    value["rules"] = [text for text in value["rules"] if "=" not in text.removeprefix("deny ").removeprefix("=")]
    asked = parse(value | {"methods": READ})
    if requested(asked, request).allowed:
        assert request["method"] in READ
        assert not {name.lower() for name, _ in request["fields"]} & {"upgrade", "x-http-method-override"}
        assert ("content-length", "3") not in request["fields"]


def test_many_rules_are_found_by_name() -> None:
    """Ten thousand rules decide as one does: by look-ups of the labels, not by a walk over the rules."""
    texts = [f"host{number}.example{number % 100}.com" for number in range(9_998)]
    asked = limited(*texts, "=last.org", "deny secret.host7.example7.com")
    walked = 0
    for name in ("host5000.example0.com", "a.b.host9997.example97.com", "last.org", "none.org", ".".join(["a"] * 126)):
        walked += len(list(asked.allows(name))) + len(list(asked.denies(name)))
    assert walked == 3
    assert decide_name(asked, "x.host9997.example97.com").rule == "host9997.example97.com"
    assert not decide_name(asked, "secret.host7.example7.com").allowed
