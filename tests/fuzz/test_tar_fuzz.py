"""Random and mutated archives: whatever comes in, the reader answers with entries or an ArchiveError, in bounded time.

Must not need root: what the writer does with entries is tested in tests/root.
"""

from __future__ import annotations

import os
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from rootfs.archive import Files, find_image, is_container
from rootfs.compression import DigestStream, Region
from rootfs.entries import HEAD, Entry, EntryKind, check, clean_path, decode_attributes, decode_head
from rootfs.errors import ArchiveError
from rootfs.read_layer import Notices, frames
from tests.support.archives import (
    Layer,
    compressed,
    directory,
    docker_save,
    hardlink,
    member,
    oci,
    pax,
    small_root,
    symlink,
    tar,
)

LIMIT = 64 << 20
_NAMES = st.one_of(
    st.sampled_from(
        [b"../x", b"/etc/passwd", b"a/../../b", b".wh.x", b".wh..wh..opq", b"dev/null", b"./", b"lib", b"lib/x"]
    ),
    st.binary(min_size=1, max_size=120).filter(lambda name: b"\0" not in name),
)
_MEMBERS = st.lists(
    st.one_of(
        st.builds(member, _NAMES, st.binary(max_size=700), mode=st.integers(0, 0o7777), uid=st.integers(0, 2**40)),
        st.builds(member, _NAMES, kind=st.binary(min_size=1, max_size=1), size=st.integers(0, 2**70)),
        st.builds(directory, _NAMES, st.integers(0, 0o7777)),
        st.builds(symlink, _NAMES, _NAMES),
        st.builds(hardlink, _NAMES, _NAMES),
        st.builds(
            pax,
            st.dictionaries(
                st.sampled_from(
                    [b"path", b"linkpath", b"size", b"mtime", b"uid", b"SCHILY.xattr.user.x", b"GNU.sparse.major"]
                ),
                st.binary(max_size=40),
            ),
        ),
    ),
    max_size=8,
)
_SEEDS = [
    small_root(),
    docker_save([Layer.of(small_root()), Layer.of(tar(member(b"a/.wh.b")), "gzip")], {"Env": ["A=1"]}),
    oci([Layer.of(small_root(), "zstd")], nested=True, docker=True),
    *(compressed(small_root(), form) for form in ("gzip", "xz", "zstd")),
]


def read_everything(data: bytes) -> None:
    """Both ways through the reader; every frame is taken apart again and must be one that the writer accepts."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        region = Region(file.fileno(), 0, len(data))
        try:
            if is_container(region, LIMIT):
                find_image(Files(region))
                return
        except ArchiveError:
            pass
        for whiteouts in (True, False):
            try:
                pieces = [
                    bytes(piece)
                    for piece in frames(
                        DigestStream(region, LIMIT), whiteouts=whiteouts, must_end=True, notices=Notices()
                    )
                ]
            except ArchiveError:
                continue
            take_apart(b"".join(pieces))


def take_apart(data: bytes) -> None:
    at = 0
    while at < len(data):
        kind, mode, uid, gid, mtime, size, path_size, link_size, attributes_size = decode_head(
            data[at : at + HEAD.size]
        )
        at += HEAD.size
        path, link = data[at : at + path_size], data[at + path_size : at + path_size + link_size]
        attributes = data[at + path_size + link_size : at + path_size + link_size + attributes_size]
        check(Entry(EntryKind(kind), path, mode, uid, gid, mtime, size, link, attributes))
        decode_attributes(attributes)
        at += path_size + link_size + attributes_size + size
    assert at == len(data)


@settings(max_examples=150, deadline=5000)
@given(_MEMBERS)
def test_members_in_any_combination(parts: list[bytes]) -> None:
    read_everything(tar(*parts))


@settings(max_examples=300, deadline=5000)
@given(st.sampled_from(_SEEDS), st.data())
def test_archives_with_bytes_changed(seed: bytes, data: st.DataObject) -> None:
    changed = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        changed[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    read_everything(bytes(changed[: data.draw(st.integers(1, len(seed)))]))


@settings(max_examples=150, deadline=5000)
@given(st.binary(max_size=3000))
def test_noise(data: bytes) -> None:
    read_everything(data)


@settings(max_examples=300, deadline=2000)
@given(st.binary(max_size=60))
def test_a_clean_path_stays_below(name: bytes) -> None:
    try:
        path = clean_path(name)
    except ArchiveError:
        return
    assert os.path.normpath(b"/top/" + path).startswith(b"/top")
    assert not path.startswith(b"/")
