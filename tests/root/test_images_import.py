"""Importing archives for real: what arrives on disk, and that nothing else does.

Must not mount; the states are the tests' own. Judged by looking at the layers, not by what the job says.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rootfs.errors import ImageError
from rootfs.image import Image
from rootfs.import_job import import_archive
from rootfs.read_image import read_from_image
from rootfs.store import Store
from rootfs.tree import measure_tree
from tests.support.archives import (
    OTHER,
    Layer,
    directory,
    docker_save,
    hardlink,
    member,
    oci,
    pax,
    sha256,
    small_root,
    symlink,
    tar,
    write,
)

FORMS = ("", "gzip", "xz", "zstd")
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def quiet(text: str, done: int | None = None, total: int | None = None) -> None:
    """A progress function for those who don't care."""


def load(store: Store, data: bytes, form: str = "", name: str = "x") -> Image:
    archive = write(store.root.parent / "archive", data, form)
    return import_archive(store, str(archive), name, "archive", quiet)  # type: ignore[arg-type]


def refused(store: Store, data: bytes, words: str, form: str = "") -> None:
    """The import fails with one sentence, and leaves nothing."""
    with pytest.raises(ImageError, match=words) as caught:
        load(store, data, form)
    message = str(caught.value)
    assert message.startswith("cannot import 'archive': ")
    assert "\n" not in message
    assert store.list_images() == []
    assert list(store.staging.iterdir()) == []


def layer(store: Store, data: bytes) -> Path:
    """The single layer of a plain tar; missing directories are another one's."""
    return store.layer_path(load(store, data).layers[-1])


# what arrives


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


# docker and OCI


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


# the job as a process


def start(store: Store, archive: Path, name: str = "x") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "rootfs.import_job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(
        json.dumps({"state": str(store.root), "archive": str(archive), "name": name, "source": "test"}).encode()
    )
    process.stdin.close()
    return process


def lines_of(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.stderr.read() == b""
    return lines


def test_the_job_speaks_its_protocol(store: Store) -> None:
    with start(store, write(store.root.parent / "a", small_root())) as process:
        *progress, last = lines_of(process)
    assert process.returncode == 0
    assert all("progress" in line for line in progress)
    assert last["result"] == store.load("x").to_dict()


def test_an_import_replaces_the_former_image_in_one_instant(store: Store) -> None:
    first = load(store, small_root())
    refused_name = store.images / "x.json"
    inode = refused_name.stat().st_ino
    with pytest.raises(ImageError):
        load(store, b"nonsense")
    assert store.load("x") == first
    second = load(store, tar(member(b"hello")))
    assert store.load("x") == second
    assert refused_name.stat().st_ino != inode


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_job_leaves_no_process_and_nothing_after_a_sweep(sent: signal.Signals, store: Store) -> None:
    archive = write(store.root.parent / "big", tar(*(member(b"%d" % n, os.urandom(4 << 20)) for n in range(30))))
    with start(store, archive) as process:
        deadline = time.monotonic() + 20
        while not list(store.staging.glob("*/layer/*")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(sent)
        lines = lines_of(process)
    assert process.returncode == (143 if sent is signal.SIGTERM else -9)
    if sent is signal.SIGTERM:
        assert lines[-1]["error"]["message"] == "the job was stopped"
        assert list(store.staging.iterdir()) == []
    deadline = time.monotonic() + 20
    while inmates_of(store):
        assert time.monotonic() < deadline, "an inmate survived"
        time.sleep(0.05)
    store.sweep_staging()
    assert list(store.staging.iterdir()) == []
    assert store.list_images() == []


def inmates_of(store: Store) -> list[str]:
    """Processes whose root directory lies in the store."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "root").readlink()).startswith(str(store.root)):
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """In a mount namespace of its own, on a tmpfs of 600 MB: more than the reserve, less than the archive needs."""
    archive = write(tmp_path / "big", tar(*(member(b"%d" % n, os.urandom(1 << 20)) for n in range(150))))
    request = json.dumps({"state": str(tmp_path / "disk/state"), "archive": str(archive), "name": "x", "source": "big"})
    script = 'mount -t tmpfs -o size=$1 none "$2" && "$3" -I -m rootfs.import_job; find "$2" -type f'
    (tmp_path / "disk").mkdir()
    for size, words in (("600m", "unpacks to more than|disk is full"), ("100m", "is full")):
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", size, str(tmp_path / "disk"), sys.executable]
        done = subprocess.run(argv, input=request, capture_output=True, text=True, timeout=60, check=False)
        *_, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert any(word in last["error"]["message"] for word in words.split("|")), last
        left = [line for line in done.stdout.splitlines() if line.startswith("/")]
        assert [Path(line).name for line in left] == ["layers.lock"]
