"""What a tar member becomes in a layer: the table of decisions, and the frames they travel in.

Must not write a layer.
"""

from __future__ import annotations

import dataclasses

import pytest

from rootfs.entries import (
    BadFrameError,
    Entry,
    EntryKind,
    check,
    clean_path,
    decode_attributes,
    encode_attributes,
    may_keep,
)
from rootfs.errors import ArchiveError, shown
from rootfs.read_layer import Notices, entries_of
from rootfs.tar import Kind, Member

FILE = Member(b"a/b", Kind.FILE, 0o644, 0, 0, 0, 0)
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")


def decide(**changes: object) -> Entry | None:
    whiteouts = bool(changes.pop("whiteouts", True))
    return entries_of(dataclasses.replace(FILE, **changes), whiteouts=whiteouts, notices=Notices())  # type: ignore[arg-type]


def made(**changes: object) -> Entry:
    entry = decide(**changes)
    assert entry is not None
    return check(entry)


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"),
        (b"./a", b"a"),
        (b"/a", b"a"),
        (b"a//b/./c", b"a/b/c"),
        (b"a/", b"a"),
        (b"./", b""),
        (b"...", b"..."),
    ],
)
def test_names_are_made_relative_and_clean(name: bytes, path: bytes) -> None:
    assert clean_path(name) == path


@pytest.mark.parametrize(
    "name", [b"..", b"../x", b"a/../b", b"/..", b"a/..", b"./../x", b"x" * 256, b"a/" * 300, b"a\0b"]
)
def test_names_that_climb_or_are_too_long_are_refused(name: bytes) -> None:
    with pytest.raises(ArchiveError):
        clean_path(name)


@pytest.mark.parametrize("path", [b"dev/null", b"dev/pts/0", b"proc/1/root", b"sys/kernel"])
def test_what_is_in_dev_proc_and_sys_is_left_out(path: bytes) -> None:
    assert decide(name=path) is None
    assert decide(name=b"x/" + path) is not None


def test_device_nodes_are_left_out_and_counted() -> None:
    notices = Notices()
    for name in (b"a", b"b"):
        assert (
            entries_of(dataclasses.replace(FILE, name=name, kind=Kind.DEVICE), whiteouts=True, notices=notices) is None
        )
    assert notices.texts() == ["device nodes left out: 2, the first is 'a'"]


def test_owners_beyond_a_sandbox_are_refused() -> None:
    assert made(uid=65535, gid=65535).uid == 65535
    for owner in ({"uid": 65536}, {"gid": 65536}):
        with pytest.raises(ArchiveError, match="belongs to"):
            decide(**owner)


def test_set_uid_bits_stay() -> None:
    assert made(mode=0o4755).mode == 0o4755


WHITEOUTS = {
    b".wh.x": Entry(EntryKind.WHITEOUT, b"x"),
    b"a/.wh.x": Entry(EntryKind.WHITEOUT, b"a/x"),
    b"a/b/.wh..wh..opq": Entry(EntryKind.OPAQUE, b"a/b"),
    b"a/.wh..wh.plnk": None,
}


@pytest.mark.parametrize("name", WHITEOUTS)
def test_whiteouts(name: bytes) -> None:
    assert decide(name=name) == WHITEOUTS[name]


@pytest.mark.parametrize("name", [b".wh.", b"a/.wh.", b"a/.wh..", b"a/.wh...", b"a/.wh.x/y", b".wh..wh..opq/x"])
def test_whiteouts_name_siblings_only(name: bytes) -> None:
    with pytest.raises(ArchiveError):
        decide(name=name)


@pytest.mark.parametrize("name", [b".wh.x", b"a/.wh..wh..opq", b"a/.wh.x/y"])
def test_a_plain_root_filesystem_has_no_whiteouts(name: bytes) -> None:
    with pytest.raises(ArchiveError):
        decide(name=name, whiteouts=False)


def test_hard_links_stay_inside() -> None:
    assert made(kind=Kind.LINK, target=b"/usr/bin/x").link == b"usr/bin/x"
    for target in (b"../x", b"a/../../x", b"/", b"."):
        with pytest.raises(ArchiveError):
            decide(kind=Kind.LINK, target=target)
    assert decide(kind=Kind.LINK, target=b"dev/null") is None


def test_symbolic_links_keep_their_text() -> None:
    assert made(kind=Kind.SYMLINK, target=b"../../../../etc").link == b"../../../../etc"


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("user.mime_type", True),
        ("security.capability", True),
        ("trusted.overlay.opaque", False),
        ("trusted.overlay.redirect", False),
        ("user.overlay.opaque", False),
        ("user.overlay.metacopy", False),
        ("security.selinux", False),
        ("security.ima", False),
        ("system.posix_acl_access", False),
        ("trusted.overlay.opaque\0user.", False),
        ("user.x\0", False),
    ],
)
def test_extended_attributes(name: str, kept: bool) -> None:
    assert may_keep(name) is kept
    value = CAPABILITY if name.startswith("security") else b"y"
    attributes = made(xattrs={name.encode(): value}).attributes
    assert decode_attributes(attributes) == ({name: value} if kept else {})


def test_capabilities_of_a_user_namespace_are_left_out() -> None:
    third = bytes([0, 0, 0, 3]) + CAPABILITY[4:] + (1000).to_bytes(4, "little")
    assert made(xattrs={b"security.capability": third}).attributes == b""


UNCLEAN = {
    "a path that climbs": Entry(EntryKind.FILE, b"a/../../x"),
    "an absolute path": Entry(EntryKind.FILE, b"/etc/passwd"),
    "a dot": Entry(EntryKind.FILE, b"./x"),
    "an empty component": Entry(EntryKind.FILE, b"a//b"),
    "a null byte": Entry(EntryKind.FILE, b"a\0b"),
    "no path": Entry(EntryKind.FILE, b""),
    "too deep": Entry(EntryKind.FILE, b"a/" * 300 + b"b"),
    "a link out": Entry(EntryKind.LINK, b"a", link=b"../x"),
    "an absolute link": Entry(EntryKind.LINK, b"a", link=b"/x"),
    "an owner of another range": Entry(EntryKind.FILE, b"a", uid=65536),
    "too much mode": Entry(EntryKind.FILE, b"a", mode=0o10000),
}


@pytest.mark.parametrize("name", UNCLEAN)
def test_the_writer_believes_nothing(name: str) -> None:
    with pytest.raises(BadFrameError):
        check(UNCLEAN[name])


def test_the_writer_sets_no_attribute_the_reader_should_have_dropped() -> None:
    with pytest.raises(BadFrameError):
        decode_attributes(encode_attributes({b"trusted.overlay.opaque": b"y"}))


def test_names_in_messages_are_harmless() -> None:
    assert shown(b"a\x1b[31m\xe2\x80\xaeb\n") == "'a\\x1b[31m\\u202eb\\n'"
    assert len(shown(b"x" * 5000)) < 200
    assert shown(b"\xff") == "'\\xff'"
