"""All ecosystems put together: what the git job found in a commit → the plan of its setup. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sandbox.core.autosetup import golang, javascript, jvm, php, python, ruby, rust
from sandbox.core.autosetup.plan import MOST_STEPS, Plan, Step
from sandbox.core.autosetup.tree import Tree

_ECOSYSTEMS: Final = (python, javascript, golang, rust, ruby, php, jvm)
_MOST_NOTES: Final = 20


def detect(found: Mapping[str, Any]) -> Plan:
    """The plan for what rootfs/git_manifests.py read of a commit: the root's steps first, then those of the folders below."""
    tree = Tree.parse(found)
    everything = [it for ecosystem in _ECOSYSTEMS for it in ecosystem.steps(tree)]
    steps = [it for it in everything if isinstance(it, Step)]
    notes = [it for it in everything if isinstance(it, str)]
    order = {folder.path: place for place, folder in enumerate(tree.folders)}
    steps.sort(key=lambda step: order[step.folder.path])
    unreadable = [file["path"] for file in found["files"] if file["facts"].get("unreadable")]
    notes += [f"{path} can't be read, or is too large" for path in unreadable]
    if len(steps) > MOST_STEPS:
        notes.append(f"{len(steps) - MOST_STEPS} more projects are left out, beginning with {steps[MOST_STEPS].name}")
    if tree.cut and steps:
        notes.append("the repository has more folders than were looked into")
    return Plan(tuple(steps[:MOST_STEPS]), tuple(notes[:_MOST_NOTES]))
