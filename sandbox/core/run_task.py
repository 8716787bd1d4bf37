"""The life of a task, from a request that was accepted to an end that is written down. Its indentation is that life.

    source    = mirror fetched, ref resolved to a commit
    snapshot  = found by key, or made: [checkout ─ setup] on an upper directory that becomes a layer by one rename;
                where others may not have it, the directory stays the task's own
    workspace = the task's commit checked out on top, unless the snapshot is at it; maintenance (preparation.py decides)
    agent     = the command, with the agent's policy, on a directory of its own: what it changes is all that is looked at later
    result    = commit and diff from the upper directory

The one writer of a task's state while it runs; readers have the store and the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rootfs.errors import ImageError
from rootfs.runtime_recipe import RuntimeVersion
from rootfs.tree import remove_tree
from sandbox.core import cache, phases, result, runtimes, source
from sandbox.core.access import User
from sandbox.core.errors import NotStored, TaskError
from sandbox.core.journal import Journal
from sandbox.core.model import Phase, Snapshot, Task, now
from sandbox.core.network import NetworkSpec, in_words
from sandbox.core.network_record import NetworkRecord
from sandbox.core.phases import PhaseContext
from sandbox.core.policies import Change, Edit
from sandbox.core.preparation import Preparation, prepare
from sandbox.core.runtime import Runtime
from sandbox.core.snapshots import find, keep_snapshot, set_up
from sandbox.core.source import Source
from sandbox.host import fault
from sandbox.host.errors import HostError

_log = logging.getLogger("hutch")


class TaskRun:
    """One running task. `context` lets exec and shell find its sandbox."""

    def __init__(self, runtime: Runtime, task: Task, directory: Path, user: User | None = None) -> None:
        self._runtime = runtime
        self.task = task
        self.user = user  # who asked, with the groups that he had then; None after a restart
        self.directory = directory
        self.journal = Journal(directory / "events.ndjson")
        self.network = NetworkRecord(self.journal)
        self.context = PhaseContext(runtime, self.journal, self.network, task)
        self.preparation = Preparation()
        self.driver: asyncio.Task[None] | None = None
        self._reason: str | None = None
        self._limit: dict[str, str] | None = None  # which one it ran into

    def end(self, reason: str) -> None:
        """Make the task end as "cancelled", "timed_out" or "lost". The first reason counts: its unwinding is not interrupted."""
        if self._reason is None and self.driver is not None:
            self._reason = reason
            self.driver.cancel()

    def end_for_limit(self, why: str, remedy: str) -> None:
        """Make the task fail at once, since it has used up what it may; its log and diff stay."""
        if self._reason is None:
            self._limit = _text(why, remedy)
            if self.context.sandbox is not None:
                self.context.sandbox.kill()  # no time to tidy up: it goes on writing
            self.end("limit")

    @property
    def ending(self) -> bool:
        """Whether it was told to end."""
        return self._reason is not None

    async def run(self) -> None:
        """Run the task to its end; never raises for what the task or the host did wrong."""
        state, error = "failed", None
        try:
            if self.task.state == "queued":
                self._change(state="running", started=now())
            with self._deadline():
                await self._live()
            state = "succeeded" if self.task.exit_code == 0 else "failed"
        except asyncio.CancelledError:
            state, error = self._interrupted()
        except (TaskError, HostError, ImageError) as failure:
            error = _text(failure.message, failure.remedy)
            if self._reason:  # it was told to end, and failed at unwinding: that is not why it ended
                state, _ = self._interrupted()
                error = self._limit or error
        except OSError as failure:
            error = _text(f"the host failed: {failure}", "hutch doctor; df -h")
        except Exception as failure:  # a fault of ours must not take the daemon, or the task's end, with it
            _log.exception("task %s failed by a fault of the daemon", self.task.id)
            error = _text(f"the daemon failed: {failure!r}", "please report this; its log has the details")
        finally:
            self._reason = self._reason or state  # what ends now is not interrupted any more
            await self._finish(state, self._with_limits(error) if state == "failed" else error)

    def _with_limits(self, error: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """An error that names the limits which were hit: most often they are why."""
        if not self.context.limits_hit:
            return error
        reached, remedies = ("; ".join(texts) for texts in zip(*self.context.limits_hit, strict=True))
        return _text(f"{error['message']} ({reached})" if error else reached, remedies)

    async def change_network(self, edit: Edit) -> Change:
        """Change what the agent may reach; for one that runs it is in force when this returns. Raises as Policies.change."""
        change = await self.context.policies.change(edit, self._store_network)
        with contextlib.suppress(OSError):  # a full disk: the store has it
            self.journal.notice(f"the agent's network is now: {in_words(change.spec)}")
        return change

    def _store_network(self, spec: NetworkSpec) -> None:
        changed = replace(self.task.spec, network={**self.task.spec.network, "agent": spec})
        self._runtime.store.update_spec(self.task.id, changed)
        self.task = self.task.changed(spec=changed)

    async def abandon(self) -> None:
        """End a task that never ran, or whose daemon died."""
        await self._finish(*self._interrupted())

    @contextlib.contextmanager
    def _deadline(self) -> Iterator[None]:
        seconds = self.task.spec.timeout
        with contextlib.ExitStack() as stack:
            if seconds:
                stack.callback(asyncio.get_running_loop().call_later(seconds, self.end, "timed_out").cancel)
            yield

    def _interrupted(self) -> tuple[str, dict[str, str] | None]:
        """State and error of a task that was told to end; nobody told one whose daemon died."""
        match self._reason:
            case "cancelled":
                return "cancelled", None
            case "limit":
                return "failed", self._limit
            case "timed_out":
                return "timed_out", _text(f"the task took longer than {self.task.spec.timeout:g} s", "--timeout")
            case _:
                return "lost", _text("the daemon ended before the task did", "run it again")

    async def _live(self) -> None:
        spec, runtime = self.task.spec, self._runtime
        base = await runtime.bases.get(spec.image)
        async with contextlib.AsyncExitStack() as life:
            life.enter_context(runtime.using(*base.layers))  # the image may be removed or replaced while the task runs
            found = await self._fetch() if spec.repo else None
            fault.at("task: fetched")
            self.context.prepare(base, found)
            await self._stack_runtimes(life)
            self.preparation = prepare(spec, found)
            self._tell(self.preparation.explain())
            checkout, hit = await self._set_up(life, found)
            await self._prepare(found, checkout, hit)
            if found is not None and found.local:
                life.push_async_callback(_ended, asyncio.create_task(self._tell_uncommitted()))
            writable = phases.new_writable(self.directory / phases.AGENT)
            life.push_async_callback(self._record_result, found, writable)
            code = await self.context.agent(writable)
            fault.at("task: agent ended")
            self._change(exit_code=code)

    async def _stack_runtimes(self, life: contextlib.AsyncExitStack) -> None:
        """Find the layers of the task's language runtimes, or build them, each on the image alone."""
        stacked: list[tuple[RuntimeVersion, Path]] = []
        for version in runtimes.of_task(self.task.spec, self.context.base):
            directory = self.directory / phases.RUNTIME
            layer = await runtimes.layer(self._runtime, self.context, version, directory, self.journal.notice)
            life.enter_context(self._runtime.using(layer))
            stacked.append((version, self._runtime.layers.layer_path(layer)))
            await asyncio.to_thread(remove_tree, directory)
        self.context.stack_runtimes(stacked)

    async def _prepare(self, found: Source | None, checkout: str | None, hit: bool) -> None:
        """Bring the files to the task's commit, and freshen a cached state. What that writes is a layer of the task's own."""
        maintenance = self.preparation.maintenance(hit)
        moves = found is not None and checkout != found.checkout
        if moves or maintenance:
            writable = phases.new_writable(self.directory / phases.PREPARED, large=moves)
            if found is not None and moves:
                await self.context.checkout(writable, found.commit, found.branch)
            if maintenance:
                await self.context.script("maintenance", writable, maintenance)
                await self.context.refuse_secrets("maintenance", writable)
            self.context.add_layer(writable / "upper")
        if found is not None:
            self._change(commit=found.commit)
        fault.at("task: checked out")

    async def _fetch(self) -> Source:
        async with self._host_phase("fetch"):
            found = await source.fetch(self._runtime.state, self.task.spec, self.journal.notice)
        self._tell(found.notices)
        return found

    def _tell(self, texts: Iterable[str]) -> None:
        for text in texts:
            self.journal.notice(text)

    async def _set_up(self, life: contextlib.AsyncExitStack, found: Source | None) -> tuple[str | None, bool]:
        """Stack what setup makes, found or made now. Returns what is checked out there, and whether it was found."""
        if not self.preparation.setup:
            return None, False
        parts = self._inputs(found)
        key, private = cache.key(parts), self._why_private(found)
        if not self.task.spec.caches:
            self._say_cache(False, key, private)
            return await self._set_up_alone(found)
        async with self._runtime.building(key):  # two tasks that miss together build once
            snapshot, why = await self._find(key, parts, found)
            hit = snapshot is not None
            self._say_cache(hit, key, why if hit or not private else f"{why}; {private}")
            if snapshot is None and not private:
                upper = await self._run_setup(found)
                snapshot = await keep_snapshot(self._runtime, self.context, self.task.spec, upper, found, parts)
            if snapshot is not None:  # and nothing was awaited since it came: it could have been collected meanwhile
                life.enter_context(self._runtime.using(snapshot.layer))
                self.context.add_layer(self._runtime.layers.layer_path(snapshot.layer))
                return snapshot.checkout, hit
        return await self._set_up_alone(found)

    async def _set_up_alone(self, found: Source | None) -> tuple[str | None, bool]:
        """Setup for this task alone: what it writes is no layer, which could be found, and goes with the task's directory."""
        self.context.add_layer(await self._run_setup(found))
        return found.default_checkout if found else None, False

    async def _run_setup(self, found: Source | None) -> Path:
        return await set_up(self.context, self.preparation.setup, self.directory / phases.SETUP, found)

    async def _find(self, key: str, parts: Mapping[str, str], found: Source | None) -> tuple[Snapshot | None, str]:
        """The snapshot to start from; and in words how old it is, or why there is none."""
        store, spec = self._runtime.store, self.task.spec
        if spec.fresh:
            return None, "asked to start from nothing"
        snapshot, why = await find(self._runtime, key)
        if snapshot is not None:
            return snapshot, cache.explain_hit(snapshot)
        latest = store.latest_snapshot(found.url if found else None, spec.scope)
        return None, why or cache.explain_miss(parts, latest)

    def _inputs(self, found: Source | None) -> dict[str, str]:
        spec, base = self.task.spec, self.context.base
        fingerprint = self._runtime.secrets.fingerprint(self.context.values["setup"])
        keys = {one.name: runtimes.key(base, one) for one in runtimes.of_task(spec, base)}
        url, placeholders = found.url if found else None, self.context.placeholders["setup"]
        automatic = self.preparation.snapshot_inputs
        return cache.inputs(spec, base.image.digest, url, placeholders, automatic, fingerprint, keys)

    def _why_private(self, found: Source | None) -> str:
        """Why what this task's setup makes is for itself alone, in words; empty if others may have it."""
        spec = self.task.spec
        if not spec.caches:
            return "the cache is off"
        if found is None or spec.ref is None or found.is_default or cache.trusts(spec.trusted_refs, found.ref):
            return ""
        return f"the ref {spec.ref!r} is not trusted to write the cache: built for this task alone"

    def _say_cache(self, hit: bool, key: str, reason: str) -> None:
        self._change(cache={"hit": hit, "key": key, "reason": reason})
        self.journal.notice(f"cache {'hit' if hit else 'miss'} ({key[:12]}): {reason}")

    async def _record_result(self, found: Source | None, writable: Path) -> None:
        """Commit and diff, whatever became of the agent's command: what it did until then is the user's."""
        if found is None:
            return
        async with self._host_phase("result"):
            patch, excludes = self.directory / "diff.patch", self.preparation.excludes
            layers = self.context.layers_top_first
            made = await result.make(self._runtime.state, self.task, found, layers, writable, excludes, patch)
            diff = {name: made[name] for name in ("files", "insertions", "deletions")}
            self._change(diff=diff, result={"mirror": found.mirror, "base": found.commit, "commit": made["commit"]})
        self._tell(result.notices(made))

    async def _tell_uncommitted(self) -> None:
        with contextlib.suppress(HostError, OSError):  # nothing depends on it
            if notice := await source.uncommitted(self.task.spec):
                self.journal.notice(notice)

    @contextlib.asynccontextmanager
    async def _host_phase(self, name: str) -> AsyncIterator[None]:
        """A phase that runs no sandbox."""
        self.journal.phase_started(name)
        started, code = time.monotonic(), 1
        try:
            yield
            code = 0
        finally:
            self.context.ended(Phase(name, time.monotonic() - started, code))

    def _change(self, **changes: Any) -> None:
        self.task = self.task.changed(**changes)
        self._runtime.store.update_task(self.task)

    async def _finish(self, state: str, error: Mapping[str, str] | None) -> None:
        """Write the end down, then remove what the task had on disk but its journal and diff."""
        self.context.close()
        changes = {
            "state": state,
            "error": error,
            "ended": now(),
            "phases": tuple(self.context.phases) or self.task.phases,
        }
        try:
            await self._store_end({**changes, "network": self.network.summary()})
            fault.at("task: end stored")
            with contextlib.suppress(OSError):  # a full disk has no room for the last line; the store has it
                self.journal.end(self.task.shown())
        finally:
            self.journal.close()
            fault.at("task: end told")
            await asyncio.to_thread(phases.remove_writables, self.directory)

    async def _store_end(self, changes: Mapping[str, Any]) -> None:
        """Write the end down. On a full disk what the task wrote goes first; then others have half a minute to make room."""
        for pause in (1, 2, 4, 8, 16):
            try:
                return self._change(**changes)
            except NotStored as error:
                _log.warning("task %s: %s", self.task.id, error.message)
                await asyncio.to_thread(phases.remove_writables, self.directory)
                await asyncio.sleep(pause)
        _log.error("task %s has ended as %s, but will be seen as lost", self.task.id, changes["state"])


def _text(message: str, remedy: str) -> dict[str, str]:
    return {"message": message, "remedy": remedy}


async def _ended(running: asyncio.Task[None]) -> None:
    """Wait for what nobody has waited for yet."""
    await asyncio.gather(running, return_exceptions=True)
