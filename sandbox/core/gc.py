"""Garbage collection: expired snapshots, layers that nothing stands on, tasks that ended long ago. Never what is in use."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from rootfs.store import Swept
from sandbox.core.model import Snapshot
from sandbox.core.runtime import Runtime

if TYPE_CHECKING:
    from sandbox.core.scheduler import Scheduler

TASK_AGE: Final = timedelta(days=7)


async def collect(runtime: Runtime, scheduler: Scheduler) -> dict[str, Any]:
    """Drop what nobody needs; returns {"snapshots", "layers", "tasks"} as counts and "bytes" freed on disk."""
    async with runtime.changing_layers:
        snapshots = _drop_snapshots(runtime)
        swept = await _sweep(runtime)
    limit = (datetime.now(UTC) - TASK_AGE).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    old = runtime.store.tasks_ended_before(limit)
    freed = swept.bytes
    for task in old:
        freed += await scheduler.discard(task)
    return {"snapshots": snapshots, "layers": swept.count, "tasks": len(old), "bytes": freed}


async def drop(runtime: Runtime, snapshots: Sequence[Snapshot]) -> dict[str, int]:
    """Forget snapshots and remove their layers, but those that a task stands on: they go with the next collection."""
    async with runtime.changing_layers:
        for snapshot in snapshots:
            runtime.store.remove_snapshot(snapshot.id)
        swept = await _sweep(runtime)
    return {"snapshots": len(snapshots), "bytes": swept.bytes}


async def _sweep(runtime: Runtime) -> Swept:
    kept = {snapshot.layer for snapshot in runtime.store.list_snapshots()}
    referenced = kept | runtime.layers_in_use() | runtime.bases.layers_in_use()
    return await asyncio.to_thread(runtime.layers.remove_unused_layers, referenced)


def _drop_snapshots(runtime: Runtime) -> int:
    """Forget expired snapshots that no task stands on; how many."""
    used, moment = runtime.layers_in_use(), time.time()
    dropped = [one for one in runtime.store.list_snapshots() if one.expires <= moment and one.layer not in used]
    for snapshot in dropped:
        runtime.store.remove_snapshot(snapshot.id)
    return len(dropped)
