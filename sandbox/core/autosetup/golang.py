"""Go: modules and workspaces. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Tree


def steps(tree: Tree) -> Iterator[Step | str]:
    """`go mod download` for each module, once for the modules of a workspace."""
    members: set[str] = set()
    for folder in tree.folders:
        reason = folder.first("go.work", "go.sum", "go.mod")
        if reason is None or folder.path in members:
            continue
        mine = tuple(tree.members(folder, folder.texts("go.work", "members")))
        members.update(member.path for member in mine)
        if "vendor" in folder.made:
            yield f"{folder.path or '.'}/vendor is in the repository, no Go module is downloaded there"
        elif folder.has("go.work", "go.mod"):
            yield Step(
                folder, "go mod download", reason, ("go mod download",), ("hutch_apt go golang-go ca-certificates",),
                ("go.work", "go.mod", "go.sum"), members=mine,
            )  # fmt: skip
