"""Ends tasks that take more of the disk than their limits, and what fills the disk for everybody.

No quota does it: most hosts have file systems without project quotas, and a layer must move by one rename. So the file
system's free space is looked at often, which costs a microsecond, and the trees are counted when it has shrunk by a part of the
smallest limit. A task can exceed its limit by that part, and by what it writes until it is counted.

    every quarter of a second   free space ─▶ shrunk by an eighth of a limit?  ─▶ count ─▶ above the limit: end that task
                                           └▶ less than the reserve left?      ─▶ drop snapshots; then end the largest task
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from sandbox import units
from sandbox.core import gc
from sandbox.core.errors import TaskError
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
_LARGE: Final = 64 << 20  # bytes: a task that has less is not what fills a disk


def reserve(size: int) -> int:
    """Bytes of a disk of this size that tasks leave alone."""
    return min(size // 50, _RESERVE) if size >= _SMALL else 0


def over(used: Space, limit_bytes: int | None, limit_files: int | None) -> str | None:
    """Which limit was exceeded, in words."""
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
        self._state = runtime.state
        self._reserve = reserve(disk.size(runtime.state))
        self._last = disk.free(self._state)
        self._shrunk = Space(0, 0)
        self._collected = False

    async def watch(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(_INTERVAL)
            try:
                await self._look()
            except (TaskError, OSError) as error:
                _log.warning("cannot watch the disk: %s", error)

    async def _look(self) -> None:
        now, before = disk.free(self._state), self._last
        self._last = now
        # What others free must not hide what one writes.
        self._shrunk = Space(
            self._shrunk.bytes + max(0, before.bytes - now.bytes), self._shrunk.files + max(0, before.files - now.files)
        )
        runs = self._scheduler.running()
        if now.bytes < self._reserve:
            await self._make_room(runs)
        else:
            self._collected = False
        limited = [run for run in runs if run.task.spec.disk is not None or run.task.spec.files is not None]
        if limited and self._is_time(limited):
            self._shrunk = Space(0, 0)
            for run in limited:
                spec = run.task.spec
                if why := over(await disk.used(run.directory), spec.disk, spec.files):
                    run.end_for_limit(why, "--disk and --files raise the limits")

    def _is_time(self, limited: Sequence[TaskRun]) -> bool:
        least = min((run.task.spec.disk for run in limited if run.task.spec.disk is not None), default=1 << 62)
        fewest = min((run.task.spec.files for run in limited if run.task.spec.files is not None), default=1 << 62)
        return self._shrunk.bytes >= least // _PART or self._shrunk.files >= max(1, fewest // _PART)

    async def _make_room(self, runs: Sequence[TaskRun]) -> None:
        """Idle snapshots go first, once; then the largest task, if it is one that matters."""
        if not self._collected:
            self._collected = True
            _log.warning("less than %s of the disk is free: dropping cached states", units.bytes_text(self._reserve))
            await gc.collect(self._runtime, self._scheduler, gc.Wanted(free=2 * self._reserve))
            return
        sizes = {run: (await disk.used(run.directory)).bytes for run in runs}
        largest = max(sizes, key=lambda run: sizes[run], default=None)
        if largest is not None and sizes[largest] > _LARGE:
            why = f"disk: the host has less than {units.bytes_text(self._reserve)} left, and this task took most"
            largest.end_for_limit(
                f"{why}: {units.bytes_text(sizes[largest])}", "write less, or give the host more disk"
            )
            await asyncio.sleep(1)  # until it has let go
