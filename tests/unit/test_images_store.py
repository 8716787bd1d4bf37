"""The store and its records without root: names, atomic replacement, locks, sweeping, deleting hostile trees.

Must not need privileges: what is owned by others is tested in tests/root.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest

from rootfs.errors import ArchiveError, ImageError
from rootfs.image import Image, ImageConfig, check_layer_id, check_name
from rootfs.store import Store
from rootfs.tree import measure_tree, remove_tree, tree_size, walk

LAYER = "ab" * 32
OTHER = "cd" * 32


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def add_layer(store: Store, layer: str = LAYER, text: str = "x") -> None:
    with store.new_staging() as staging:
        (staging / "tree").mkdir()
        (staging / "tree/file").write_text(text)
        store.commit_layer(staging / "tree", layer)


def image(name: str = "base", layers: tuple[str, ...] = (LAYER,)) -> Image:
    return Image(name, layers, ImageConfig(), "2026-01-01T00:00:00Z", 1, "test")


def test_a_record_comes_back_as_it_was(store: Store) -> None:
    add_layer(store)
    store.save(image())
    assert store.load("base") == image()
    assert store.list_images() == [image()]
    assert set(json.loads((store.images / "base.json").read_text())) == {
        "name", "digest", "layers", "config", "created", "size", "source",
    }  # fmt: skip


def test_the_digest_stands_for_layers_and_config() -> None:
    first = image()
    assert first.digest == dataclasses.replace(first, name="other", created="", source="").digest
    assert first.digest != dataclasses.replace(first, layers=(OTHER,)).digest
    assert first.digest != dataclasses.replace(first, config=ImageConfig(workdir="/x")).digest


@pytest.mark.parametrize("name", ["", "A", ".x", "-x", "a/b", "../a", "a" * 65, "a\n", "a b", "ä"])
def test_names_that_arent_names(name: str, store: Store) -> None:
    for use in (check_name, store.load, store.remove):
        with pytest.raises(ImageError, match="name"):
            use(name)


@pytest.mark.parametrize("layer", ["", "x", "../" + "a" * 61, "AB" * 32, "a" * 63, None, 5])
def test_ids_that_arent_ids(layer: object) -> None:
    with pytest.raises(ImageError, match="64 hex digits"):
        check_layer_id(layer)


def test_a_missing_image_is_named(store: Store) -> None:
    with pytest.raises(ImageError, match="no image named 'nope'"):
        store.load("nope")
    with pytest.raises(ImageError, match="no image named 'nope'"):
        store.remove("nope")


def test_an_image_without_its_layer_is_not_saved(store: Store) -> None:
    with pytest.raises(ImageError, match="is missing"):
        store.save(image())
    assert store.list_images() == []


def test_a_damaged_record_is_an_error_with_a_remedy(store: Store) -> None:
    for text in ("{", "[]", '{"layers": "x"}', '{"layers": ["../../etc"], "name": "base"}'):
        (store.images / "base.json").write_text(text)
        with pytest.raises(ImageError):
            store.load("base")


def test_a_layer_is_committed_once(store: Store) -> None:
    add_layer(store, text="first")
    add_layer(store, text="second")
    assert (store.layer_path(LAYER) / "file").read_text() == "first"
    assert list(store.staging.iterdir()) == []


def test_unused_layers_go_and_others_stay(store: Store) -> None:
    for layer in (LAYER, OTHER, "ef" * 32):
        add_layer(store, layer)
    store.save(image())
    assert store.unused_layers({OTHER}) == ["ef" * 32]
    with store.keep_layers():
        assert store.remove_unused_layers({OTHER}).count == 0
    assert store.remove_unused_layers({OTHER}).count == 1
    assert store.has_layer(LAYER)
    assert store.has_layer(OTHER)
    assert store.remove_unused_layers(set()).bytes > 0
    assert sorted(path.name for path in store.layers.iterdir()) == [LAYER]


def test_staging_is_swept_unless_in_use(store: Store) -> None:
    (store.staging / "left").mkdir()
    (store.staging / "left/file").write_text("x" * 10000)
    (store.images / ".base.123.tmp").write_text("half")
    with store.new_staging() as staging:
        swept = store.sweep_staging()
        assert staging.is_dir()
    assert (swept.count, swept.bytes >= 10000) == (1, True)
    assert list(store.staging.iterdir()) == []
    assert list(store.images.iterdir()) == []


def test_staging_goes_when_the_work_fails(store: Store) -> None:
    with pytest.raises(FileNotFoundError), store.new_staging() as staging:
        (staging / "missing/file").write_text("x")
    assert list(store.staging.iterdir()) == []


BAD_CONFIGS = {
    "no value": {"Env": ["PATH"]},
    "a name with a space": {"Env": ["A B=1"]},
    "no name": {"Env": ["=1"]},
    "not strings": {"Env": [1]},
    "not a list": {"Env": "A=1"},
    "too many": {"Env": [f"A{n}=1" for n in range(600)]},
    "too long": {"Env": ["A=" + "x" * 200_000]},
    "a null byte": {"Env": ["A=\0"]},
    "half a character": {"Env": ["A=\ud800"]},
    "a relative directory": {"WorkingDir": "x"},
    "a climbing directory": {"WorkingDir": "/a/../../x"},
    "a directory with an escape sequence": {"WorkingDir": "/\x1b[31m"},
    "a strange user": {"User": "root\n"},
    "a user that is a path": {"User": "../x"},
    "an entrypoint of text": {"Entrypoint": "sh -c x"},
    "a command with a null byte": {"Cmd": ["a\0b"]},
    "a list": [],
}


@pytest.mark.parametrize("name", BAD_CONFIGS)
def test_configs_that_are_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        ImageConfig.from_oci(BAD_CONFIGS[name])


def test_a_config_is_read() -> None:
    value = {
        "Env": ["A=b=c", "npm.x-y=1"],
        "WorkingDir": "//srv/app/",
        "User": "app:1000",
        "Entrypoint": ["/e"],
        "Cmd": None,
    }
    config = ImageConfig.from_oci(value)
    assert config.env["A"] == "b=c"
    assert config.env["PATH"]
    assert (config.workdir, config.user, config.entrypoint, config.cmd) == ("/srv/app", "app:1000", ("/e",), ())
    assert ImageConfig.from_dict(config.to_dict()) == config
    assert ImageConfig.from_oci(None) == ImageConfig()


# deleting and walking


def nest(top: Path, depth: int) -> None:
    """Directories `depth` levels deep, longer than any path may be."""
    fd = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    with os.fdopen(os.open("file", os.O_WRONLY | os.O_CREAT, dir_fd=fd), "w") as file:
        file.write("deep")
    os.close(fd)


def test_a_tree_5000_levels_deep_is_walked_and_removed(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    nest(tmp_path / "tree", 5000)
    assert tree_size(tmp_path / "tree") == 4
    assert remove_tree(tmp_path / "tree").entries == 5002
    assert list(tmp_path.iterdir()) == []


def test_directories_without_rights_are_removed(tmp_path: Path) -> None:
    inner = tmp_path / "tree/a/b"
    inner.mkdir(parents=True)
    (inner / "file").write_text("x")
    for path in (inner, inner.parent, tmp_path / "tree"):
        path.chmod(0)
    remove_tree(tmp_path / "tree")
    assert list(tmp_path.iterdir()) == []


def test_links_are_removed_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    (tree / "hard").hardlink_to(outside / "precious")
    remove_tree(tree)
    (tmp_path / "top").symlink_to(outside)
    remove_tree(tmp_path / "top")
    remove_tree(tmp_path / "missing")
    remove_tree(tmp_path / "missing/below")
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]
    assert (outside / "precious").read_text() == "x"


def test_a_directory_of_many_entries(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(10_000):
        (tree / str(number)).touch()
    assert remove_tree(tree).entries == 10_001


def test_nothing_outside_is_deleted_while_links_are_swapped_in(tmp_path: Path) -> None:
    """Somebody exchanges directories for links to a precious one as fast as they can."""
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "sub/precious").write_text("x")
    stop = threading.Event()

    def swap() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                (tree / f"{number % 50}").rename(tree / f"moved{number}")
                (tree / f"{number % 50}").symlink_to(outside)
            except OSError:
                continue

    for _ in range(4):
        tree = tmp_path / "tree"
        for number in range(50):
            (tree / f"{number}/sub").mkdir(parents=True)
            (tree / f"{number}/sub/precious").touch()
        stop.clear()
        thread = threading.Thread(target=swap)
        thread.start()
        try:
            remove_tree(tree)
        except ImageError:
            pass  # it may say that the tree is changing; it may not delete the wrong thing
        finally:
            stop.set()
            thread.join(10)
        assert (outside / "sub/precious").exists()
        remove_tree(tree)


def test_a_link_swapped_in_at_the_worst_moment_is_not_entered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at a directory and its renaming, it becomes a link to a precious one."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    real = os.rename

    def rename(source: str, target: str, **fds: int) -> None:
        (tree / "sub").rmdir()
        (tree / "sub").symlink_to(outside)
        real(source, target, **fds)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(ImageError, match="cannot delete"):
        remove_tree(tree)
    assert (outside / "precious").read_text() == "x"
    monkeypatch.undo()
    remove_tree(tree)
    assert [path.name for path in tmp_path.iterdir()] == ["outside"]


def test_the_digest_sees_everything_but_times(tmp_path: Path) -> None:
    def make(place: str, **changes: object) -> str:
        tree = tmp_path / place
        (tree / "sub").mkdir(parents=True)
        (tree / "sub/file").write_text(str(changes.get("text", "x")))
        (tree / "sub/file").chmod(int(str(changes.get("mode", 0o644))))
        (tree / "link").symlink_to(str(changes.get("target", "a")))
        (tree / str(changes.get("file", "n"))).touch()
        os.utime(tree / "sub/file", (0, int(str(changes.get("time", 0)))))
        return measure_tree(tree).digest

    first = make("first")
    assert first == make("second", time=1000)
    changed = [make("a", text="y"), make("b", mode=0o755), make("c", target="b"), make("d", file="m")]
    assert len({first, *changed}) == 5


def test_walking_gives_parents_first_and_stays_on_paths(tmp_path: Path) -> None:
    (tmp_path / "b/c").mkdir(parents=True)
    (tmp_path / "b/c/d").touch()
    (tmp_path / "a").symlink_to("b")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        assert [found.path for found in walk(fd)] == ["a", "b", "b/c", "b/c/d"]
    finally:
        os.close(fd)
