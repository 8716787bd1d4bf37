"""What prepares a task's environment: the user's scripts, or what its repository's manifests ask for. Pure.

setup given              that script; on a hit, the maintenance script
setup ""                 nothing
no setup, a repository   the plan of the default branch's commit, where setup runs; on top of it, unless a maintenance
                         script is given, what the task's own commit asks for beyond that
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sandbox.core.autosetup.detect import detect
from sandbox.core.autosetup.plan import Plan
from sandbox.core.model import TaskSpec
from sandbox.core.source import Source

_NONE: Final = Plan()


@dataclass(frozen=True)
class Preparation:
    """The scripts of one task; empty ones don't run. `automatic`: the plan behind `setup`, `on_top`: what the task's commit
    asks for beyond it; both empty where the user decided."""

    setup: str = ""
    given_maintenance: str = ""
    automatic: Plan = _NONE
    on_top: Plan = _NONE

    @property
    def snapshot_inputs(self) -> Mapping[str, str]:
        """What the snapshot depends on beside the task's own settings: the plan's script and the files that decided it."""
        if not self.automatic.steps:
            return MappingProxyType({})
        return {"automatic": self.setup, **{f"file:{path}": sha for path, sha in self.automatic.digests.items()}}

    def maintenance(self, hit: bool) -> str:
        """What runs once the task's commit is checked out: on a hit the user's script; else what that commit asks for beyond."""
        if self.given_maintenance:
            return self.given_maintenance if hit else ""
        return self.on_top.script

    @property
    def excludes(self) -> list[str]:
        """Patterns of .gitignore for what was installed into the work tree."""
        return list(dict.fromkeys((*self.automatic.excludes, *self.on_top.excludes)))

    def explain(self) -> list[str]:
        """Lines for the user: what was detected, and what the task's commit has beyond that."""
        if self.given_maintenance or not self.on_top.steps:
            return self.automatic.explain()
        before = self.automatic.digests
        names = [path for path, sha in self.on_top.digests.items() if before.get(path) != sha]
        listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
        on_top = f"the task's commit has another {listed}: what it asks for is installed as maintenance"
        return [*self.automatic.explain(), on_top, *self.on_top.explain()]


def prepare(spec: TaskSpec, source: Source | None) -> Preparation:
    """What prepares a task on this source."""
    maintenance = spec.maintenance or ""
    if spec.setup is not None or source is None:
        return Preparation(spec.setup or "", maintenance)
    automatic = detect(source.default_manifests)
    same = source.default_manifests == source.manifests
    on_top = _NONE if same or maintenance else detect(source.manifests).beyond(automatic)
    return Preparation(automatic.script, maintenance, automatic, on_top)
