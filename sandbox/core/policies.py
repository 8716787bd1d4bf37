"""The policies of one task's phases: put together for the filter, and the agent's changed while it runs.

    open    lock ─ policy from setting, ceiling, image ─ sandbox started with it ─ unlock ─ … ─ ended
    change  lock ─ checked ─ stored ─ in force in the filter ─ unlock ─ answered

The lock is why no change falls between a policy's making and its sandbox. Decides nothing: rules, ceiling and filter do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from proxy.policy import Decision, explain
from proxy.policy import parse as parse_policy
from sandbox.core import network
from sandbox.core.errors import BadRequest, Conflict
from sandbox.core.model import Task
from sandbox.core.network import OFF, Edited, NetworkSpec
from sandbox.core.runtime import Runtime
from sandbox.host.errors import HostError
from sandbox.host.sandbox import Sandbox

type Edit = Callable[[NetworkSpec], Edited]
type Start = Callable[[dict[str, Any]], AbstractAsyncContextManager[Sandbox]]


@dataclass(frozen=True)
class Change:
    """What became of a change. `at_once`: the agent runs and lives with it now; else it will from its start."""

    spec: NetworkSpec
    notices: tuple[str, ...]
    at_once: bool


class Policies:
    """The settings of one task's phases, and the agent's sandbox while it is there."""

    def __init__(self, runtime: Runtime, task: Task) -> None:
        self._runtime = runtime
        self._task = task.id
        self._settings = dict(task.spec.network)
        self._changing = asyncio.Lock()
        self._agent: Sandbox | None = None
        self._agent_ended = False

    @contextlib.asynccontextmanager
    async def open(self, phase: str, start: Start) -> AsyncIterator[Sandbox]:
        """The sandbox that `start` makes with the phase's policy. Phases whose network nobody sets have none."""
        async with contextlib.AsyncExitStack() as stack:
            async with self._changing:
                policy = await policy_of(self._runtime, phase, self._settings.get(phase, OFF))
                sandbox = await stack.enter_async_context(start(policy))
                if phase == "agent":
                    self._agent = sandbox
            try:
                yield sandbox
            finally:
                if phase == "agent":
                    self._agent, self._agent_ended = None, True

    async def change(self, edit: Edit, store: Callable[[NetworkSpec], None]) -> Change:
        """Change what the agent may reach. Raises BadRequest, Conflict once it has ended, HostError; then nothing changed."""
        async with self._changing:
            if self._agent_ended:
                raise Conflict(
                    f"the agent of task {self._task} has ended", "only a running or queued task can be changed"
                )
            before = self._settings["agent"]
            try:
                edited = edit(before)
            except ValueError as error:
                raise BadRequest(str(error), "hutch net --help explains rules") from error
            self._runtime.ceiling.check("agent", edited.spec)
            store(edited.spec)  # first: a full disk must not leave in force what the next start would not know
            try:
                at_once = await self._put_in_force(edited.spec)
            except HostError:
                store(before)
                raise
            self._settings["agent"] = edited.spec
        return Change(edited.spec, edited.notices, at_once)

    async def _put_in_force(self, spec: NetworkSpec) -> bool:
        sandbox = self._agent
        if sandbox is None:
            return False
        await sandbox.change_policy(await policy_of(self._runtime, "agent", spec))
        return True


async def policy_of(runtime: Runtime, phase: str, spec: NetworkSpec) -> dict[str, Any]:
    """What the filter is told for a phase with this setting."""
    return network.policy(phase, spec, runtime.ceiling.deny)


async def explain_request(runtime: Runtime, task: Task, phase: str, url: str, method: str) -> Decision:
    """What would become of a request in a phase of a task, as it is set now. Raises BadRequest for what is no URL."""
    policy = await policy_of(runtime, phase, task.spec.network[phase])
    try:
        return explain(parse_policy(policy), url, method)
    except ValueError as error:
        raise BadRequest(f"cannot explain {url!r}: {error}", "write a URL like https://example.com/path") from error
