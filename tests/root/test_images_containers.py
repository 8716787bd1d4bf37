"""Importing docker and OCI archives for real: every layout, layers and their deletions, and the broken ones.

Must not mount: the merged view is read by rootfs/read_image.py, the form of whiteouts is looked at.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from rootfs.read_image import read_from_image
from rootfs.store import Store
from tests.support.archives import OTHER, Layer, directory, docker_save, member, oci, sha256, small_root, symlink, tar
from tests.support.images import load, refused

FORMS = ("", "gzip", "xz", "zstd")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def upper() -> bytes:
    """A second layer: deletes, replaces, hides a directory."""
    return tar(
        directory(b"etc/"),
        member(b"etc/.wh.passwd"),
        directory(b"usr/"),
        directory(b"usr/bin/"),
        member(b"usr/bin/.wh..wh..opq"),
        member(b"usr/bin/new", b"2"),
        member(b".wh.gone"),
        directory(b"gone/"),
        member(b"gone/fresh", b"3"),
    )


CONFIG = {"Env": ["A=1"], "WorkingDir": "/srv", "User": "app", "Entrypoint": ["/e"], "Cmd": ["c"]}


def containers() -> dict[str, bytes]:
    """The same image in every layout."""
    lower, middle = (
        Layer.of(small_root(), "gzip"),
        Layer.of(tar(member(b"gone/old", b"0"), member(b"usr/bin/old", b"0")), "zstd"),
    )
    top = Layer.of(upper())
    plain = [Layer.of(item.tar) for item in (lower, middle, top)]
    return {
        "docker": docker_save(plain, CONFIG),
        "docker with OCI inside": oci(plain, CONFIG, docker=True),
        "oci": oci([lower, middle, top], CONFIG),
        "oci nested": oci([lower, middle, top], CONFIG, nested=True),
    }


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("layout", containers())
def test_every_layout_gives_the_same_image(layout: str, form: str, store: Store) -> None:
    image = load(store, containers()[layout], form)
    assert image.layers[-3] == sha256(small_root())
    assert image.layers[-1] == sha256(upper())
    assert image.config.to_dict()["env"]["A"] == "1"
    assert (image.config.workdir, image.config.user, image.config.entrypoint, image.config.cmd) == (
        "/srv",
        "app",
        ("/e",),
        ("c",),
    )
    assert read_from_image(store, image, "/etc/passwd") is None
    assert read_from_image(store, image, "/usr/bin/tool") is None
    assert read_from_image(store, image, "/usr/bin/old") is None
    assert read_from_image(store, image, "/bin/new") == b"2"
    assert read_from_image(store, image, "/gone/old") is None
    assert read_from_image(store, image, "/gone/fresh") == b"3"


def test_whiteouts_have_the_form_of_overlayfs(store: Store) -> None:
    image = load(store, containers()["oci"])
    top = store.layer_path(image.layers[-1])
    info = (top / "etc/passwd").lstat()
    assert stat.S_ISCHR(info.st_mode)
    assert info.st_rdev == 0
    assert os.getxattr(top / "usr/bin", "trusted.overlay.opaque") == b"y"
    assert os.getxattr(top / "gone", "trusted.overlay.opaque") == b"y"
    assert "trusted.overlay.opaque" not in os.listxattr(top / "etc")
    assert not [path for path in top.rglob("*") if path.name.startswith(".wh.")]


def test_equal_layers_are_stored_once(store: Store) -> None:
    twice = Layer.of(small_root())
    image = load(store, docker_save([twice, Layer.of(tar(member(b"x"))), twice]))
    assert image.layers[-3] == image.layers[-1]
    assert len(list(store.layers.iterdir())) == 3
    before = {path: path.stat().st_ino for path in store.layers.iterdir()}
    load(store, oci([Layer.of(small_root(), "gzip")]), name="y")
    assert {path: path.stat().st_ino for path in store.layers.iterdir()} == before


def broken_containers() -> dict[str, tuple[bytes, str]]:
    good, other = Layer.of(small_root()), Layer.of(tar(member(b"x", b"1")))
    swapped = Layer(good.tar, other.stored)
    config = json.dumps({"architecture": "x", "os": "linux"}).encode()
    return {
        "another layer than its digest says": (docker_save([swapped]), "doesn't have the digest"),
        "another layer than its digest says, OCI": (oci([swapped]), "doesn't have the digest"),
        "a changed config": (
            docker_save([good], {"User": "a"}).replace(b'"User": "a"', b'"User": "b"'),
            "digest that is stated",
        ),
        "for another machine": (docker_save([good], architecture=OTHER), "isn't for linux on"),
        "no manifest": (tar(member(b"oci-layout", b"{}")), "neither index.json nor manifest.json"),
        "no images": (tar(member(b"manifest.json", b"[]")), "holds 0 images"),
        "two images": (tar(member(b"manifest.json", b"[{},{}]")), "holds 2 images"),
        "no JSON": (tar(member(b"index.json", b"{")), "isn't JSON"),
        "deep JSON": (tar(member(b"index.json", b"[" * 200_000)), "isn't JSON"),
        "a missing blob": (
            tar(member(b"index.json", json.dumps({"manifests": [{"digest": "sha256:" + "a" * 64}]}).encode())),
            "lacks 'blobs/sha256/aaa",
        ),
        "a digest that is a path": (
            tar(member(b"index.json", json.dumps({"manifests": [{"digest": "sha256:../../etc"}]}).encode())),
            "isn't sha256",
        ),
        "layers that climb": (
            tar(
                member(f"{sha256(config)}.json".encode(), config),
                member(
                    b"manifest.json", json.dumps([{"Config": f"{sha256(config)}.json", "Layers": ["../../x"]}]).encode()
                ),
            ),
            "isn't for linux",
        ),
        "a member twice": (tar(member(b"index.json", b"{}"), member(b"index.json", b"{}")), "twice"),
        "an environment that isn't one": (docker_save([good], {"Env": ["A B=1"]}), "a variable named"),
        "a relative working directory": (docker_save([good], {"WorkingDir": "x"}), "plain absolute path"),
        "a whiteout of /etc": (docker_save([good, Layer.of(tar(member(b".wh.etc")))]), "/etc isn't a directory"),
        "a whiteout of nothing": (docker_save([Layer.of(tar(member(b"a/.wh...")))]), "names no sibling"),
        "a layer that hides all": (docker_save([good, Layer.of(tar(member(b".wh..wh..opq")))]), "hides everything"),
        "an opaque mark through a link": (
            docker_save([Layer.of(tar(directory(b"d"), symlink(b"l", b"d"), member(b"l/.wh..wh..opq")))]),
            "reached through a link",
        ),
        "links in a circle": (
            tar(symlink(b"index.json", b"manifest.json"), symlink(b"manifest.json", b"index.json")),
            "neither|lacks",
        ),
    }


@pytest.mark.parametrize("name", broken_containers())
def test_broken_containers_are_refused(name: str, store: Store) -> None:
    data, words = broken_containers()[name]
    refused(store, data, words)
    refused(store, data, words, "gzip")


def test_the_writer_cannot_be_led_out_by_marks(store: Store, tmp_path: Path) -> None:
    """The opaque mark is set by the privileged process: never on a directory outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    data = tar(symlink(b"l", str(outside).encode()), directory(str(outside).encode()), member(b"l/.wh..wh..opq"))
    refused(store, docker_save([Layer.of(data)]), "reached through a link")
    assert os.listxattr(outside) == []
