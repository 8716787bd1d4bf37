"""Garbage collection: expired snapshots, layers that nothing stands on, tasks that ended long ago. Never what is in use."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sandbox.core.runtime import Runtime
from sandbox.core.scheduler import Scheduler

TASK_AGE: Final = timedelta(days=7)


async def collect(runtime: Runtime, scheduler: Scheduler) -> dict[str, Any]:
    """Drop what nobody needs; returns {"snapshots", "layers", "tasks"} as counts and "bytes" freed on disk."""
    async with runtime.changing_layers:
        kept, snapshots = _drop_snapshots(runtime)
        referenced = kept | runtime.layers_in_use() | runtime.bases.layers_in_use()
        swept = await asyncio.to_thread(runtime.layers.remove_unused_layers, referenced)
    limit = (datetime.now(UTC) - TASK_AGE).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    old = runtime.store.tasks_ended_before(limit)
    freed = swept.bytes
    for task in old:
        freed += await scheduler.discard(task)
    return {"snapshots": snapshots, "layers": swept.count, "tasks": len(old), "bytes": freed}


def _drop_snapshots(runtime: Runtime) -> tuple[set[str], int]:
    """Forget expired snapshots; returns the layers of the others, and how many were dropped."""
    used, kept, dropped = runtime.layers_in_use(), set[str](), 0
    for snapshot in runtime.store.list_snapshots():
        if snapshot.expires <= time.time() and snapshot.layer not in used:
            runtime.store.remove_snapshot(snapshot.id)
            dropped += 1
        else:
            kept.add(snapshot.layer)
    return kept, dropped
