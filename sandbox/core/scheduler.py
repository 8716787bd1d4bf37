"""Runs tasks: a bounded queue, one slot per running task, and the way to cancel them. Knows nothing of what a task does.

submit ─ stored as queued, 202 ─ waits for a slot ─ TaskRun.run ─ its end is stored
cancel ─ the flag is set, the same driver unwinds
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from pathlib import Path
from typing import Final

from rootfs.tree import remove_tree
from sandbox.core.access import User, user_of
from sandbox.core.environments import may_use
from sandbox.core.errors import Busy, Conflict, NotStored
from sandbox.core.model import Environment, Task, TaskSpec
from sandbox.core.run_task import TaskRun
from sandbox.core.runtime import Runtime
from sandbox.host import fault, jobs
from sandbox.host.errors import HostError

_QUEUE: Final = 1000


class Scheduler:
    """The tasks of this daemon that have not ended."""

    def __init__(self, runtime: Runtime, slots: int) -> None:
        self._runtime = runtime
        self._limit = slots
        self._slots = asyncio.Semaphore(slots)
        self._runs: dict[str, TaskRun] = {}
        self._closing = False
        self.ended: Counter[str] = Counter()  # how many tasks of this daemon ended in which state

    def directory(self, identity: str) -> Path:
        """Where a task's journal and diff are."""
        return self._runtime.state / "tasks" / identity

    def submit(self, spec: TaskSpec, user: User | None = None) -> Task:
        """Accept a task, of this user. Raises Busy when the queue is full, NotStored when the disk is."""
        if self._closing or len(self._runs) >= _QUEUE:
            raise Busy("cannot take another task: the queue is full or the daemon is ending", "try again later")
        task = Task(id=secrets.token_hex(6), spec=spec)
        if len(self._runs) < self._limit:  # a slot is free: one write less before its sandbox starts
            task = task.changed(state="running", started=task.created)
        directory = self.directory(task.id)
        with contextlib.ExitStack() as undo:
            try:
                directory.mkdir(mode=0o700, parents=True)
                undo.callback(remove_tree, directory)
                run = TaskRun(self._runtime, task, directory, user)
                undo.callback(run.journal.close)
                fault.at("task: directory made")
            except OSError as error:
                text = f"cannot store a new task in {directory.parent}: {error.strerror}"
                raise NotStored(text, "free some space (hutch gc)") from error
            undo.pop_all()
        self._begin(run)
        return run.task

    def _begin(self, run: TaskRun) -> None:
        """Start the task, then store it: its sandbox is made meanwhile. Nothing of the tenant runs before it is stored, since
        that takes the event loop, and nothing is left of a task that could not be.
        """
        self._runs[run.task.id] = run
        run.driver = asyncio.Task(self._drive(run), loop=asyncio.get_running_loop(), eager_start=True)
        try:
            self._runtime.store.add_task(run.task)
        except BaseException:
            run.end("lost")
            run.driver.add_done_callback(lambda _: remove_tree(run.directory))
            raise

    async def _drive(self, run: TaskRun) -> None:
        try:
            async with self._slots:
                await run.run()
        except asyncio.CancelledError:
            if not run.journal.closed:
                await run.abandon()
        finally:
            del self._runs[run.task.id]
            self.ended[run.task.state] += 1

    def run_of(self, identity: str) -> TaskRun | None:
        """The run of a task that has not ended."""
        return self._runs.get(identity)

    def running(self) -> list[TaskRun]:
        """The runs of the tasks that have not ended."""
        return list(self._runs.values())

    def current(self, identity: str, owner: int | None = None) -> Task:
        """A task of `owner`'s (None: of anybody's) by an unambiguous prefix of its id. Raises NotFound."""
        run = self._runs.get(identity)
        if run is not None and owner in (None, run.task.spec.owner):
            return run.task
        return self._runtime.store.task(identity, owner)

    def cancel(self, identity: str) -> Task:
        """End a task; does nothing for one that has ended."""
        task = self._runtime.store.task(identity)
        run = self._runs.get(task.id)
        if run is not None:
            run.end("cancelled")
        return task

    def end_tasks_of_former_members(self, environment: Environment) -> None:
        """Cancel the tasks of those who may not use an environment any more: they have its secrets."""
        for run in self.running():
            asked = run.user or user_of(run.task.spec.owner)
            if run.task.spec.environment == environment.id and not may_use(asked, environment):
                run.end("cancelled")
                with contextlib.suppress(OSError, ValueError):  # a full disk; it is ending already
                    run.journal.notice(f"environment {environment.called(asked.uid)} is not shared with you any more")

    async def secret_changed(self, owner: int, name: str) -> None:
        """Let the tasks that were given this secret use it as it is now. Raises the first failure, after all were told."""
        specs = ((run, run.task.spec) for run in self._runs.values())
        given = [run for run, spec in specs if name in spec.secrets and spec.lent.get(name, spec.owner) == owner]
        told = await asyncio.gather(*(run.context.policies.secrets_changed() for run in given), return_exceptions=True)
        if failure := next((result for result in told if result is not None), None):
            raise failure

    async def remove(self, identity: str) -> None:
        """Forget a task that has ended, and its files. Raises Conflict while it runs."""
        task = self._runtime.store.task(identity)
        run = self._runs.get(task.id)
        if run is not None and run.driver is not None and not task.active:
            await asyncio.wait([run.driver])  # it has ended, and only tidies up
        if task.id in self._runs:
            raise Conflict(f"task {task.id} is {task.state}", f"hutch task cancel {task.id}")
        await self.discard(task)

    async def discard(self, task: Task) -> int:
        """Remove an ended task's files, result and row; returns the bytes freed."""
        if task.result and task.result.get("commit"):
            request = {
                "op": "drop",
                "state": str(self._runtime.state),
                "mirror": task.result["mirror"],
                "task": task.id,
            }
            with contextlib.suppress(HostError):  # a mirror that is gone has no result to drop
                await jobs.run("rootfs.git_job", request, 60)
        self._runtime.store.remove_task(task.id)
        # Last: a directory without a task is removed at the next start, a task without one would stay.
        return (await asyncio.to_thread(remove_tree, self.directory(task.id))).bytes

    async def recover(self) -> None:
        """At start: tasks of a daemon that died are marked as lost, their files removed."""
        for task in self._runtime.store.active_tasks():
            directory = self.directory(task.id)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            run = TaskRun(self._runtime, task, directory)
            await run.abandon()

    async def close(self) -> None:
        """End all tasks in order and wait for their last words."""
        self._closing = True
        runs = list(self._runs.values())
        for run in runs:
            run.end("lost")
        await asyncio.gather(*(run.driver for run in runs if run.driver), return_exceptions=True)
