"""Reading tar headers: what is taken, and what is refused with which words.

Must not unpack anything: bytes in, members or an error out.
"""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from rootfs.errors import ArchiveError
from rootfs.tar import Kind, Member, members
from tests.support.archives import ZEROS, directory, hardlink, member, pax, pax_record, symlink, tar


class Memory:
    """A stream of bytes that are all there."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def read(self, size: int) -> bytes:
        return self._file.read(size)

    def skip(self, size: int) -> int:
        return len(self._file.read(size))


def read_all(data: bytes, *, must_end: bool = True) -> list[tuple[Member, bytes]]:
    stream = Memory(data)
    return [(found, stream.read(found.size)) for found in members(stream, must_end=must_end)]


def only(data: bytes) -> Member:
    ((found, _),) = read_all(data)
    return found


def test_members_of_each_kind() -> None:
    data = tar(
        directory(b"d/", 0o2750, uid=5, gid=6),
        member(b"d/f", b"content", mode=0o4755),
        symlink(b"d/s", b"../f"),
        hardlink(b"d/h", b"d/f"),
        member(b"fifo", kind=b"6"),
        member(b"null", kind=b"3", device=(1, 3)),
    )
    found = read_all(data)
    kinds = [Kind.DIRECTORY, Kind.FILE, Kind.SYMLINK, Kind.LINK, Kind.FIFO, Kind.DEVICE]
    assert [item.kind for item, _ in found] == kinds
    assert found[1][1] == b"content"
    assert (found[0][0].mode, found[0][0].uid, found[0][0].gid) == (0o2750, 5, 6)
    assert found[1][0].mode == 0o4755
    assert [item.target for item, _ in found][2:4] == [b"../f", b"d/f"]


def test_a_prefix_counts_only_in_posix_headers() -> None:
    assert only(tar(member(b"name", prefix=b"some/dir"))).name == b"some/dir/name"
    assert only(tar(member(b"name", prefix=b"some/dir", magic=b"ustar  \0"))).name == b"name"


def test_extended_headers_replace_what_the_header_says() -> None:
    records = {b"path": b"long/" * 50 + b"x", b"mtime": b"1700000000.25", b"uid": b"7", b"size": b"3"}
    found, data = read_all(tar(pax(records), member(b"short", b"abc", size=0)))[0]
    assert found.name == records[b"path"]
    assert found.mtime_ns == 1_700_000_000_250_000_000
    assert found.uid == 7
    assert data == b"abc"


def test_a_gnu_long_name() -> None:
    name = b"a" * 90 + b"/" + b"b" * 90
    found = only(tar(member(b"././@LongLink", name + b"\0", b"L", magic=b"ustar  \0"), member(b"a" * 90, b"")))
    assert found.name == name


def test_an_old_header_with_a_slash_is_a_directory() -> None:
    assert only(tar(member(b"d/", kind=b"\0", magic=bytes(8)))).kind is Kind.DIRECTORY


def test_a_large_number_in_base_256() -> None:
    assert only(tar(member(b"x", uid=2**31))).uid == 2**31


BROKEN = {
    "nothing at all": (b"", "cut off"),
    "half a header": (member(b"x")[:300], "cut off"),
    "no end mark": (member(b"x", b"abc"), "cut off"),
    "wrong checksum": (tar(member(b"x", checksum=1)), "checksum"),
    "not a tar": (b"#!/bin/sh\n" * 100, "isn't a tar|octal"),
    "bytes after the end": (tar(member(b"x")) + member(b"hidden"), "follows its end"),
    "size that isn't octal": (tar(member(b"x").replace(b"00000000000\0", b"0000000009x\0")), "checksum|octal"),
    "a link with data": (tar(hardlink(b"x", b"y", size=512), bytes(512)), "with data"),
    "a directory with data": (tar(directory(b"x", size=512), bytes(512)), "with data"),
    "a file that looks like a directory": (tar(member(b"x/", b"abc")), "ends like a directory"),
    "an unknown type": (tar(member(b"x", kind=b"D")), "unknown type"),
    "a part of several volumes": (tar(member(b"x", kind=b"M")), "unknown type"),
    "an empty name": (tar(member(b"")), "no usable name"),
    "a link to nothing": (tar(symlink(b"x", b"")), "leads to nothing"),
    "a null byte in a name": (tar(pax({b"path": b"a\0b"}), member(b"x")), "no usable name"),
    "a damaged extended header": (tar(member(b"pax", b"99 path=x\n", b"x"), member(b"x")), "damaged"),
    "an extended header without a key": (tar(member(b"pax", b"6 =xy\n", b"x"), member(b"x")), "damaged"),
    "a key twice": (
        tar(member(b"pax", pax_record(b"path", b"a") + pax_record(b"path", b"b"), b"x"), member(b"x")),
        "twice",
    ),
    "a huge extended header": (tar(member(b"pax", size=1 << 30, kind=b"x")), "the limit is"),
    "a huge long name": (tar(member(b"pax", size=1 << 20, kind=b"L")), "the limit is"),
    "an extended header for nothing": (tar(pax({b"path": b"x"})), "belongs to nothing"),
    "a path for all": (tar(pax({b"path": b"x"}, b"g"), member(b"x")), "global header"),
    "attributes for all": (tar(pax({b"SCHILY.xattr.user.a": b"x"}, b"g"), member(b"x")), "global header"),
    "a size that isn't a number": (tar(pax({b"size": b"-1"}), member(b"x")), "extended header"),
    "a time that isn't one": (tar(pax({b"mtime": b"soon"}), member(b"x")), "time"),
    "an outdated sparse form": (tar(pax({b"GNU.sparse.map": b"0,1"}), member(b"x", b"a")), "outdated"),
    "a sparse file larger than it says": (
        tar(
            pax({b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"1"}),
            member(b"x", b"1\n0\n5\n".ljust(512, b"\0") + b"abcde"),
        ),
        "wrong map",
    ),
    "too large attributes": (tar(pax({b"SCHILY.xattr.user.a": bytes(70000)}), member(b"x")), "attributes"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_is_refused_with_a_reason(name: str) -> None:
    data, words = BROKEN[name]
    with pytest.raises(ArchiveError, match=words):
        read_all(data)


def test_a_comment_for_all_is_fine() -> None:
    assert only(tar(pax({b"comment": b"0123"}, b"g"), member(b"x"))).name == b"x"


def test_the_end_mark_may_be_missing_where_a_digest_vouches() -> None:
    assert len(read_all(member(b"x", b"abc"), must_end=False)) == 1
    with pytest.raises(ArchiveError, match="cut off"):
        read_all(member(b"x", b"abc")[:600] + b"x", must_end=False)


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_what_gnu_tar_writes(form: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub/file").write_bytes(b"x" * 1000)
    (tree / "link").symlink_to("sub/file")
    if form in ("gnu", "pax"):
        (tree / ("n" * 200)).write_text("long")
    archive = subprocess.run(
        ["tar", f"--format={form}", "-C", str(tree), "-c", "."], capture_output=True, check=True
    ).stdout
    found = {item.name: data for item, data in read_all(archive)}
    assert found[b"./sub/file"] == b"x" * 1000
    assert (b"./" + b"n" * 200 in found) == (form in ("gnu", "pax"))


@pytest.mark.parametrize("options", [["--format=gnu"], ["--format=pax"]], ids=str)
@pytest.mark.parametrize("pieces", [0, 1, 3, 30, 300])
def test_sparse_files_of_gnu_tar(options: list[str], pieces: int, tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for number in range(pieces):
            file.seek(number * 50_000 + 20_000)
            file.write(b"piece %d" % number)
        file.truncate(pieces * 50_000 + 70_000)
    command = ["tar", "--sparse", *options, "-C", str(tmp_path), "-c", "sparse"]
    ((found, data),) = read_all(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found.name == b"sparse"
    assert found.sparse is not None
    assert found.real_size == path.stat().st_size
    built = bytearray(found.real_size)
    at = 0
    for offset, length in found.sparse:
        built[offset : offset + length] = data[at : at + length]
        at += length
    assert bytes(built) == path.read_bytes()


def test_nothing_but_zeros_is_an_empty_archive() -> None:
    assert read_all(ZEROS) == []
