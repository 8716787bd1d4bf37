"""What running tasks use right now, and the daemon's totals in the text form that Prometheus reads."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from sandbox.core.access import User, name_of
from sandbox.core.run_task import TaskRun
from sandbox.core.runtime import Runtime
from sandbox.core.scheduler import Scheduler
from sandbox.host import disk
from sandbox.host.cgroup import CgroupError


def of_tasks(runtime: Runtime, scheduler: Scheduler, user: User) -> list[dict[str, Any]]:
    """A user's tasks that have not ended, oldest first; to root, everybody's. Blocking, for a millisecond each."""
    runs = [run for run in scheduler.running() if user.sees_only in (None, run.task.spec.owner)]
    return [_of_task(runtime, run) for run in sorted(runs, key=lambda run: run.task.created)]


def _of_task(runtime: Runtime, run: TaskRun) -> dict[str, Any]:
    task, sandbox = run.task, run.context.sandbox
    limits = task.spec.limits or runtime.default_limits
    used: dict[str, Any] = {"memory": 0, "memory_peak": 0, "cpu": 0.0, "pids": 0}
    if sandbox is not None:
        with contextlib.suppress(CgroupError, OSError):  # it ends just now
            stats = sandbox.lease.group.stats()
            used = {name: getattr(stats, name) for name in used}
    network = run.network.summary()
    return {
        "task": task.id,
        "owner": name_of("user", task.spec.owner),
        "state": task.state,
        "phase": run.context.phase if sandbox is not None else None,
        "started": task.started,
        "command": list(task.spec.command),
        **used,
        "limits": {"memory": limits.memory, "cpus": limits.cpus, "pids": limits.pids},
        "network": {"bytes": run.network.bytes, "allowed": network["allowed"], "denied": len(network["denied"])},
    }


def metrics(runtime: Runtime, scheduler: Scheduler, tasks: Iterable[Mapping[str, Any]]) -> str:
    """The totals of the daemon. Names of tenants and of what they reach are in none."""
    return "".join(_lines(runtime, scheduler, list(tasks)))


def _lines(runtime: Runtime, scheduler: Scheduler, tasks: list[Mapping[str, Any]]) -> Iterator[str]:
    states = Counter(str(one["state"]) for one in tasks)
    yield from _metric("hutch_tasks", "gauge", "Tasks that have not ended, by state.", _by("state", states))
    yield from _metric(
        "hutch_tasks_ended_total", "counter", "Tasks that ended, by state.", _by("state", scheduler.ended)
    )
    for name, what in (("memory", "bytes"), ("pids", "processes")):
        total = sum(one[name] for one in tasks)
        yield from _metric(f"hutch_{name}_{what}", "gauge", f"What running sandboxes use: {what}.", {"": total})
    free = disk.free(runtime.state)
    yield from _metric("hutch_disk_free_bytes", "gauge", "What is free where the state is.", {"": free.bytes})
    yield from _metric("hutch_disk_free_files", "gauge", "Inodes that are free there.", {"": free.files})
    snapshots = len(runtime.store.list_snapshots())
    yield from _metric("hutch_snapshots", "gauge", "Cached states and layers of runtimes.", {"": snapshots})


def _by(label: str, counts: Mapping[str, int]) -> dict[str, float]:
    return {f'{{{label}="{name}"}}': count for name, count in sorted(counts.items())}


def _metric(name: str, kind: str, text: str, values: Mapping[str, float]) -> Iterator[str]:
    yield f"# HELP {name} {text}\n# TYPE {name} {kind}\n"
    for labels, value in values.items():
        yield f"{name}{labels} {value}\n"
