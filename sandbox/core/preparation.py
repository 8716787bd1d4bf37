"""What prepares a task's environment: the user's scripts, or what its repository's manifests ask for. Pure.

setup given              that script                            its maintenance script on a hit
setup ""                 nothing
no setup, a repository   the plan of the default branch's commit, where setup runs
                         … and on top that of the task's commit, where it is another one and no maintenance script is given
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from sandbox.core.autosetup.detect import detect
from sandbox.core.autosetup.plan import Plan
from sandbox.core.model import TaskSpec
from sandbox.core.source import Source


@dataclass(frozen=True)
class Preparation:
    """The scripts of one task; empty ones don't run. `automatic`: the plan that setup runs, None if the user decided."""

    setup: str
    given_maintenance: str
    automatic: Plan | None = None
    of_task: Plan | None = None

    @property
    def snapshot_inputs(self) -> Mapping[str, Any]:
        """What the snapshot depends on beside the task's own settings: the plan's script and the files that decided it."""
        if self.automatic is None or not self.setup:
            return MappingProxyType({})
        return {
            "automatic": self.setup,
            **{f"file:{path}": sha for path, sha in sorted(self.automatic.digests.items())},
        }

    def maintenance(self, hit: bool) -> str:
        """What runs once the task's commit is checked out: on a hit the user's script; else what that commit has otherwise."""
        if self.given_maintenance:
            return self.given_maintenance if hit else ""
        return self.of_task.script if self.of_task and self.differing else ""

    @property
    def differing(self) -> list[str]:
        """The manifests in which the task's commit differs from the one that setup ran on."""
        if self.automatic is None or self.of_task is None:
            return []
        one, other = self.automatic.digests, self.of_task.digests
        return sorted(path for path in one.keys() | other.keys() if one.get(path) != other.get(path))

    @property
    def excludes(self) -> list[str]:
        """Patterns of .gitignore for what was installed into the work tree."""
        plans = [plan for plan in (self.automatic, self.of_task) if plan is not None]
        return list(dict.fromkeys(pattern for plan in plans for pattern in plan.excludes))

    def notices(self, hit: bool | None) -> list[str]:
        """What the user should know: before setup (None) what was detected, after it what the task's commit has otherwise."""
        if hit is None:
            return self.automatic.explain() if self.automatic else []
        if not self.maintenance(hit) or self.given_maintenance or self.of_task is None:
            return []
        names = ", ".join(self.differing[:5]) + (", …" if len(self.differing) > 5 else "")
        first = f"the task's commit differs in {names}: its own automatic setup runs as maintenance"
        return [first, *self.of_task.explain()]


def prepare(spec: TaskSpec, source: Source | None) -> Preparation:
    """What prepares a task on this source."""
    maintenance = spec.maintenance or ""
    if spec.setup is not None or source is None:
        return Preparation(spec.setup or "", maintenance)
    automatic = detect(source.default_manifests)
    same = source.default_manifests == source.manifests
    of_task = automatic if same else detect(source.manifests)
    return Preparation(automatic.script, maintenance, automatic, of_task)
