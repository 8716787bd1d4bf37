"""What the API takes and refuses: one table of requests, one sentence for each that is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from sandbox.api.requests import ExecRequest, TaskRequest
from sandbox.api.resolving import task_spec
from sandbox.core.access import ROOT
from sandbox.core.environments import Environments
from sandbox.core.errors import BadRequest
from sandbox.core.model import TaskSpec
from sandbox.core.network import DEFAULTS, UNRESTRICTED, NetworkSpec
from sandbox.core.store import Store
from sandbox.host.cgroup_layout import Limits

DEFAULT = Limits(1 << 30, 2.0, 100)


@pytest.fixture(scope="module")
def environments(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environments]:
    store = Store(tmp_path_factory.mktemp("store") / "hutch.db")
    yield Environments(store)
    store.close()


@pytest.fixture
def spec_of(environments: Environments) -> Callable[[Mapping[str, Any]], TaskSpec]:
    """The task that a request makes."""
    return lambda request: task_spec(environments, ROOT, TaskRequest.model_validate(request), DEFAULT)


type SpecOf = Callable[[Mapping[str, Any]], TaskSpec]


def test_the_least_that_makes_a_task(spec_of: SpecOf) -> None:
    assert spec_of({"command": ["true"]}) == TaskSpec(command=("true",))


def test_no_script_is_automatic_and_an_empty_one_is_none(spec_of: SpecOf) -> None:
    assert spec_of({"command": ["true"]}).setup is None
    assert spec_of({"command": ["true"], "setup": ""}).setup == ""


def test_limits_that_are_not_given_are_the_defaults(spec_of: SpecOf) -> None:
    assert spec_of({"command": ["true"], "limits": {"pids": 20}}).limits == Limits(1 << 30, 2.0, 20)


def test_amounts_may_be_written_as_people_do(spec_of: SpecOf) -> None:
    spec = spec_of({"command": ["true"], "limits": {"memory": "2G"}, "timeout": "1h30m", "cache": {"lifetime": "1d"}})
    assert (spec.limits, spec.timeout, spec.cache_lifetime) == (Limits(2 << 30, 2.0, 100), 5400, 86400)
    assert spec_of({"command": ["true"], "cache": {"enabled": False, "lifetime": 60}}).caches is False


def test_rules_are_canonical(spec_of: SpecOf) -> None:
    agent = {"rules": ["Example.COM.", "bücher.example", "example.com"], "methods": ["get", "GET"]}
    assert spec_of({"command": ["true"], "network": {"agent": agent}}).network["agent"] == NetworkSpec(
        "limited", rules=("example.com", "xn--bcher-kva.example"), methods=("GET",)
    )


def test_maintenance_has_the_network_of_setup_unless_it_has_its_own(spec_of: SpecOf) -> None:
    def networks(**network: Any) -> Mapping[str, NetworkSpec]:
        return spec_of({"command": ["true"], "network": network}).network

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
        ({"command": ["x"], "network": {"setup": {"rules": ["exa mple.com"]}}}, "rule 'exa mple.com'"),
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
        ({"command": ["x"], "ref": "main"}, "goes with a"),
        ({"command": ["x"], "cache": {"trusted_refs": [""]}}, "at least 1 character"),
        ({"command": ["x"], "timeout": "soon"}, "is no duration"),
        ({"command": ["x"], "limits": {"memory": "much"}}, "is no size"),
        ({"command": ["x" * 200_000]}, "at most"),
    ],
)
def test_what_is_wrong_is_refused_with_its_reason(spec_of: SpecOf, request_: dict[str, object], reason: str) -> None:
    with pytest.raises((ValidationError, BadRequest)) as caught:
        spec_of(request_)
    assert reason in str(caught.value)


def test_a_task_trusts_no_more_refs_than_its_environment(environments: Environments, spec_of: SpecOf) -> None:
    environments.create(ROOT, "trusting", {"cache": {"trusted_refs": ["main", "release/*"]}})
    environments.create(ROOT, "open", {"cache": {"lifetime": 60.0}})

    def trusted(environment: str, **cache: Any) -> tuple[str, ...] | None:
        return spec_of({"command": ["x"], "environment": environment, "cache": cache}).trusted_refs

    assert trusted("open") is trusted("") is None
    assert trusted("trusting", lifetime=60) == ("main", "release/*")
    assert trusted("trusting", trusted_refs=["main"]) == trusted("open", trusted_refs=["main"]) == ("main",)
    assert trusted("trusting", trusted_refs=[]) == ()
    with pytest.raises(BadRequest, match="the environment trusting does not trust 'feature'"):
        trusted("trusting", trusted_refs=["main", "feature"])
    with pytest.raises(BadRequest, match="a project can't say"):
        spec_of({"command": ["x"], "environment": "open", "project": {"cache": {"trusted_refs": []}}})


def test_what_is_stored_of_a_task_is_what_it_was(spec_of: SpecOf) -> None:
    for cache in ({}, {"trusted_refs": []}, {"trusted_refs": ["main"]}):
        spec = spec_of({"command": ["x"], "cache": cache})
        assert TaskSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_an_exec_needs_a_command_or_a_shell() -> None:
    with pytest.raises(ValidationError, match="for a shell"):
        ExecRequest.model_validate({"command": []})
    assert ExecRequest.model_validate({"login": True, "tty": True, "cols": 100}).to_spec().columns == 100
