"""Whom an image's commands run as: its user looked up in files that strangers wrote, and the image's own directory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rootfs.errors import ImageError
from rootfs.image import Image, ImageConfig
from rootfs.read_image import is_directory, read_from_image
from rootfs.store import Store
from rootfs.system_layer import Content, Directory, Link, make_system_layer
from rootfs.users import ROOT, User, find_user, image_user

PASSWD = b"""root:x:0:0:root:/root:/bin/bash
app:x:1000:1001:An app:/home/app:/bin/sh
short:x:7:8
42:x:2042:2042::/home/number:/bin/sh
toor:x:0:0::/home/toor:/bin/sh
app:x:9999:9999::/second:/bin/sh
"""
GROUP = b"root:x:0:\napp:x:1001:\ncrew:x:3000:other,app\nadm:x:4:app,app\nadm2:x:4:app\nbig:x:99999:app\n"
APP = User(1000, 1001, (3000, 4), "app", "/home/app")


@pytest.mark.parametrize(
    ("spec", "user"),
    [
        ("app", APP),
        ("1000", APP),
        ("app:crew", replace(APP, gid=3000, groups=())),
        ("app:77", replace(APP, gid=77, groups=())),
        ("1000:1000", replace(APP, gid=1000, groups=())),
        ("short", User(7, 8, (), "short", "/")),
        ("42", User(42, 0, (), "42", "/")),  # a number is an id, whatever somebody is called
        ("55:66", User(55, 66, (), "55", "/")),
        ("root:adm", User(0, 4)),
        ("toor", User(0, 0, (), "toor", "/home/toor")),
    ],
)
def test_a_user_is_whom_docker_would_take(spec: str, user: User) -> None:
    assert find_user(spec, PASSWD, GROUP) == user


def test_without_the_files_only_numbers_have_a_meaning() -> None:
    assert find_user("5:6", b"", b"") == User(5, 6, (), "5", "/")
    assert find_user("0:6", b"", b"") == User(0, 6)
    with pytest.raises(ImageError, match="its /etc/passwd has no 'app'"):
        find_user("app", b"", GROUP)
    with pytest.raises(ImageError, match="its /etc/group has no 'crew'"):
        find_user("app:crew", PASSWD, b"")


@pytest.mark.parametrize("spec", ["65536", "5:65536", "99999999999999999999", "5:big"])
def test_ids_that_no_sandbox_has_are_refused(spec: str) -> None:
    with pytest.raises(ImageError, match="above 65535"):
        find_user(spec, PASSWD, GROUP)


@pytest.mark.parametrize(
    "line",
    [
        b"", b":", b"app", b"app:x", b"app:x::", b"app:x:-1:5", b"app:x:1e3:5",
        b"app:x:\xd9\xa3:5", b"app:x:" + b"9" * 5000 + b":5", b"app:x:5:", b"\xff\xfe:x:5:5", b"a\0pp:x:5:5",
    ],
)  # fmt: skip
def test_lines_that_make_no_sense_are_passed_over(line: bytes) -> None:
    assert find_user("app", line + b"\n" + PASSWD, line + b"\n" + GROUP) == APP


@pytest.mark.parametrize("home", [b"", b"relative", b"/a\0b", b"/a\tb", b"/\x1b[1m", b"/" + b"x" * 5000])
def test_a_home_that_is_no_plain_path_is_the_root(home: bytes) -> None:
    assert find_user("app", b"app:x:5:5::" + home + b":/bin/sh", b"").home == "/"


def test_a_name_that_is_no_plain_name_is_a_number() -> None:
    assert find_user("5", b"a b$(x):x:5:5::/:", b"").name == "5"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def image(store: Store, user: str, files: dict[str, Content]) -> Image:
    layer = make_system_layer(store, {"bin/sh": b"", **files})
    return Image("some", (layer,), ImageConfig(user=user), "", 0, "test")


@pytest.mark.parametrize("user", ["", "root", "0", "0:0", "root:root", "0:root"])
def test_root_is_root_whatever_the_files_say(store: Store, user: str) -> None:
    assert image_user(store, image(store, user, {"etc/passwd": b"root:x:5:5::/x:/bin/sh"})) == ROOT


def test_the_files_are_those_of_the_image(store: Store) -> None:
    files = {"etc/passwd": Link("../../../usr/passwd"), "usr/passwd": PASSWD, "etc/group": GROUP}
    assert image_user(store, image(store, "app", files)) == APP


def test_a_user_that_the_image_does_not_have_is_told(store: Store) -> None:
    with pytest.raises(
        ImageError, match="the image 'some' as its user 'who': its /etc/passwd has no 'who'; add it there"
    ):
        image_user(store, image(store, "who", {"etc/passwd": PASSWD}))


def test_files_that_are_too_large_are_not_read(store: Store) -> None:
    with pytest.raises(ImageError, match="as its user 'app': cannot read 'etc/passwd'"):
        image_user(store, image(store, "app", {"etc/passwd": b"\n" * (5 << 20)}))


def test_what_a_directory_is(store: Store) -> None:
    files = {
        "srv/work": Directory(), "srv/file": b"", "to": Link("/srv/work"), "loop": Link("loop"), "long": Link("x" * 300),
    }  # fmt: skip
    it = image(store, "", files)
    assert all(is_directory(store, it, path) for path in ("/", "/srv/work", "/to", "to/../work"))
    assert not any(is_directory(store, it, path) for path in ("/srv/file", "/none", "/long", "/" + "y" * 300))
    assert read_from_image(store, it, "long") is None
    with pytest.raises(ImageError, match="too many links"):
        is_directory(store, it, "/loop")
