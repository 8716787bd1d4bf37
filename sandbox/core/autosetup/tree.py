"""The facts that the git job found, as ecosystems look at them: folders with their manifests, members of workspaces. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Manifest:
    """A manifest or lock file: its path in the repository, git's id of its content, what it says."""

    path: str
    id: str
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Folder:
    """A folder of the repository that has manifests; `path` is empty for the root. `made`: see rootfs/git_manifests.py."""

    path: str
    manifests: Mapping[str, Manifest]
    made: frozenset[str]

    def has(self, *names: str) -> bool:
        """Whether one of these files is there."""
        return any(name in self.manifests for name in names)

    def first(self, *names: str) -> str | None:
        """The first of these files that is there."""
        return next((name for name in names if name in self.manifests), None)

    def fact(self, name: str, fact: str) -> Any:
        """What the file `name` says; None if it says nothing, or isn't there."""
        return self.manifests[name].facts.get(fact) if name in self.manifests else None

    def texts(self, name: str, fact: str) -> Sequence[str]:
        """The same for a list of texts."""
        return self.fact(name, fact) or ()


@dataclass(frozen=True)
class Tree:
    """All folders, those nearer to the root first. `cut`: the repository has more than were looked into."""

    folders: tuple[Folder, ...] = ()
    cut: bool = False

    @classmethod
    def parse(cls, found: Mapping[str, Any]) -> Tree:
        """Of the git job's answer."""
        made = frozenset(found["made"])
        grouped: dict[str, dict[str, Manifest]] = {}
        for file in found["files"]:
            folder, _, name = file["path"].rpartition("/")
            grouped.setdefault(folder, {})[name] = Manifest(file["path"], file["id"], file["facts"])
        paths = sorted(grouped, key=lambda path: (path.count("/") + bool(path), path))
        folders = (Folder(path, grouped[path], frozenset(_directly(made, path))) for path in paths)
        return cls(tuple(folders), found["cut"])

    def below(self, folder: Folder) -> Iterable[tuple[str, Folder]]:
        """The folders in `folder`, with their paths from there."""
        prefix = f"{folder.path}/" if folder.path else ""
        return [
            (it.path[len(prefix) :], it) for it in self.folders if it.path != folder.path and it.path.startswith(prefix)
        ]

    def members(self, folder: Folder, patterns: Sequence[str]) -> list[Folder]:
        """The folders below `folder` that a workspace's patterns name: `packages/*`, `apps/**`, `!packages/old`."""
        return [member for path, member in self.below(folder) if _named(path, patterns)]


def _directly(made: Iterable[str], path: str) -> Iterable[str]:
    prefix = f"{path}/" if path else ""
    return (it[len(prefix) :] for it in made if it.startswith(prefix))


def _named(path: str, patterns: Sequence[str]) -> bool:
    named = False
    for pattern in patterns:
        if _matches(path, pattern.removeprefix("!")):
            named = not pattern.startswith("!")
    return named


def _matches(path: str, pattern: str) -> bool:
    parts = [part for part in pattern.strip("/").split("/") if part not in ("", ".")]
    return _fits(path.split("/"), parts)


def _fits(names: Sequence[str], parts: Sequence[str]) -> bool:
    """Both are short: paths have three names at most, and a star takes what it can in one of them."""
    if not parts:
        return not names
    if parts[0] == "**":
        return any(_fits(names[taken:], parts[1:]) for taken in range(len(names) + 1)) if parts[1:] else True
    return bool(names) and _glob(parts[0]).fullmatch(names[0]) is not None and _fits(names[1:], parts[1:])


def _glob(part: str) -> re.Pattern[str]:
    """One name with stars. Every star but the last takes as little as lets the next piece fit, and never tries again."""
    first, *rest = part.split("*")
    if not rest:
        return re.compile(re.escape(first))
    middle = "".join(f"(?>.*?{re.escape(piece)})" for piece in rest[:-1] if piece)
    return re.compile(re.escape(first) + middle + ".*" + re.escape(rest[-1]))
