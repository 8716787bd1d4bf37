"""Ends tasks that take more of the disk than their limits, and what fills the disk for everybody.

No quota does it: most hosts have file systems without project quotas, and a layer must move by one rename. So the file
system's free space is looked at often, which costs a microsecond, and the trees are counted when it has shrunk by a part of the
smallest limit.

A task can exceed its limit by that part, and by what it writes until it is counted. What it has only mapped into memory, of a
file that it removed and closed, is not seen.

    every quarter of a second   free space ─▶ shrunk by an eighth of a limit?  ─▶ count ─▶ above the limit: end that task
                                           └▶ less than the reserve left?      ─▶ drop snapshots; then end the largest task
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, Final

from sandbox import units
from sandbox.core import gc
from sandbox.core.phases import RUNTIME
from sandbox.core.run_task import TaskRun
from sandbox.core.runtime import Runtime
from sandbox.core.scheduler import Scheduler
from sandbox.host import disk
from sandbox.host.disk import Space

_log = logging.getLogger("hutch")
_INTERVAL: Final = 0.25  # seconds
_PART: Final = 8  # of a limit that may be written uncounted
_SMALL: Final = 4 << 30  # bytes: disks of less have no reserve
_RESERVE: Final = 2 << 30
_UNCOUNTED: Final = 1 << 62
_LARGE: Final = 64 << 20  # bytes: a task that has less is not what fills a disk


def reserve(size: int) -> int:
    """Bytes of a disk of this size that tasks leave alone."""
    return min(size // 50, _RESERVE) if size >= _SMALL else 0


def over(used: Space | None, limit_bytes: int | None, limit_files: int | None) -> str | None:
    """Which limit was exceeded, in words. What could not be counted exceeds any."""
    if used is None:
        return "disk: it has more files, or has more open, than can be counted"
    if limit_bytes is not None and used.bytes > limit_bytes:
        return f"disk: {units.bytes_text(used.bytes)} used, the limit is {units.bytes_text(limit_bytes)}"
    if limit_files is not None and used.files > limit_files:
        return f"disk: {used.files} files, the limit is {limit_files}"
    return None


class DiskWatch:
    """Watches the file system of the state directory."""

    def __init__(self, runtime: Runtime, scheduler: Scheduler) -> None:
        self._runtime = runtime
        self._scheduler = scheduler
        self._reserve = reserve(disk.size(runtime.state))
        self._last = disk.free(runtime.state)
        self._taken = Space(0, 0)  # by everybody since the start; what others free does not hide what one writes
        self._counted: dict[TaskRun, Space] = {}  # what was taken when a run was counted last
        self._counting: dict[TaskRun, asyncio.Task[None]] = {}
        self._making_room: asyncio.Task[None] | None = None
        self._collected = False

    async def watch(self) -> None:
        """Until cancelled."""
        try:
            while True:
                await asyncio.sleep(_INTERVAL)
                try:
                    self._look()
                except Exception:  # a watch that has ended is missed when the disk is full
                    _log.exception("cannot watch the disk")
        finally:
            for task in (*self._counting.values(), self._making_room):
                if task is not None:
                    task.cancel()

    def _look(self) -> None:
        now, before, taken = disk.free(self._runtime.state), self._last, self._taken
        self._last = now
        self._taken = Space(
            taken.bytes + max(0, before.bytes - now.bytes), taken.files + max(0, before.files - now.files)
        )
        runs = self._runs()
        self._counted = {run: self._counted.get(run, taken) for run in runs}
        for run in runs:
            if run not in self._counting and self._is_due(run):
                self._counted[run] = self._taken
                self._counting[run] = _begun(self._count(run))
        if now.bytes >= self._reserve:
            self._collected = False
        elif self._making_room is None or self._making_room.done():
            self._making_room = _begun(self._make_room())

    def _runs(self) -> list[TaskRun]:
        """Those that can be ended. Not while one waits for a runtime's layer, which all tasks share: it isn't the task's."""
        runs = self._scheduler.running()
        return [run for run in runs if not run.ending and not run.context.phase.startswith(RUNTIME)]

    def _is_due(self, run: TaskRun) -> bool:
        spec, since = run.task.spec, self._counted[run]
        bytes_due = spec.disk is not None and self._taken.bytes - since.bytes >= spec.disk // _PART
        return bytes_due or (spec.files is not None and self._taken.files - since.files >= max(1, spec.files // _PART))

    async def _count(self, run: TaskRun) -> None:
        try:
            if why := over(await self._used(run), run.task.spec.disk, run.task.spec.files):
                run.end_for_limit(why, "--disk and --files raise the limits")
        finally:
            del self._counting[run]

    async def _used(self, run: TaskRun) -> Space | None:
        """What a run has on the disk, files that it has removed but still holds open among it; None if that can't be counted."""
        used, sandbox = await disk.used(run.directory), run.context.sandbox
        if used is None or sandbox is None:
            return used
        hidden = await asyncio.to_thread(disk.removed_but_open, sandbox.lease.group.pids())
        return None if hidden is None else Space(used.bytes + hidden, used.files)

    async def _make_room(self) -> None:
        """Idle snapshots go first, once; then the largest task, if it is one that matters."""
        if not self._collected:
            self._collected = True
            _log.warning("less than %s of the disk is free: dropping cached states", units.bytes_text(self._reserve))
            await gc.collect(self._runtime, self._scheduler, gc.Wanted(free=2 * self._reserve))
            return
        found = {run: await self._used(run) for run in self._runs()}
        sizes = {run: _UNCOUNTED if used is None else used.bytes for run, used in found.items()}
        largest = max(sizes, key=lambda run: sizes[run], default=None)
        if largest is not None and sizes[largest] > _LARGE:
            took = "more than can be counted" if sizes[largest] == _UNCOUNTED else units.bytes_text(sizes[largest])
            why = (
                f"disk: the host has less than {units.bytes_text(self._reserve)} left, and this task took most: {took}"
            )
            largest.end_for_limit(why, "write less, or give the host more disk")
            await asyncio.sleep(1)  # until it has let go


def _begun(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """A task whose failure is told; the watch, which began it, goes on."""
    task = asyncio.create_task(work)
    task.add_done_callback(_tell_failure)
    return task


def _tell_failure(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("cannot watch the disk", exc_info=error)
