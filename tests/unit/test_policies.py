"""Changing the network of a running agent: the order of storing, enforcing and answering, and that nothing slips between.

The filter and the sandbox are stood in for by what they are asked; everything else is the daemon's own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from sandbox.core.ceiling import Ceiling
from sandbox.core.errors import BadRequest, Conflict
from sandbox.core.model import Task, TaskSpec
from sandbox.core.network import OFF, Edited, NetworkSpec, with_rules
from sandbox.core.policies import Policies
from sandbox.host.errors import HostError

LIMITED = NetworkSpec("limited", rules=("example.com",))


class Filter:
    """What it was told, in order; it refuses where it is told to."""

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []
        self.starting = asyncio.Event()
        self.may_start = asyncio.Event()
        self.refuses = False

    @contextlib.asynccontextmanager
    async def sandbox(self, policy: dict[str, Any]) -> AsyncIterator[Filter]:
        self.starting.set()
        await self.may_start.wait()
        self.told.append(policy)
        yield self

    async def change_policy(self, policy: dict[str, Any]) -> None:
        if self.refuses:
            raise HostError("the filter refused a policy")
        self.told.append(policy)

    @property
    def rules(self) -> list[Any]:
        return [policy.get("rules") for policy in self.told]


class Case:
    """One task's policies, with what was stored of them."""

    def __init__(self, *denied: str) -> None:
        granted = SimpleNamespace(granted=lambda names, phase: [])
        secrets = SimpleNamespace(of=lambda owner, lent: granted)
        runtime: Any = SimpleNamespace(ceiling=Ceiling(denied, file="/c.toml"), secrets=secrets)
        self.policies = Policies(runtime, Task("t", _spec()), print)
        self.filter = Filter()
        self.stored: list[NetworkSpec] = []

    def start(self, policy: dict[str, Any]) -> Any:
        return self.filter.sandbox(policy)

    async def allow(self, *rules: str) -> Any:
        return await self.policies.change(lambda spec: with_rules(spec, rules), self.stored.append)


def _spec() -> TaskSpec:
    return TaskSpec(("true",), network={"setup": OFF, "maintenance": OFF, "agent": LIMITED})


def case(test: Callable[[Case], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def body() -> None:
            async with asyncio.timeout(10):
                await test(Case())

        asyncio.run(body())

    run.__name__ = test.__name__
    return run


@case
async def test_a_queued_task_starts_with_what_was_changed(case: Case) -> None:
    change = await case.allow("b.example")
    assert (change.at_once, case.filter.told) == (False, [])
    case.filter.may_start.set()
    async with case.policies.open("agent", case.start):
        assert case.filter.rules == [["example.com", "b.example"]]


@case
async def test_a_running_agent_lives_with_it_before_the_answer(case: Case) -> None:
    case.filter.may_start.set()
    async with case.policies.open("agent", case.start):
        change = await case.allow("b.example")
        assert change.at_once
        assert case.filter.rules[1:] == [["example.com", "b.example"]]
        assert case.stored == [change.spec]


@case
async def test_no_change_falls_between_a_policy_and_its_sandbox(case: Case) -> None:
    async def agent() -> None:
        async with case.policies.open("agent", case.start):
            await asyncio.sleep(0.05)

    running = asyncio.create_task(agent())
    await case.filter.starting.wait()  # its policy is made, its sandbox is not
    changing = asyncio.create_task(case.allow("b.example"))
    await asyncio.sleep(0.01)
    assert not changing.done()
    case.filter.may_start.set()
    assert (await changing).at_once
    assert case.filter.rules == [["example.com"], ["example.com", "b.example"]]
    await running


@case
async def test_setup_does_not_see_the_agents_changes(case: Case) -> None:
    case.filter.may_start.set()
    async with case.policies.open("setup", case.start):
        assert not (await case.allow("b.example")).at_once
    async with case.policies.open("checkout", case.start):
        assert [policy["access"] for policy in case.filter.told] == ["off", "off"]


@case
async def test_what_the_filter_refuses_never_was(case: Case) -> None:
    case.filter.may_start.set()
    async with case.policies.open("agent", case.start):
        case.filter.refuses = True
        with pytest.raises(HostError):
            await case.allow("b.example")
        assert case.stored[-1] == LIMITED
        case.filter.refuses = False
        assert (await case.allow("c.example")).spec.rules == ("example.com", "c.example")


@case
async def test_what_cannot_be_stored_is_not_in_force(case: Case) -> None:
    def full(_: NetworkSpec) -> None:
        raise OSError(28, "No space left on device")

    case.filter.may_start.set()
    async with case.policies.open("agent", case.start):
        with pytest.raises(OSError, match="No space"):
            await case.policies.change(lambda spec: Edited(OFF), full)
        assert len(case.filter.told) == 1


@case
async def test_an_agent_that_has_ended_is_not_changed(case: Case) -> None:
    case.filter.may_start.set()
    async with case.policies.open("agent", case.start):
        pass
    with pytest.raises(Conflict, match="the agent of task t has ended"):
        await case.allow("b.example")
    assert case.stored == []


@case
async def test_a_bad_rule_is_the_users_to_mend(case: Case) -> None:
    with pytest.raises(BadRequest, match="rule 'b example'"):
        await case.allow("b example")


def test_the_ceiling_holds_for_changes_too() -> None:
    async def body() -> None:
        case = Case("evil.example")
        with pytest.raises(BadRequest, match=r"the ceiling /c\.toml"):
            await case.allow("a.evil.example")
        assert case.stored == []

    asyncio.run(body())
