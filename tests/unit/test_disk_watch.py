"""When a task has more of the disk than it may, and how much of a disk tasks leave alone."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

import pytest

from sandbox.core.disk_watch import over, reserve
from sandbox.host import disk
from sandbox.host.disk import Space

HOME = Path(__file__).parent  # /tmp may be another file system than the root


@pytest.mark.parametrize(
    ("used", "limits", "words"),
    [
        (Space(100, 5), (None, None), None),
        (Space(100, 5), (100, 5), None),
        (Space(3 << 20, 5), (2 << 20, 9), "disk: 3.0 MiB used, the limit is 2.0 MiB"),
        (Space(100, 6), (100, 5), "disk: 6 files, the limit is 5"),
        (None, (100, None), "disk: it has more files, or has more open, than can be counted"),
    ],
)
def test_the_limit_that_was_exceeded_is_named(
    used: Space | None, limits: tuple[int | None, int | None], words: str | None
) -> None:
    assert over(used, *limits) == words


def test_small_disks_have_no_reserve_and_large_ones_two_gigabytes() -> None:
    assert [reserve(size << 30) for size in (1, 3, 50, 100, 5000)] == [0, 0, 1 << 30, 2 << 30, 2 << 30]


def test_a_directory_is_counted_whatever_its_names(tmp_path: Path) -> None:
    for name in ("a", "-b", "c\nd", "\udcff"):
        (tmp_path / name).write_bytes(b"x" * 8192)
    (tmp_path / "link").hardlink_to(tmp_path / "a")
    used = asyncio.run(disk.used(tmp_path))
    assert used is not None
    assert 4 * 8192 <= used.bytes < 8 * 8192
    assert used.files == 5
    assert asyncio.run(disk.used(tmp_path / "gone")) == Space(0, 0)
    assert disk.free(tmp_path).bytes < disk.size(tmp_path)


def test_what_is_removed_but_open_counts_and_too_much_cannot_be_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    before = disk.removed_but_open([os.getpid()])
    assert before is not None
    with tempfile.TemporaryFile(dir=HOME) as file:
        file.write(b"x" * (1 << 20))
        file.flush()
        after = disk.removed_but_open([os.getpid(), 2**22])
    assert after is not None
    assert after - before >= 1 << 20
    monkeypatch.setattr(disk, "_DESCRIPTORS", 2)
    assert disk.removed_but_open([os.getpid()]) is None
