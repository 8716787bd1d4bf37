"""What a task's agent has changed: a commit and a patch, which a job of the host reads out of the upper directory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sandbox.core.model import Task
from sandbox.core.source import Source
from sandbox.host import fault, jobs

_TIMEOUT: Final = 600.0
_SHOWN: Final = 20


async def make(
    state: Path, task: Task, found: Source, layers_top_first: Sequence[Path], writable: Path, excludes: Sequence[str], patch: Path
) -> Mapping[str, Any]:  # fmt: skip
    """Commit what is in `writable` beyond `layers_top_first`, and write the patch. Raises JobFailed."""
    request = {
        "op": "result", "state": str(state), "mirror": found.mirror, "base": found.commit,
        "upper": str(writable / "upper"), "workdir": found.workdir.lstrip("/"), "task": task.id,
        "lower": [str(layer) for layer in layers_top_first],
        "exclude": list(excludes),
        "message": f"Hutch task {task.id}\n\n{' '.join(task.spec.command)}\n",
        "output": str(patch),
    }  # fmt: skip
    result = await jobs.run("rootfs.git_job", request, _TIMEOUT)
    fault.at("task: result made")
    return result


def notices(result: Mapping[str, Any]) -> list[str]:
    """What the user should know of it: what couldn't be part of it, among it."""
    skipped = [f"not in the diff: {one['path']} ({one['reason']})" for one in result.get("skipped", ())[:_SHOWN]]
    return [*result.get("notices", ()), *skipped]
