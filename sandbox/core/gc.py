"""Garbage collection: snapshots that have expired or are too many, layers that nothing stands on, tasks that ended long ago.

Never what is in use: what a task stands on stays until it ends.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rootfs import git_sweep, package_cache
from rootfs.errors import ImageError
from rootfs.store import Swept
from sandbox.core import damage
from sandbox.core.errors import TaskError
from sandbox.core.model import Snapshot
from sandbox.core.runtime import Runtime

if TYPE_CHECKING:
    from sandbox.core.scheduler import Scheduler

_log = logging.getLogger("hutch")
TASK_AGE: Final = timedelta(days=7)
_MIRROR_AGE: Final = 60 * 86400.0  # seconds without a task: longer than any task, or its result, is kept
_INTERVAL: Final = 3600.0  # seconds between collections that nobody asked for
_FIRST: Final = 60.0
_LOW: Final = 0.05  # of the disk: with less free, snapshots go before they expire


@dataclass(frozen=True)
class Wanted:
    """What is to go beside what has expired: what is older than `older_than` seconds, all but the newest `keep` snapshots of each
    origin, and the oldest snapshots until `free` bytes of the disk are free.
    """

    older_than: float | None = None
    keep: int | None = None
    free: int = 0


async def collect(runtime: Runtime, scheduler: Scheduler, wanted: Wanted = Wanted()) -> dict[str, Any]:
    """Drop what nobody needs; returns {"snapshots", "layers", "tasks"} as counts and "bytes" freed on disk."""
    await runtime.kept()
    used, moment = runtime.layers_in_use(), time.time()
    idle = [one for one in runtime.store.list_snapshots() if one.layer not in used]
    doomed = unwanted(idle, wanted, moment)
    dropped = await drop(runtime, doomed)
    dropped["bytes"] += await asyncio.to_thread(package_cache.sweep, runtime.state)
    dropped["bytes"] += await asyncio.to_thread(git_sweep.sweep, runtime.state, _MIRROR_AGE)
    for task in runtime.store.tasks_ended_before(_before(wanted)):
        dropped["bytes"] += await scheduler.discard(task)
        dropped["tasks"] += 1
    for snapshot in reversed([one for one in idle if one not in doomed]):  # the oldest first
        if _free(runtime.state) >= wanted.free:
            break
        more = await drop(runtime, [snapshot])
        dropped = {name: count + more[name] for name, count in dropped.items()}
    return dropped


def unwanted(snapshots: Sequence[Snapshot], wanted: Wanted, moment: float) -> list[Snapshot]:
    """Those of `snapshots` (newest first) that have expired, are too old or too many."""
    found, counts = [], Counter[tuple[str | None, ...]]()
    for one in snapshots:
        origin = (one.environment, one.repo, one.runtime, one.image_digest if one.runtime else None)
        too_old = wanted.older_than is not None and moment - one.created > wanted.older_than
        if one.expires <= moment or too_old or (wanted.keep is not None and counts[origin] >= wanted.keep):
            found.append(one)
        else:
            counts[origin] += 1
    return found


def _before(wanted: Wanted) -> str:
    age = TASK_AGE if wanted.older_than is None else timedelta(seconds=wanted.older_than)
    return (datetime.now(UTC) - age).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _free(state: Path) -> int:
    disk = os.statvfs(state)
    return disk.f_bavail * disk.f_frsize


async def drop(runtime: Runtime, snapshots: Sequence[Snapshot]) -> dict[str, int]:
    """Forget snapshots and remove their layers, but those that a task stands on: they go with the next collection."""
    async with runtime.changing_layers:
        for snapshot in snapshots:
            runtime.store.remove_snapshot(snapshot.id)
            runtime.looked_at.discard(snapshot.id)
        kept = {snapshot.layer for snapshot in runtime.store.list_snapshots()}
        referenced = kept | runtime.layers_in_use() | runtime.bases.layers_in_use()
        swept: Swept = await asyncio.to_thread(runtime.layers.remove_unused_layers, referenced)
    return {"snapshots": len(snapshots), "layers": swept.count, "tasks": 0, "bytes": swept.bytes}


async def drop_damaged(runtime: Runtime, snapshot: Snapshot) -> None:
    """Drop one whose files aren't what they were. Never raises for files that can't be removed: nobody finds them any more."""
    name = snapshot.runtime or snapshot.environment or "a task"
    _log.warning("the files of the snapshot %s of %s are damaged: it is dropped", snapshot.id[:12], name)
    try:
        await drop(runtime, [snapshot])
    except (TaskError, ImageError, OSError) as error:
        _log.warning("cannot remove the files of the snapshot %s: %s", snapshot.id[:12], error)


async def look_for_damage(runtime: Runtime) -> None:
    """Drop every snapshot whose files aren't what they were."""
    for snapshot in runtime.store.list_snapshots():
        if not any(one.id == snapshot.id for one in runtime.store.list_snapshots()):
            continue  # it was dropped while the ones before were looked at
        if await damage.is_damaged(runtime, snapshot, again=True):
            await drop_damaged(runtime, snapshot)


async def keep_tidy(runtime: Runtime, scheduler: Scheduler) -> None:
    """Collect and look for damage, soon after the start and every hour, until cancelled; with little room left, collect as much
    as makes some."""
    pause = _FIRST
    while True:
        await asyncio.sleep(pause)
        pause = _INTERVAL
        disk = os.statvfs(runtime.state)
        try:
            done = await collect(runtime, scheduler, Wanted(free=int(disk.f_blocks * disk.f_frsize * _LOW)))
            await look_for_damage(runtime)
        except (TaskError, ImageError, OSError) as error:
            _log.warning("cannot collect garbage: %s", error)
        else:
            if done["bytes"]:
                _log.info("dropped what nobody needs: %(snapshots)d snapshots, %(tasks)d tasks, %(bytes)d bytes", done)
