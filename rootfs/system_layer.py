"""Layers that Hutch itself makes: small trees of files, named by the digest of their content.

Must not contain anything from an archive or a sandbox: these are written without a cage.
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rootfs.errors import ImageError, shown
from rootfs.store import Store
from rootfs.tree import measure_tree
from rootfs.write_layer import REAL_DIRECTORIES

_EPOCH = 0
_PATH = re.compile(r"[^/\0]+(/[^/\0]+)*")


@dataclass(frozen=True, slots=True)
class Link:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, slots=True)
class File:
    """A regular file with a mode of its own (bytes alone mean 0644)."""

    data: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Directory:
    """A directory, for those that would otherwise stay empty or need a mode or an owner of their own."""

    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)


Content = bytes | File | Link | Directory


def make_system_layer(store: Store, files: Mapping[str, Content]) -> str:
    """Make a layer of these files (paths relative to the root, owner 0:0 unless said, parents 0755); returns its id.

    The same content gives the same id and is written once. Times are 1970, so that they don't depend on when.
    """
    with store.new_staging() as staging:
        tree = staging / "layer"
        tree.mkdir(mode=0o755)
        for path, content in sorted(files.items()):
            parts = path.split("/")
            if not _PATH.fullmatch(path) or "." in parts or ".." in parts:
                raise ImageError(f"cannot put {shown(path)} into a layer", "use a plain relative path")
            _make(tree, path, content)
        for directory, _, names in os.walk(tree, topdown=False):
            for name in names:
                os.utime(f"{directory}/{name}", (_EPOCH, _EPOCH), follow_symlinks=False)
            os.utime(directory, (_EPOCH, _EPOCH))
        tree.chmod(0o755)
        layer = measure_tree(tree).digest
        store.commit_layer(tree, layer)
    return layer


def _make(tree: Path, path: str, content: Content) -> None:
    target = tree
    for part in path.split("/")[:-1]:
        target = target / part
        if not target.is_dir():
            target.mkdir()
            target.chmod(0o755)
    target = tree / path
    if isinstance(content, Link):
        target.symlink_to(content.target)
    elif isinstance(content, Directory):
        target.mkdir(exist_ok=True)
        target.chmod(content.mode)
        if content.owner != (0, 0):
            os.chown(target, *content.owner)
    else:
        file = content if isinstance(content, File) else File(content)
        target.write_bytes(file.data)
        target.chmod(file.mode)


def skeleton_layer(store: Store, layers: Sequence[str]) -> list[str]:
    """The layer to put below `layers` so that every directory the sandbox needs is there; none when nothing is missing."""
    paths = [store.layer_path(layer) for layer in layers]
    missing = [name for name in REAL_DIRECTORIES if not any((path / name).is_dir() for path in paths)]
    if not missing:
        return []
    content = {name: Directory(0o1777 if name == "tmp" else 0o755) for name in missing}
    return [make_system_layer(store, content)]
