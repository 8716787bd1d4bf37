"""Importing plain root filesystems for real: what arrives on disk, what is refused, and that nothing else is touched.

Must not mount; the states are the tests' own. Judged by looking at the layers, not by what the job says.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from rootfs.read_image import read_from_image
from rootfs.store import Store
from rootfs.tree import measure_tree
from tests.support.archives import directory, hardlink, member, pax, sha256, small_root, symlink, tar, write
from tests.support.images import load, refused

FORMS = ("", "gzip", "xz", "zstd")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def layer(store: Store, data: bytes) -> Path:
    """The single layer of a plain tar; missing directories are another one's."""
    return store.layer_path(load(store, data).layers[-1])


@pytest.mark.parametrize("form", FORMS)
def test_a_plain_root_filesystem(form: str, store: Store) -> None:
    image = load(store, small_root(), form)
    assert image.layers[-1] == sha256(small_root())
    assert read_from_image(store, image, "/etc/passwd") == b"root:x:0:0::/root:/bin/sh\n"
    assert read_from_image(store, image, "bin/tool") == b"#!/bin/sh\n"
    assert read_from_image(store, image, "/bin/nothing") is None
    assert store.load("x") == image
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_a_tree_arrives_as_it_was(form: str, store: Store, tmp_path: Path) -> None:
    """GNU tar packs a tree with everything in it; the digests of the tree and of the layer are the same."""
    tree = tmp_path / "tree"
    for path in ("etc", "tmp", "run", "dev", "proc", "sys", "usr/lib/deep/er", "n" * 200):
        (tree / path).mkdir(parents=True)
    (tree / "usr/lib/file").write_bytes(os.urandom(3_000_000))
    (tree / "usr/lib/setuid").write_text("x")
    os.chown(tree / "usr/lib/setuid", 33, 44)
    (tree / "usr/lib/setuid").chmod(0o6755)
    (tree / "usr/lib/hard").hardlink_to(tree / "usr/lib/file")
    (tree / "lib").symlink_to("usr/lib")
    os.chown(tree / "lib", 1, 2, follow_symlinks=False)
    os.mkfifo(tree / "fifo", 0o620)
    (tree / "tmp").chmod(0o1777)
    os.chown(tree / "usr/lib/deep", 65535, 50)
    (tree / "usr/lib/deep").chmod(0o2770)
    (tree / "usr/lib/deep/inherits").write_text("x")
    (tree / "usr/lib/unwritable").mkdir()
    (tree / "usr/lib/unwritable/file").write_text("x")
    (tree / "usr/lib/unwritable").chmod(0o500)
    with (tree / "sparse").open("wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
    (tree / "name \udcff\n\x1b").write_text("x")
    if form == "pax":
        os.setxattr(tree / "usr/lib/file", "security.capability", CAPABILITY)
        os.setxattr(tree / "usr/lib/deep", "user.note", b"\0binary")
    command = [
        "tar",
        f"--format={form}",
        "--xattrs",
        "--xattrs-include=*",
        "--sparse",
        "--numeric-owner",
        "-C",
        str(tree),
        "-c",
        ".",
    ]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    made = layer(store, data)
    assert measure_tree(made) == measure_tree(tree)
    for path in ("usr/lib/file", "usr/lib/deep", "etc"):
        assert (made / path).stat().st_mtime == pytest.approx((tree / path).stat().st_mtime, abs=1.0)
    assert (made / "sparse").stat().st_blocks < 1000


def test_missing_directories_are_added_below(store: Store) -> None:
    image = load(store, tar(member(b"hello", b"x")))
    assert len(image.layers) == 2
    bottom = store.layer_path(image.layers[0])
    assert sorted(path.name for path in bottom.iterdir()) == ["dev", "etc", "proc", "run", "sys", "tmp"]
    assert (bottom / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert load(store, tar(member(b"other", b"y")), name="y").layers[0] == image.layers[0]


def test_device_nodes_and_what_is_in_dev_are_left_out(store: Store) -> None:
    made = layer(
        store,
        tar(
            directory(b"dev/"),
            member(b"dev/null", kind=b"3", device=(1, 3)),
            symlink(b"dev/fd", b"/proc/self/fd"),
            member(b"sda", kind=b"4", device=(8, 0)),
            member(b"hidden", kind=b"3", device=(0, 0)),
            hardlink(b"also", b"dev/null"),
        ),
    )
    assert sorted(path.name for path in made.iterdir()) == ["dev"]
    assert list((made / "dev").iterdir()) == []


def test_later_members_win(store: Store) -> None:
    made = layer(
        store,
        tar(
            member(b"a", b"1"),
            member(b"b", b"1"),
            member(b"a", b"2"),
            symlink(b"b", b"a"),
            directory(b"c"),
            member(b"c", b"3"),
        ),
    )
    assert (made / "a").read_text() == "2"
    assert (made / "b").is_symlink()
    assert (made / "c").read_text() == "3"


def test_a_hard_link_never_lets_a_later_member_change_the_other_name(store: Store) -> None:
    made = layer(store, tar(member(b"a", b"1"), hardlink(b"b", b"a"), member(b"b", b"2")))
    assert ((made / "a").read_text(), (made / "b").read_text()) == ("1", "2")


def test_entries_through_links_stay_inside(store: Store, tmp_path: Path) -> None:
    """`lib -> usr/lib` and then `lib/x` is ordinary; `/` and `..` in a link mean the image's own root."""
    outside = tmp_path / "outside"
    outside.mkdir()
    made = layer(
        store,
        tar(
            directory(b"usr/lib/"),
            symlink(b"lib", b"usr/lib"),
            member(b"lib/x", b"1"),
            symlink(b"up", b"../../../../../../../../../../usr"),
            member(b"up/y", b"2"),
            symlink(b"abs", str(outside).encode()),
            directory(str(outside).encode()),
            member(b"abs/z", b"3"),
            symlink(b"top", b"/"),
            member(b"top/w", b"4"),
        ),
    )
    assert (made / "usr/lib/x").read_text() == "1"
    assert (made / "usr/y").read_text() == "2"
    assert (made / str(outside)[1:] / "z").read_text() == "3"
    assert (made / "w").read_text() == "4"
    assert list(outside.iterdir()) == []


# what is refused

HOSTILE = {
    "a name that climbs": (tar(member(b"../../x", b"1")), "leads upwards"),
    "a hard link that climbs": (tar(hardlink(b"x", b"../../../etc/passwd")), "leads upwards"),
    "a hard link to nothing": (tar(hardlink(b"x", b"etc/passwd")), "missing file"),
    "a hard link through a link": (tar(symlink(b"up", b"/.."), hardlink(b"x", b"up/etc/shadow")), "missing|leads nowhere"),
    "a hard link to a directory": (tar(directory(b"d"), hardlink(b"x", b"d")), "isn't a file"),
    "a file for a directory": (tar(member(b"f"), member(b"f/x")), "goes through a link or file"),
    "a dangling parent": (tar(symlink(b"l", b"nowhere"), member(b"l/x")), "leads nowhere|goes through"),
    "a looping parent": (tar(symlink(b"l", b"l"), member(b"l/x")), "goes through a link"),
    "a full directory replaced": (tar(directory(b"d"), member(b"d/x"), member(b"d", b"1")), "isn't empty"),
    "etc as a link": (tar(symlink(b"etc", b"/usr")), "/etc isn't a directory"),
    "dev as a file": (tar(member(b"dev")), "/dev isn't a directory"),
    "tmp as a link, by the back door": (tar(symlink(b"x", b"/"), symlink(b"x/tmp", b"usr")), "/tmp isn't a directory"),
    "a device name through a link": (tar(directory(b"dev"), symlink(b"x", b"dev"), member(b"x/null", b"!")), "put into its /dev"),
    "a whiteout": (tar(member(b"etc/.wh.passwd")), "means a deletion"),
    "an owner of another range": (tar(member(b"x", uid=100_000)), "belongs to 100000:0"),
    "a file of a petabyte": (tar(member(b"x", size=1 << 50)), "unpacks to more|cut off"),
    "a sparse file of a petabyte": (
        tar(
            pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"%d" % (1 << 50)}),
            member(b"x", b"0\n".ljust(512, b"\0")),
        ),
        "unpacks to more",
    ),
    "a cut-off member": (tar(member(b"x", b"1" * 5000))[:2000], "cut off"),
    "a wrong checksum": (tar(member(b"x", checksum=0)), "checksum"),
    "no archive": (b"hello world\n" * 100, "isn't a tar archive|octal"),
    "a few bytes": (b"hello", "cut off"),
    "an empty archive": (bytes(1024), "is empty"),
    "a depth of 300": (tar(pax({b"path": b"d/" * 300 + b"x"}), member(b"x")), "too deep"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused_and_leave_nothing(name: str, store: Store) -> None:
    data, words = HOSTILE[name]
    refused(store, data, words)
    assert list(store.layers.iterdir()) == []


@pytest.mark.parametrize("form", FORMS[1:])
def test_damaged_compression_is_refused(form: str, store: Store) -> None:
    whole = write(store.root.parent / "whole", small_root(), form).read_bytes()
    refused(store, whole[:-20], "damaged")


def test_a_bomb_is_refused(store: Store) -> None:
    refused(store, tar(*(member(b"%d" % n, bytes(50 << 20)) for n in range(6))), "times its size", "zstd")
