"""What the API takes and refuses: one table of requests, one sentence for each that is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from sandbox.api.requests import ExecRequest, TaskRequest
from sandbox.core.model import TaskSpec
from sandbox.core.network import DEFAULTS, UNRESTRICTED, NetworkSpec
from sandbox.host.cgroup_layout import Limits

DEFAULT = Limits(1 << 30, 2.0, 100)


def test_the_least_that_makes_a_task() -> None:
    assert TaskRequest(command=["true"]).to_spec(DEFAULT) == TaskSpec(command=("true",))


def test_limits_that_are_not_given_are_the_defaults() -> None:
    spec = TaskRequest.model_validate({"command": ["true"], "limits": {"pids": 20}}).to_spec(DEFAULT)
    assert spec.limits == Limits(1 << 30, 2.0, 20)


def networks(**network: Any) -> Mapping[str, NetworkSpec]:
    return TaskRequest.model_validate({"command": ["true"], "network": network}).to_spec(DEFAULT).network


def test_rules_are_canonical() -> None:
    agent = networks(agent={"rules": ["Example.COM.", "bücher.example", "example.com"], "methods": ["get", "GET"]})[
        "agent"
    ]
    assert agent == NetworkSpec("limited", rules=("example.com", "xn--bcher-kva.example"), methods=("GET",))


def test_maintenance_has_the_network_of_setup_unless_it_has_its_own() -> None:
    assert networks() == DEFAULTS
    limited = networks(setup={"preset": "common-dependencies"})
    assert limited == {
        **DEFAULTS,
        **dict.fromkeys(("setup", "maintenance"), NetworkSpec("limited", "common-dependencies")),
    }
    assert networks(setup={"access": "off"}, maintenance={})["maintenance"] == UNRESTRICTED


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({}, "Field required"),
        ({"command": []}, "at least 1 item"),
        ({"command": ["a\0b"]}, "null byte"),
        ({"command": ["x"], "access": "limited"}, "Extra inputs"),
        ({"command": ["x"], "network": {"checkout": {}}}, "Extra inputs"),
        ({"command": ["x"], "network": {"agent": {"access": "open"}}}, "'off', 'limited' or 'unrestricted'"),
        (
            {"command": ["x"], "network": {"agent": {"access": "off", "rules": ["example.com"]}}},
            "agent: with access off",
        ),
        ({"command": ["x"], "network": {"agent": {"rules": ["deny example.com"]}}}, "agent: with access off"),
        ({"command": ["x"], "network": {"setup": {"rules": ["exa mple.com"]}}}, "setup: rule 'exa mple.com'"),
        ({"command": ["x"], "network": {"agent": {"rules": ["a"] * 1001}}}, "at most 1000 items"),
        ({"command": ["x"], "network": {"agent": {"preset": "all"}}}, "preset is one of none"),
        ({"command": ["x"], "network": {"agent": {"methods": []}}}, "at least 1 item"),
        ({"command": ["x"], "network": {"agent": {"methods": ["CONNECT"]}}}, "CONNECT is no method"),
        ({"command": ["x"], "env": {"A=B": "c"}}, "no name of a variable"),
        ({"command": ["x"], "env": {"A": "\0"}}, "null byte"),
        ({"command": ["x"], "env": {"A": "x" * 300_000}}, "longer than"),
        ({"command": ["x"], "setup": "a\0"}, "null byte"),
        ({"command": ["x"], "timeout": 0}, "greater than 0"),
        ({"command": ["x"], "limits": {"memory": 1}}, "greater than or equal"),
        ({"command": ["x"], "env": {"A": "b"}, "secrets": ["A"]}, "A is given twice"),
        ({"command": ["x"], "secrets": ["A"] * 65}, "at most 64"),
        ({"command": ["x"], "unknown": 1}, "Extra inputs"),
        ({"command": ["x" * 200_000]}, "at most"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(request_: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TaskRequest.model_validate(request_)
    assert reason in str(caught.value)


def test_an_exec_needs_a_command_or_a_shell() -> None:
    with pytest.raises(ValidationError, match="for a shell"):
        ExecRequest.model_validate({"command": []})
    assert ExecRequest.model_validate({"login": True, "tty": True, "cols": 100}).to_spec().columns == 100
