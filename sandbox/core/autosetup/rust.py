"""Cargo. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Folder, Tree


def steps(tree: Tree) -> Iterator[Step | str]:
    """`cargo fetch` for each package, once for the packages of a workspace."""
    members: set[str] = set()
    for folder in tree.folders:
        if not folder.has("Cargo.toml") or folder.path in members:
            continue
        mine = _members(tree, folder)
        members.update(member.path for member in mine)
        locked = folder.has("Cargo.lock")
        commands = ("cargo fetch --locked",) if locked else ("cargo fetch", "hutch_drop Cargo.lock")
        yield Step(
            folder, commands[0], "Cargo.lock" if locked else "Cargo.toml", commands, ("hutch_apt cargo cargo",),
            ("Cargo.toml", "Cargo.lock"), members=mine,
        )  # fmt: skip


def _members(tree: Tree, folder: Folder) -> tuple[Folder, ...]:
    """Paths that a package of a workspace depends on belong to it without being named: whoever has no lock file of its own."""
    if not folder.fact("Cargo.toml", "workspace"):
        return ()
    named = {member.path for member in tree.members(folder, folder.texts("Cargo.toml", "members"))}
    excluded = {member.path for member in tree.members(folder, folder.texts("Cargo.toml", "exclude"))}
    packages = [it for _, it in tree.below(folder) if it.has("Cargo.toml") and it.path not in excluded]
    return tuple(it for it in packages if it.path in named or not it.has("Cargo.lock"))
