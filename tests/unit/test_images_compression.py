"""Decompression: the same bytes from every form, an error for damaged, cut-off and exploding ones.

Must not use the network or root.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rootfs import compression
from rootfs.compression import DigestStream, Region, detect
from rootfs.errors import ArchiveError
from tests.support.archives import compressed

DATA = random.Random(1).randbytes(300_000) + bytes(3_000_000) + b"tail"
FORMS = ("", "gzip", "xz", "zstd")
NO_LIMIT = 1 << 40


@contextmanager
def stream_of(data: bytes, path: Path, limit: int = NO_LIMIT) -> Iterator[DigestStream]:
    path.write_bytes(data)
    fd = os.open(path, os.O_RDONLY)
    try:
        yield DigestStream(Region(fd, 0, len(data)), limit)
    finally:
        os.close(fd)


def read_all(data: bytes, path: Path, limit: int = NO_LIMIT) -> bytes:
    with stream_of(data, path, limit) as stream:
        return b"".join(iter(lambda: stream.read(70_001), b""))


@pytest.mark.parametrize("form", FORMS)
def test_the_bytes_and_both_digests(form: str, tmp_path: Path) -> None:
    stored = compressed(DATA, form)
    assert detect(stored) == form
    with stream_of(stored, tmp_path / "x") as stream:
        assert stream.read(10) == DATA[:10]
        assert stream.skip(299_990) == 299_990
        assert bytes(stream.read_some(5)) == bytes(5)
        outer, inner = stream.finish()
    assert inner == hashlib.sha256(DATA).hexdigest()
    assert outer == hashlib.sha256(stored).hexdigest()


@pytest.mark.parametrize("form", FORMS[1:])
def test_several_parts_in_a_row(form: str, tmp_path: Path) -> None:
    stored = compressed(DATA, form) + compressed(b"second", form)
    assert read_all(stored, tmp_path / "x") == DATA + b"second"


@pytest.mark.parametrize("form", ["gzip", "xz"])
def test_zero_bytes_behind(form: str, tmp_path: Path) -> None:
    assert read_all(compressed(DATA, form) + bytes(2048), tmp_path / "x") == DATA


def test_a_skippable_frame_in_front(tmp_path: Path) -> None:
    assert read_all(b"\x50\x2a\x4d\x18\x04\0\0\0abcd" + compressed(DATA, "zstd"), tmp_path / "x") == DATA


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_cut_off_data_is_an_error(form: str, part: float, tmp_path: Path) -> None:
    stored = compressed(DATA, form)
    with pytest.raises(ArchiveError, match=f"{form} data is damaged"):
        read_all(stored[: int(len(stored) * part)], tmp_path / "x")


@pytest.mark.parametrize("form", FORMS[1:])
def test_changed_data_is_an_error(form: str, tmp_path: Path) -> None:
    stored = bytearray(compressed(DATA, form))
    stored[len(stored) // 2] ^= 0x55
    with pytest.raises(ArchiveError, match="damaged"):
        read_all(bytes(stored), tmp_path / "x")


def test_garbage_behind_gzip_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="damaged"):
        read_all(gzip.compress(DATA) + b"garbage", tmp_path / "x")


@pytest.mark.parametrize("form", FORMS)
def test_more_than_the_limit_is_an_error(form: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="more than 1000000 bytes"):
        read_all(compressed(DATA, form), tmp_path / "x", 1_000_000)


def test_a_bomb_is_told_by_its_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_RATIO_FROM", 8 << 20)
    with pytest.raises(ArchiveError, match="bomb"):
        read_all(zlib.compress(bytes(64 << 20), 9, 31), tmp_path / "x")
