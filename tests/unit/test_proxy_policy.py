"""Truth tables of policies: what they are read from, which names and connections they permit, by which way. Without I/O."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network
from typing import Any

import pytest

from proxy.policy import BadPolicy, Decision, Policy, decide_connection, decide_name, parse, relays, way
from proxy.presets import PRESETS
from tests.support.policies import CREDENTIAL, OFF, limited, unrestricted


def test_a_policy_reads_what_the_daemon_tells() -> None:
    value = {
        "phase": "agent", "access": "limited", "preset": "package-managers", "registries": ["mirror.test:8443", "10.0.0.7"],
        "rules": ["Example.COM.", "deny x.example.com", "deny 10.0.0.0/8"], "methods": ["get", "HEAD"],
        "ceiling": ["evil.org", "192.0.2.0/24"], "credentials": [CREDENTIAL],
    }  # fmt: skip
    parsed = parse(value)
    assert [rule.text for rule in parsed.rules] == ["example.com", "deny x.example.com", "deny 10.0.0.0/8"]
    assert [rule.text for rule in parsed.ceiling] == ["deny evil.org", "deny 192.0.2.0/24"]
    assert (parsed.phase, parsed.access, parsed.preset) == ("agent", "limited", "package-managers")
    assert parsed.methods == {"GET", "HEAD"}
    assert parsed.credentials[0].covers("api.example.com")
    assert parsed.denied_networks == (IPv4Network("192.0.2.0/24"), IPv4Network("10.0.0.0/8"))
    assert {"mirror.test", "10.0.0.7", "crates.io"} <= parsed.artifact_hosts
    assert "z9y8x7w6v5u4t3" not in repr(parsed)
    assert parse(value) == parsed
    assert parse({"phase": "agent", "access": "off"}) == Policy("agent", "off")
    assert replace(parsed, access="off").artifact_hosts == parsed.artifact_hosts


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"access": "open"}, "off, limited or unrestricted, not 'open'"),
        ({"access": None}, "off, limited or unrestricted"),
        ({"access": []}, "off, limited or unrestricted"),
        ({"phase": ""}, "phase"),
        ({"phase": None}, "phase"),
        ({"allow": []}, "no 'allow'"),
        ({1: 2}, "no '1'"),
        ({"preset": "all"}, "none, common-dependencies, package-managers"),
        ({"preset": []}, "preset"),
        ({"rules": "example.com"}, "rules is a list"),
        ({"rules": None}, "rules is a list"),
        ({"rules": [1]}, "rules is a list"),
        ({"rules": ["example.com"] * 10_001}, "10,000"),
        ({"rules": ["example.com", "exa mple.com"]}, "'exa mple.com'"),
        ({"ceiling": ["deny example.com"]}, "leave the word out"),
        ({"ceiling": ["example.com mode=splice"]}, "no mode="),
        ({"registries": ["=example.com"]}, "one host like"),
        ({"registries": ["https://example.com/"]}, "one host like"),
        ({"registries": ["*.example.com"]}, "one host like"),
        ({"registries": ["10.0.0.0/8"]}, "one host like"),
        ({"registries": ["example.com methods=GET"]}, "without options"),
        ({"methods": []}, "GET"),
        ({"methods": "GET"}, "GET, HEAD, OPTIONS"),
        ({"methods": ["GET", 1]}, "GET, HEAD, OPTIONS"),
        ({"methods": ["G T"]}, "GET,HEAD"),
        ({"methods": ["GET"], "rules": ["x.org mode=splice"]}, "tcp://x.org:443"),
        ({"credentials": {}}, "credentials is a list"),
        ({"credentials": [CREDENTIAL | {"for": ["a b"]}]}, "'a b'"),
    ],
)
def test_a_policy_that_cannot_be_enforced_is_refused(change: dict[Any, Any], words: str) -> None:
    with pytest.raises(BadPolicy, match=words):
        parse({"phase": "agent", "access": "limited"} | change)


@pytest.mark.parametrize("value", [None, [], "x", 1, {}])
def test_a_policy_is_an_object(value: Any) -> None:
    with pytest.raises(BadPolicy):
        parse(value)


BASIC = limited("example.com", "=exact.org", "*.below.org", "https://url.org/x/", "tcp://db.org:5432", "10.1.2.3")


@pytest.mark.parametrize(
    ("asked", "name", "rule"),
    [
        (BASIC, "example.com", "example.com"), (BASIC, "a.example.com", "example.com"),
        (BASIC, "exact.org", "=exact.org"), (BASIC, "a.below.org", "*.below.org"),
        (BASIC, "url.org", "https://url.org/x/"), (BASIC, "db.org", "tcp://db.org:5432"),
        (BASIC, "10.1.2.3", "10.1.2.3"), (limited("example.com", "deny https://example.com/"), "example.com", "example.com"),
        (limited("example.com", "deny example.com:443"), "example.com", "example.com"),
        (limited("example.com", "deny example.com methods=GET"), "example.com", "example.com"),
        (limited(preset="common-dependencies"), "api.github.com", "preset common-dependencies"),
        (limited(preset="package-managers"), "crates.io", "preset package-managers"),
        (unrestricted(), "anything.test", "unrestricted"), (unrestricted("example.com mode=inspect"), "x.example.com",
                                                     "example.com mode=inspect"),
    ],
)  # fmt: skip
def test_names_that_may_be_reached(asked: Policy, name: str, rule: str) -> None:
    assert decide_name(asked, name) == Decision(True, rule, "")


@pytest.mark.parametrize(
    ("asked", "name", "rule"),
    [
        (OFF, "example.com", "example.com"), (BASIC, "a.exact.org", "a.exact.org"), (BASIC, "below.org", "below.org"),
        (BASIC, "evil-example.com", "evil-example.com"), (BASIC, "example.com.evil.org", "example.com.evil.org"),
        (BASIC, "com", "com"), (BASIC, "a.url.org", "a.url.org"), (BASIC, "10.1.2.4", "10.1.2.4"),
        (limited("example.com", "deny example.com"), "a.example.com", ""),
        (limited("a.example.com", "deny *.example.com"), "a.example.com", ""),
        (limited("example.com", ceiling=["example.com"]), "example.com", ""),
        (limited(preset="common-dependencies", ceiling=["github.com"]), "api.github.com", ""),
        (unrestricted("deny example.com"), "example.com", ""), (unrestricted(ceiling=["=example.com"]), "example.com", ""),
        (unrestricted(), "10.1.2.3", "10.1.2.3"), (limited(preset="package-managers"), "a.crates.io", "a.crates.io"),
        (limited(preset="package-managers"), "github.com", "github.com"),
        (limited(registries=["mirror.test"]), "mirror.test", "mirror.test"),
    ],
)  # fmt: skip
def test_names_that_may_not_be_reached(asked: Policy, name: str, rule: str) -> None:
    decision = decide_name(asked, name)
    assert (decision.allowed, decision.rule, bool(decision.reason)) == (False, rule, True)


@pytest.mark.parametrize(
    ("asked", "host", "port", "tls", "allowed", "rule"),
    [
        (BASIC, "example.com", 443, True, True, "example.com"),
        (BASIC, "example.com", 80, False, True, "example.com"),
        (BASIC, "example.com", 443, False, True, "example.com"),
        (BASIC, "example.com", 8443, True, False, "example.com:8443"),
        (BASIC, "example.com", 22, False, False, "example.com:22"),
        (BASIC, "url.org", 443, True, True, "https://url.org/x/"),
        (BASIC, "url.org", 443, False, False, "url.org"),
        (BASIC, "url.org", 80, False, False, "url.org"),
        (BASIC, "10.1.2.3", 80, False, True, "10.1.2.3"),
        (BASIC, "10.1.2.3", 81, False, False, "10.1.2.3:81"),
        (BASIC, "db.org", 5432, True, False, "db.org:5432"),  # by relays only
        (limited("example.com:8443"), "example.com", 8443, True, True, "example.com:8443"),
        (limited("example.com:8443"), "example.com", 443, True, False, "example.com"),
        (limited("http://example.com/"), "example.com", 80, False, True, "http://example.com/"),
        (limited("http://example.com/"), "example.com", 80, True, False, "example.com"),
        (limited("example.com", "deny example.com:443"), "example.com", 443, True, False, ""),
        (limited("example.com", "deny example.com:443"), "example.com", 80, False, True, "example.com"),
        (limited("example.com", "deny https://example.com/"), "example.com", 443, True, False, ""),
        (limited("example.com", "deny https://example.com/"), "example.com", 443, False, True, "example.com"),
        (limited("example.com", "deny https://example.com/a"), "example.com", 443, True, True, "example.com"),
        (limited("example.com", "deny example.com methods=POST"), "example.com", 443, True, True, "example.com"),
        (limited("example.com", "deny tcp://example.com:443"), "example.com", 443, True, False, ""),
        (limited("10.0.0.0/8", "deny 10.1.0.0/16"), "10.2.2.3", 443, True, True, "10.0.0.0/8"),
        (limited("10.0.0.0/8", "deny 10.1.0.0/16"), "10.1.2.3", 443, True, False, ""),
        (limited("10.0.0.0/8", "10.1.2.3"), "10.1.2.3", 443, True, True, "10.1.2.3"),
        (limited("10.0.0.0/8", ceiling=["10.1.2.3"]), "10.1.2.3", 443, True, False, ""),
        (limited("example.com", "=a.example.com"), "a.example.com", 443, True, True, "=a.example.com"),
        (limited("example.com", ceiling=["example.com:443"]), "example.com", 443, True, False, ""),
        (limited(preset="common-dependencies", registries=["mirror.test:8443"]), "mirror.test", 8443, True, True,
         "preset common-dependencies"),
        (limited(preset="common-dependencies", registries=["mirror.test:8443"]), "mirror.test", 443, True, False,
         "mirror.test"),
        (limited(preset="package-managers", registries=["mirror.test"]), "mirror.test", 80, False, True,
         "preset package-managers"),
        (limited(preset="package-managers", registries=["mirror.test"]), "a.mirror.test", 80, False, False,
         "a.mirror.test"),
        (limited(preset="package-managers", registries=["10.0.0.7:81"]), "10.0.0.7", 81, False, True,
         "preset package-managers"),
        (limited(preset="common-dependencies"), "github.com", 22, False, False, "github.com:22"),
        (unrestricted(), "example.com", 12_345, True, True, "unrestricted"),
        (unrestricted(), "10.1.2.3", 443, True, False, ""), (unrestricted(), "8.8.8.8", 443, True, False, "8.8.8.8"),
        (unrestricted("10.1.2.3:8080"), "10.1.2.3", 8080, False, True, "10.1.2.3:8080"),
        (unrestricted(preset="none", registries=["10.0.0.7"]), "10.0.0.7", 80, False, False, ""),
        (OFF, "example.com", 443, True, False, "example.com"), (OFF, "10.1.2.3", 443, True, False, ""),
    ],
)  # fmt: skip
def test_connections(asked: Policy, host: str, port: int, tls: bool, allowed: bool, rule: str) -> None:
    decision = decide_connection(asked, host, port, tls=tls)
    assert (decision.allowed, decision.rule, bool(decision.reason)) == (allowed, rule, not allowed)


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        (OFF, "network access is off in the agent phase"),
        (limited(), "example.com is not among what the agent phase may reach"),
        (limited("http://example.com/"), "port 443 of example.com is not among what the agent phase may reach"),
        (limited("example.com", "deny example.com:443"), "example.com is denied by the rule 'deny example.com:443'"),
        (unrestricted(ceiling=["example.com"]), "example.com is denied to everybody by the administrator of this host"),
        (limited("example.com", "deny example.com", ceiling=["example.com"]),
         "example.com is denied to everybody by the administrator of this host"),
    ],
)  # fmt: skip
def test_reasons_are_for_people(asked: Policy, reason: str) -> None:
    assert decide_connection(asked, "example.com", 443, tls=True).reason == reason


def test_reasons_name_ports_and_addresses() -> None:
    assert decide_connection(BASIC, "example.com", 25, tls=True).reason.startswith("port 25 of example.com is not")
    assert "an address that no rule" in decide_connection(unrestricted(), "8.8.8.8", 443, tls=True).reason
    for address in ("10.1.2.3", "169.254.169.254", "127.0.0.1", "100.64.0.1"):
        told = decide_connection(unrestricted(), address, 80, tls=False)
        assert (told.rule, "only the administrator" in told.reason) == ("", True), "no rule would help"


@pytest.mark.parametrize(
    ("asked", "host", "port", "rule"),
    [
        (limited("tcp://db.org:5432"), "db.org", 5432, "tcp://db.org:5432"),
        (unrestricted("tcp://db.org:5432"), "db.org", 5432, "tcp://db.org:5432"),
        (limited("tcp://*.db.org:22"), "a.db.org", 22, "tcp://*.db.org:22"),
        (limited("tcp://10.1.2.3:22"), "10.1.2.3", 22, "tcp://10.1.2.3:22"),
        (limited("tcp://db.org:22", methods=["GET"]), "db.org", 22, "tcp://db.org:22"),
        (limited("tcp://db.org:22", "deny db.org:23"), "db.org", 22, "tcp://db.org:22"),
        (limited("tcp://db.org:22", "deny https://db.org/admin/"), "db.org", 22, "tcp://db.org:22"),
        (limited("tcp://db.org:5432"), "db.org", 5433, None), (limited("tcp://db.org:5432"), "a.db.org", 5432, None),
        (limited("tcp://*.db.org:22"), "db.org", 22, None), (limited("db.org:22"), "db.org", 22, None),
        (unrestricted(), "db.org", 22, None), (limited(preset="common-dependencies"), "github.com", 22, None),
        (OFF, "example.com", 22, None), (limited("deny tcp://db.org:22"), "db.org", 22, None),
    ],
)  # fmt: skip
def test_any_protocol_passes_only_by_a_rule_for_it(asked: Policy, host: str, port: int, rule: str | None) -> None:
    assert relays(asked, host, port) == (None if rule is None else Decision(True, rule, ""))


@pytest.mark.parametrize(
    "deny",
    ["db.org", "=db.org", "org", "db.org:22", "tcp://db.org:22", "https://db.org:22/", "db.org methods=POST",
     "https://db.org:22/admin/", "http://db.org:22/"],
)  # fmt: skip
def test_a_deny_wins_over_a_relay(deny: str) -> None:
    for asked in (limited("tcp://db.org:22", f"deny {deny}"), unrestricted("tcp://db.org:22", ceiling=[deny])):
        decision = relays(asked, "db.org", 22)
        assert decision is not None
        assert (decision.allowed, decision.rule, bool(decision.reason)) == (False, "", True)


@pytest.mark.parametrize(
    ("asked", "host", "port", "how"),
    [
        (unrestricted(), "example.com", 443, "splice"), (unrestricted(), "example.com", 8443, "splice"),
        (unrestricted("deny example.com"), "example.org", 443, "splice"), (unrestricted(), "crates.io", 443, "inspect"),
        (unrestricted(registries=["mirror.test:8443"]), "mirror.test", 8443, "inspect"),
        (unrestricted(preset="common-dependencies"), "github.com", 443, "splice"),
        (unrestricted(methods=["GET"]), "example.com", 443, "inspect"),
        (unrestricted("example.com methods=GET"), "a.example.com", 443, "inspect"),
        (unrestricted("example.com methods=GET"), "example.org", 443, "splice"),
        (unrestricted("example.com git=read"), "example.com", 443, "inspect"),
        (unrestricted("https://example.com/a"), "example.com", 443, "inspect"),
        (unrestricted("https://example.com/a"), "example.com", 8443, "splice"),
        (unrestricted("https://example.com/a"), "a.example.com", 443, "splice"),
        (unrestricted("http://example.com/a"), "example.com", 443, "splice"),
        (unrestricted("example.com mode=inspect"), "example.com", 443, "inspect"),
        (unrestricted("deny https://example.com/a"), "example.com", 443, "inspect"),
        (unrestricted("deny example.com methods=POST"), "a.example.com", 8443, "inspect"),
        (unrestricted(ceiling=["example.com methods=POST"]), "example.com", 443, "inspect"),
        (unrestricted(credentials=[CREDENTIAL]), "api.example.com", 443, "inspect"),
        (unrestricted(credentials=[CREDENTIAL]), "example.com", 443, "splice"),
        (unrestricted("crates.io mode=splice"), "crates.io", 443, "splice"),
        (limited("example.com"), "example.com", 443, "inspect"),
        (limited("example.com mode=splice"), "a.example.com", 443, "splice"),
        (limited("example.com mode=splice"), "example.com", 8443, "inspect"),
        (limited("example.com mode=splice", "a.example.com mode=inspect"), "a.example.com", 443, "inspect"),
        (limited("example.com mode=inspect", "a.example.com mode=splice"), "a.example.com", 443, "splice"),
        (limited("example.com mode=inspect", "=example.com mode=splice"), "example.com", 443, "splice"),
        (limited("example.com mode=splice", "example.com mode=inspect"), "example.com", 443, "inspect"),
        (limited("example.com mode=splice", "deny https://example.com/a"), "example.com", 443, "inspect"),
        (limited("api.example.com mode=splice", credentials=[CREDENTIAL]), "api.example.com", 443, "inspect"),
        (limited("github.com mode=splice", preset="common-dependencies"), "api.github.com", 443, "splice"),
    ],
)  # fmt: skip
def test_the_way_of_tls_is_what_the_rules_need(asked: Policy, host: str, port: int, how: str) -> None:
    assert way(asked, host, port, tls=True) == how
    assert way(asked, host, port, tls=False) == "inspect"


def test_who_may_not_trust_us_is_opened_only_where_that_is_needed() -> None:
    def seen(asked: Policy, host: str) -> bool:
        return way(asked, host, 443, tls=True, cacheable=False) == "inspect"

    assert way(unrestricted(), "crates.io", 443, tls=True) == "inspect"
    assert not seen(unrestricted(), "crates.io")
    assert seen(unrestricted(methods=["GET"]), "crates.io")
    assert seen(unrestricted("crates.io mode=inspect"), "crates.io")
    assert seen(limited("crates.io"), "crates.io")


def test_presets_are_the_lists_that_they_say() -> None:
    assert set(PRESETS) == {"none", "common-dependencies", "package-managers"}
    assert PRESETS["none"] == ()
    assert {rule.match for rule in PRESETS["common-dependencies"]} == {"domain"}
    assert {rule.match for rule in PRESETS["package-managers"]} == {"exact"}
    for name in ("common-dependencies", "package-managers"):
        texts = [rule.text for rule in PRESETS[name]]
        assert len(texts) == len(set(texts)) > 50
        assert not any(rule.partial or rule.mode or rule.deny for rule in PRESETS[name])


@pytest.mark.parametrize("preset", ["common-dependencies", "package-managers"])
def test_registries_belong_to_every_preset_but_none(preset: str) -> None:
    registries = ["mirror.test", "other.test:8443"]
    assert decide_connection(limited(preset=preset, registries=registries), "mirror.test", 443, tls=True).allowed
    assert decide_connection(limited(preset=preset, registries=registries), "other.test", 8443, tls=True).allowed
    assert not decide_name(limited(registries=registries), "mirror.test").allowed
