"""Settings of phases, and what changing them makes of them: tables, no filter."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.policy import parse
from sandbox.core import network
from sandbox.core.network import OFF, UNRESTRICTED, NetworkSpec, with_options, with_rules

LIMITED = NetworkSpec("limited", rules=("example.com",))


@pytest.mark.parametrize(
    ("phase", "given", "spec"),
    [
        ("agent", {}, OFF),
        ("setup", {}, UNRESTRICTED),
        ("agent", {"rules": ["example.com"]}, LIMITED),
        ("agent", {"preset": "common-dependencies"}, NetworkSpec("limited", "common-dependencies")),
        ("agent", {"methods": ["GET"]}, NetworkSpec("limited", methods=("GET",))),
        ("agent", {"preset": "none"}, OFF),
        ("agent", {"access": "unrestricted", "rules": ["deny a"]}, NetworkSpec("unrestricted", rules=("deny a",))),
        ("setup", {"rules": ["example.com"]}, LIMITED),
        ("setup", {"rules": ["deny a"]}, NetworkSpec("unrestricted", rules=("deny a",))),
        ("setup", {"methods": ["GET"]}, NetworkSpec("unrestricted", methods=("GET",))),
        ("maintenance", {"access": "off"}, OFF),
    ],
)
def test_access_follows_from_what_is_allowed_where_it_is_not_said(
    phase: str, given: dict[str, Any], spec: NetworkSpec
) -> None:
    assert network.make(phase, given) == spec


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"access": "off", "rules": ["example.com"]}, "with access off there is nothing"),
        ({"access": "off", "methods": ["GET"]}, "with access off there is nothing"),
        ({"access": "unrestricted", "preset": "package-managers"}, "includes the preset"),
        ({"rules": ["nonsense rule"]}, "rule 'nonsense rule'"),
        ({"preset": "everything"}, "preset is one of"),
        ({"rules": ["example.com mode=splice"], "methods": ["GET"]}, "can't be seen in what is spliced"),
        ({"rules": [f"a{number}.example" for number in range(1001)]}, "more than the 1000"),
    ],
)
def test_what_means_nothing_is_refused(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        network.make("agent", given)


def test_rules_are_added_once_and_in_one_spelling() -> None:
    edited = with_rules(LIMITED, ["EXAMPLE.com", "b.example", "b.example", "deny c.example"])
    assert edited.spec.rules == ("example.com", "b.example", "deny c.example")
    assert edited.notices == ()


def test_the_same_words_take_back_what_they_said_before() -> None:
    denied = with_rules(LIMITED, ["deny example.com"])
    assert denied.spec.rules == ("deny example.com",)
    assert denied.notices == ("took back: allow example.com",)
    allowed = with_rules(denied.spec, ["example.com"])
    assert allowed.spec == LIMITED
    assert allowed.notices == ("took back: deny example.com",)


def test_a_rule_that_another_makes_void_is_told() -> None:
    denied = NetworkSpec("limited", rules=("deny example.com",))
    assert with_rules(denied, ["www.example.com", "*.other.example", "10.0.0.0/8"]).notices == (
        "www.example.com has no effect: www.example.com is denied by the rule 'deny example.com'",
    )


def test_to_allow_something_where_nothing_was_is_to_limit() -> None:
    edited = with_rules(OFF, ["example.com"])
    assert edited.spec == LIMITED
    assert edited.notices == ("access was off and is limited now: what no rule allows stays out of reach",)
    with pytest.raises(ValueError, match="nothing to deny"):
        with_rules(OFF, ["deny example.com"])


FULL = NetworkSpec("limited", "common-dependencies", ("example.com",), ("GET",))


@pytest.mark.parametrize(
    ("before", "given", "after"),
    [
        (FULL, {"access": "off"}, OFF),
        (FULL, {"access": "unrestricted"}, NetworkSpec("unrestricted", "none", ("example.com",), ("GET",))),
        (FULL, {"methods": None}, NetworkSpec("limited", "common-dependencies", ("example.com",))),
        (FULL, {"methods": ["post"]}, NetworkSpec("limited", "common-dependencies", ("example.com",), ("POST",))),
        (FULL, {"preset": "none", "rules": []}, NetworkSpec("limited", methods=("GET",))),
        (FULL, {"rules": ["deny a"]}, NetworkSpec("limited", "common-dependencies", ("deny a",), ("GET",))),
        (OFF, {"preset": "package-managers"}, NetworkSpec("limited", "package-managers")),
        (OFF, {"access": "limited"}, NetworkSpec("limited")),
        (UNRESTRICTED, {"access": "limited", "rules": ["a"]}, NetworkSpec("limited", rules=("a",))),
    ],
)
def test_what_is_not_set_stays(before: NetworkSpec, given: dict[str, Any], after: NetworkSpec) -> None:
    assert with_options(before, given).spec == after


def test_what_a_setting_takes_away_is_named() -> None:
    assert with_options(FULL, {"rules": ["b.example"]}).notices == ("no longer: allow example.com",)
    assert with_options(FULL, {"rules": ["example.com", "b.example"]}).notices == ()
    with pytest.raises(ValueError, match="nothing to deny"):
        with_options(OFF, {"rules": ["deny a.example"]})


def test_setting_what_contradicts_itself_is_refused() -> None:
    for given in ({"access": "off", "rules": ["a"]}, {"access": "unrestricted", "preset": "package-managers"}):
        with pytest.raises(ValueError, match="access"):
            with_options(FULL, given)


def test_a_setting_survives_json() -> None:
    for spec in (FULL, OFF, UNRESTRICTED):
        value: dict[str, Any] = {"access": spec.access, "preset": spec.preset, "rules": list(spec.rules)}
        value["methods"] = list(spec.methods) if spec.methods is not None else None
        assert NetworkSpec.from_json(value) == spec


def test_the_filter_understands_every_policy() -> None:
    made = network.policy("agent", FULL, ["evil.example"], ["index.example", "files.example:8443"])
    policy = parse(made)
    assert (policy.phase, policy.access, policy.preset) == ("agent", "limited", "common-dependencies")
    assert [rule.text for rule in policy.ceiling] == ["deny evil.example"]
    assert policy.methods == frozenset(["GET"])
    assert len(policy.registries) == 2
    assert parse(network.policy("setup", UNRESTRICTED)).access == "unrestricted"


def test_with_access_off_no_credential_leaves_the_daemon() -> None:
    credential = {"name": "TOKEN", "value": "hunter2"}
    assert network.policy("agent", OFF, ["a"], ["b"], [credential]) == {"phase": "agent", "access": "off"}
    assert network.policy("agent", LIMITED, credentials=[credential])["credentials"] == [credential]


def test_a_setting_in_words() -> None:
    assert network.in_words(OFF) == "off"
    spec = NetworkSpec("limited", "package-managers", ("example.com", "deny a"), ("GET", "HEAD"))
    assert network.in_words(spec) == "limited; preset package-managers; allow example.com; deny a; methods GET, HEAD"
