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
from proxy.rules import BadRule
from rootfs.errors import ImageError
from sandbox.core import network
from sandbox.core.errors import BadRequest, Conflict, NotFound
from sandbox.core.images import Base
from sandbox.core.model import Task, TaskSpec
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
    """The settings of one task's phases, and the sandbox of the one that runs."""

    def __init__(self, runtime: Runtime, task: Task, tell: Callable[[str], None]) -> None:
        self._runtime = runtime
        self._task = task
        self._tell = tell
        self._told: set[str] = set()
        self._settings = dict(task.spec.network)
        self._changing = asyncio.Lock()
        self._running: dict[str, Sandbox] = {}  # by phase: one, or none
        self._agent_ended = False
        self.base: Base | None = None  # known before a sandbox is opened

    @contextlib.asynccontextmanager
    async def open(self, phase: str, start: Start) -> AsyncIterator[Sandbox]:
        """The sandbox that `start` makes with the phase's policy. Phases whose network nobody sets have none."""
        async with contextlib.AsyncExitStack() as stack:
            async with self._changing:
                policy = await self._policy(phase, self._settings.get(phase, OFF))
                sandbox = await stack.enter_async_context(start(policy))
                self._running[phase] = sandbox
            try:
                yield sandbox
            finally:
                del self._running[phase]
                self._agent_ended = self._agent_ended or phase == "agent"

    @contextlib.asynccontextmanager
    async def open_ours(self, phase: str, start: Start, spec: NetworkSpec) -> AsyncIterator[Sandbox]:
        """The sandbox that `start` makes for a script of our own: nothing of the task counts, whatever changes meanwhile."""
        async with start(await policy_of(self._runtime, phase, spec, TaskSpec(()), self.base)) as sandbox:
            yield sandbox

    async def change(self, edit: Edit, store: Callable[[NetworkSpec], None]) -> Change:
        """Change what the agent may reach. Raises BadRequest, Conflict once it has ended, HostError; then nothing changed."""
        async with self._changing:
            self._check_running()
            before = self._settings["agent"]
            try:
                edited = edit(before)
            except ValueError as error:
                raise BadRequest(str(error), "hutch net --help explains rules") from error
            self._runtime.ceiling.check("agent", edited.spec)
            store(edited.spec)  # first: a full disk must not leave in force what the next start would not know
            try:
                at_once = await self._put_in_force("agent", edited.spec)
            except HostError:
                store(before)
                self._check_running()  # it may have ended just now, which is why
                raise
            self._settings["agent"] = edited.spec
        return Change(edited.spec, edited.notices, at_once)

    def _check_running(self) -> None:
        if self._agent_ended:
            text = f"the agent of task {self._task.id} has ended"
            raise Conflict(text, "only a running or queued task can be changed")

    async def secrets_changed(self) -> None:
        """Let the phase that runs use its secrets as they are now: another value, or none any more. Raises HostError."""
        async with self._changing:
            for phase in tuple(self._running):
                await self._put_in_force(phase, self._settings.get(phase, OFF))

    async def _put_in_force(self, phase: str, spec: NetworkSpec) -> bool:
        policy = await self._policy(phase, spec)
        sandbox = self._running.get(phase)  # not earlier: another sandbox may have its address by then
        if sandbox is None:
            return False
        await sandbox.change_policy(policy)
        return True

    async def _policy(self, phase: str, spec: NetworkSpec) -> dict[str, Any]:
        policy = await policy_of(self._runtime, phase, spec, self._task.spec, self.base)
        if self.base is not None and spec.preset != "none":
            for text in await self._runtime.registries.notices(self.base, self._task.spec.env):
                if text not in self._told:
                    self._told.add(text)
                    self._tell(text)
        return policy


async def policy_of(
    runtime: Runtime, phase: str, spec: NetworkSpec, task: TaskSpec, base: Base | None
) -> dict[str, Any]:
    """What the filter is told for a phase with this setting: with the values of secrets, so for it alone."""
    registries = await _registries(runtime, spec, task, base)
    granted = runtime.secrets.of(task.owner, task.lent).granted(task.secrets, phase)
    return network.policy(phase, spec, runtime.ceiling.deny, registries, granted)


async def _registries(runtime: Runtime, spec: NetworkSpec, task: TaskSpec, base: Base | None) -> tuple[str, ...]:
    """A preset is not complete without them; where they only tell what may come from the cache, nobody waits for an index."""
    if base is None or spec.access == "off":
        return ()
    ask = runtime.registries.known if spec.preset == "none" else runtime.registries.of
    return await ask(base, task.env)


async def explain_request(runtime: Runtime, task: Task, phase: str, url: str, method: str) -> Decision:
    """What would become of a request in a phase of a task, as it is set now. Raises BadRequest for what is no URL."""
    policy = await policy_of(runtime, phase, task.spec.network[phase], task.spec, await _base(runtime, task))
    try:
        return explain(parse_policy(policy), url, method)
    except BadRule as error:
        raise BadRequest(f"{url[:200]!r}: {error}", "hutch net explain TASK https://example.com/path") from error


async def known_registries(runtime: Runtime, task: Task) -> tuple[str, ...]:
    """The registries that belong to a task's presets, as far as they are known."""
    base = await _base(runtime, task)
    return await runtime.registries.known(base, task.spec.env) if base else ()


async def _base(runtime: Runtime, task: Task) -> Base | None:
    with contextlib.suppress(NotFound, ImageError):  # the image of a task that has ended may be gone, or be another
        return await runtime.bases.get(task.spec.image)
    return None
