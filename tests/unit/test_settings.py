"""Settings that lie over each other: what wins, what is added, and where each value came from."""

from __future__ import annotations

from typing import Any

import pytest

from sandbox.core.environments import remote_key
from sandbox.core.settings import Effective, Layer, merge


def merged(*layers: dict[str, Any]) -> Effective:
    return merge([Layer(name, values) for name, values in zip(("low", "middle", "high"), layers, strict=False)])


def test_the_highest_wins_and_nothing_is_nothing() -> None:
    found = merged({"image": "a", "setup": "make"}, {"image": "b", "setup": None}, {})
    assert found == Effective({"image": "b", "setup": "make"}, {"image": "middle", "setup": "low"})


def test_no_setup_is_something() -> None:
    assert merged({"setup": "make"}, {"setup": ""}).values == {"setup": ""}


def test_entries_are_taken_one_by_one() -> None:
    found = merged({"env": {"A": "1", "B": "1"}, "limits": {"cpus": 1.0}}, {"env": {"B": "2"}, "limits": {"pids": 9}})
    assert found.values == {"env": {"A": "1", "B": "2"}, "limits": {"cpus": 1.0, "pids": 9}}
    assert found.sources == {"env.A": "low", "env.B": "middle", "limits.cpus": "low", "limits.pids": "middle"}


def test_secrets_and_rules_are_added() -> None:
    found = merged(
        {"secrets": ["A"], "network": {"agent": {"rules": ["a.example"]}}},
        {"secrets": ["B", "A"], "network": {"agent": {"rules": ["deny b.example"], "methods": ["GET"]}}},
    )
    assert found.values["secrets"] == ["A", "B"]
    assert found.values["network"] == {"agent": {"rules": ["a.example", "deny b.example"], "methods": ["GET"]}}
    assert found.sources["network.agent.rules"] == "low + middle"


@pytest.mark.parametrize(
    ("below", "above", "result"),
    [
        ({"access": "off"}, {"rules": ["a.example"]}, {"rules": ["a.example"]}),
        ({"rules": ["a.example"], "preset": "none"}, {"access": "off"}, {"access": "off"}),
        (
            {"access": "limited", "preset": "common-dependencies", "rules": ["deny b.example"]},
            {"access": "unrestricted"},
            {"access": "unrestricted", "rules": ["deny b.example"]},
        ),
        ({"access": "unrestricted"}, {"rules": ["deny b.example"]}, {"access": "unrestricted", "rules": ["deny b.example"]}),
        ({"methods": ["GET"]}, {"methods": None}, {"methods": None}),
        ({"access": "limited"}, {"access": "off"}, {"access": "off"}),
    ],
)  # fmt: skip
def test_access_and_what_it_gives_way_to(below: dict[str, Any], above: dict[str, Any], result: dict[str, Any]) -> None:
    found = merged({"network": {"agent": below}}, {"network": {"agent": above}})
    assert found.values["network"]["agent"] == result
    assert set(found.sources) == {f"network.agent.{name}" for name in result}


def test_the_layers_stay_as_they_are() -> None:
    low: dict[str, Any] = {"network": {"agent": {"rules": ["a.example"]}}, "secrets": ["A"], "env": {"A": "1"}}
    merged(low, {"network": {"agent": {"rules": ["b.example"], "access": "off"}}, "secrets": ["B"], "env": {"A": "2"}})
    assert low == {"network": {"agent": {"rules": ["a.example"]}}, "secrets": ["A"], "env": {"A": "1"}}


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("https://git.example/team/web.git", "git.example/team/web"),
        ("https://user:token@Git.Example:443/team/web/", "git.example/team/web"),
        ("git@git.example:team/web.git", "git.example/team/web"),
        ("ssh://git@git.example:22/team/web", "git.example/team/web"),
        ("https://git.example:8443/team/web", "git.example:8443/team/web"),
        ("/srv/web/", "/srv/web"),
        ("file:///srv/web/.git", "/srv/web"),
        ("", None),
        (None, None),
    ],
)
def test_all_spellings_of_a_repository_are_one(url: str | None, key: str | None) -> None:
    assert remote_key(url) == key
