"""What the digest of a layer's files notices and what it doesn't; and that the hourly round drops what is damaged."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rootfs.layer_digest import look
from rootfs.store import Store as LayerStore
from sandbox.core import gc
from sandbox.core.model import Snapshot
from sandbox.core.runtime import Runtime
from sandbox.core.store import Store

THEN = 1_000_000_000


def make(top: Path, *, backwards: bool = False) -> Path:
    """A small tree with names as strangers choose them."""
    names = ["a b", "a\nb", "-rf", os.fsdecode(b"\xff"), "z"]
    (top / "sub").mkdir(parents=True)
    for name in reversed(names) if backwards else names:
        (top / "sub" / name).write_text(name.encode("utf-8", "replace").decode())
    (top / "link").symlink_to("sub/z")
    os.mkfifo(top / "fifo")
    for path in [*top.rglob("*"), top]:
        os.utime(path, (THEN, THEN), follow_symlinks=False)
    return top


def replaced(top: Path) -> None:
    (top / "sub/z").unlink()
    (top / "sub/z").symlink_to("a b")


def relinked(top: Path) -> None:
    (top / "link").unlink()
    (top / "link").symlink_to("sub/y")
    os.utime(top / "link", (THEN, THEN), follow_symlinks=False)
    os.utime(top, (THEN, THEN))


def test_only_what_the_files_look_like_counts(tmp_path: Path) -> None:
    first = look(make(tmp_path / "one"))
    assert first == look(make(tmp_path / "other", backwards=True))
    subprocess.run(["cp", "-a", tmp_path / "one", tmp_path / "copy"], check=True, timeout=20)
    assert look(tmp_path / "copy") == first
    archive = ["tar", "-C", str(tmp_path / "one"), "-cf", str(tmp_path / "tar"), "."]
    subprocess.run(archive, check=True, timeout=20)
    (tmp_path / "unpacked").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "unpacked", "-xpf", tmp_path / "tar"], check=True, timeout=20)
    assert look(tmp_path / "unpacked") == first
    (tmp_path / "one/sub/z").write_text("Z")
    os.utime(tmp_path / "one/sub/z", (THEN, THEN))
    assert look(tmp_path / "one") == first, "what is documented as not noticed"


@pytest.mark.parametrize(
    "change",
    [
        lambda top: (top / "sub/z").unlink(),
        lambda top: (top / "sub/z").write_text(""),
        lambda top: os.truncate(top / "sub/z", 100),
        lambda top: (top / "sub/z").chmod(0o600),
        lambda top: (top / "sub/new").write_text(""),
        lambda top: (top / "sub/a b").rename(top / "sub/c"),
        lambda top: os.utime(top / "sub/z", (THEN, THEN + 1)),
        lambda top: top.chmod(0o700),
        replaced,
        relinked,
    ],
)
def test_damage_makes_another_digest(tmp_path: Path, change: Callable[[Path], None]) -> None:
    first = look(make(tmp_path / "one"))
    change(tmp_path / "one")
    assert look(tmp_path / "one") != first


def test_the_hourly_round_drops_what_is_damaged(tmp_path: Path) -> None:
    store, layers = Store(tmp_path / "hutch.db"), LayerStore(tmp_path)
    unused: Any = dict.fromkeys(("sandboxes", "default_limits", "ceiling", "registries", "secrets"))
    bases: Any = SimpleNamespace(layers_in_use=set)
    runtime = Runtime(tmp_path, store, layers, bases, changing_layers=asyncio.Lock(), **unused)

    def kept(name: str, digest: str | None = "") -> Path:
        layer = name * 64
        make(layers.layer_path(layer))
        seen = look(layers.layer_path(layer)) if digest == "" else digest
        fields: dict[str, Any] = {"repo": None, "commit": None, "environment": name, "checkout": None, "inputs": {}}
        store.add_snapshot(
            Snapshot(id=layer, key=layer, image_digest="i", layer=layer, created=0, expires=9e9, digest=seen, **fields)
        )
        return layers.layer_path(layer)

    kept("a")
    (kept("b") / "link").unlink()
    (kept("c") / "link").unlink()
    (kept("d", None) / "link").unlink()
    with runtime.using("c" * 64):
        asyncio.run(gc.look_for_damage(runtime))
    assert {one.id[0] for one in store.list_snapshots()} == {"a", "d"}
    assert {path.name[0] for path in layers.layers.iterdir()} == {"a", "c", "d"}, "a task stands on c"
    store.close()
