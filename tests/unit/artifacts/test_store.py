"""The cache's files: what is kept and for how long, and what happens with those that somebody has spoilt. No root."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.artifacts import store
from proxy.artifacts.record import MAX_RECORD_BYTES, Record
from proxy.artifacts.store import Store
from tests.support.artifact_files import LIMIT, bodies, directory_fd, on_disk, put, record, url


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    with directory_fd(tmp_path) as descriptor:
        yield descriptor


# ── keeping ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("size", [0, 1, 5000, 200_000])
def test_what_is_kept_is_there_after_a_start(fd: int, known: bool, size: int) -> None:
    body = os.urandom(size)
    cache = Store(fd, LIMIT)
    put(cache, "a", body, known=known)
    for each in (cache, Store(fd, LIMIT)):
        assert bodies(each, "a") == [body]
        assert bodies(each, "b") == []
        assert each.listing()["entries"] == 1
    assert cache.listing()["bytes"] == Store(fd, LIMIT).listing()["bytes"]


def test_names_say_nothing(fd: int, tmp_path: Path) -> None:
    put(Store(fd, LIMIT), "very-secret-1.0.whl", b"x")
    assert all("secret" not in name and len(name) == 32 + 1 + 16 + 5 for name in on_disk(tmp_path))
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir())


def test_a_newer_one_replaces_what_it_would_be_chosen_for(fd: int) -> None:
    cache = Store(fd, LIMIT)
    put(cache, "a", b"html", "text/html")
    put(cache, "a", b"json", "application/json")
    put(cache, "a", b"new html", "text/html")
    assert bodies(cache, "a") == [b"json", b"new html"]


def test_a_url_has_so_many_variants_and_no_more(fd: int) -> None:
    cache = Store(fd, LIMIT)
    for number in range(store.MAX_VARIANTS + 3):
        put(cache, "a", b"%d" % number, f"text/x{number}")
    assert bodies(cache, "a") == [b"%d" % number for number in range(3, store.MAX_VARIANTS + 3)]


def test_what_is_too_large_or_has_no_room_is_not_begun(fd: int, tmp_path: Path) -> None:
    cache = Store(fd, LIMIT)
    assert cache.begin(url("a"), LIMIT // 4 + 1) is None
    drafts = [cache.begin(url("a"), LIMIT // 4) for _ in range(5)]
    assert [draft is not None for draft in drafts] == [True] * 4 + [False]
    for draft in drafts:
        if draft is not None:
            os.close(draft.fd)
            cache.discard(draft)
    assert on_disk(tmp_path) == set()
    draft = cache.begin(url("a"), LIMIT // 4)
    assert draft is not None
    os.close(draft.fd)


def test_a_body_of_unknown_length_grows_to_a_quarter(fd: int) -> None:
    cache = Store(fd, LIMIT)
    draft = cache.begin(url("a"), None)
    assert draft is not None
    assert cache.grow(draft, LIMIT // 4)
    assert not cache.grow(draft, LIMIT // 4 + 1)
    os.close(draft.fd)


def test_the_least_recently_used_goes_first_also_after_a_start(fd: int, tmp_path: Path) -> None:
    cache = Store(fd, LIMIT)
    for number in range(4):
        put(cache, str(number), bytes(200_000))
        time.sleep(0.02)
    assert bodies(cache, "0") != []  # used
    time.sleep(0.02)
    put(cache, "4", bytes(200_000))
    put(cache, "5", bytes(200_000))
    cache = Store(fd, LIMIT)
    assert [bool(cache.find(url(str(number)))) for number in range(6)] == [True, False, True, True, True, True]
    cache = Store(fd, 500_000)
    assert [bool(cache.find(url(str(number)))) for number in range(6)] == [False, False, False, False, True, True]
    assert sum(path.stat().st_blocks * 512 for path in tmp_path.iterdir()) <= 500_000


def test_the_number_of_files_is_bounded(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MAX_ENTRIES", 3)
    cache = Store(fd, LIMIT)
    for number in range(5):
        put(cache, str(number), b"x")
    assert cache.listing()["entries"] == 3


def test_another_record_for_the_same_body(fd: int) -> None:
    cache = Store(fd, LIMIT)
    put(cache, "a", b"body")
    [stored] = cache.find(url("a"))
    newer = Record(stored.record.url, stored.record.asked, (("etag", '"2"'),), 5.0, 4)
    assert cache.refresh(stored, newer).record == newer
    for each in (cache, Store(fd, LIMIT)):
        assert [found.record for found in each.find(url("a"))] == [newer]
        assert bodies(each, "a") == [b"body"]


def test_a_body_stays_readable_for_who_has_it_open(fd: int) -> None:
    cache = Store(fd, LIMIT)
    put(cache, "a", b"body")
    opened = cache.open(cache.find(url("a"))[0])
    assert opened is not None
    assert cache.clear()["entries"] == 1
    with open(opened, "rb") as file:
        assert file.read() == b"body"


def test_clearing_also_ends_what_is_under_way(fd: int, tmp_path: Path) -> None:
    cache = Store(fd, LIMIT)
    put(cache, "a", b"body")
    draft = cache.begin(url("b"), 4)
    assert draft is not None
    cache.clear()
    asyncio.run(cache.commit(draft, record("b", 4)))
    os.close(draft.fd)
    assert on_disk(tmp_path) == set()
    assert cache.listing() == {"entries": 0, "bytes": 0, "limit": LIMIT, "items": []}


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def replace_by(make: Callable[[Path], object]) -> Callable[[Path, Path], None]:
    """A damage: something else in place of the body."""

    def damage(body: Path, _: Path) -> None:
        body.unlink()
        make(body)

    return damage


def secret(directory: Path) -> Path:
    path = directory.parent / "secret"
    path.write_bytes(BODY)
    return path


def link_the_record(_: Path, meta: Path) -> None:
    elsewhere = meta.rename(meta.parent.parent / "meta")
    meta.symlink_to(elsewhere)


BODY = b"body" * 100
DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "short body": lambda body, _: os.truncate(body, 17),
    "long body": lambda body, _: os.truncate(body, 5000),
    "no body": lambda body, _: body.unlink(),
    "no record": lambda _, meta: meta.unlink(),
    "empty record": lambda _, meta: meta.write_bytes(b""),
    "nonsense": lambda _, meta: meta.write_bytes(os.urandom(500)),
    "huge record": lambda _, meta: meta.write_bytes(meta.read_bytes() + b" " * MAX_RECORD_BYTES),
    "another's record": lambda _, meta: meta.write_bytes(meta.read_bytes().replace(b"registry.test", b"evil.test")),
    "linked record": link_the_record,
    "link": replace_by(lambda body: body.symlink_to(secret(body.parent))),
    "hard link": replace_by(lambda body: body.hardlink_to(secret(body.parent))),
    "pipe": replace_by(os.mkfifo),
    "directory": replace_by(os.mkdir),
}


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("started", ["before", "after"])
def test_what_is_damaged_is_dropped(tmp_path: Path, kind: str, started: str) -> None:
    directory = tmp_path / "artifacts"
    directory.mkdir()
    with directory_fd(directory) as fd:
        cache = Store(fd, LIMIT)
        put(cache, "a", BODY)
        assert bodies(cache, "a") == [BODY]
        DAMAGES[kind](next(directory.glob("*.body")), next(directory.glob("*.meta")))
        cache = cache if started == "before" else Store(fd, LIMIT)
        assert bodies(cache, "a") in ([], [None])
        assert cache.find(url("a")) == []
        put(cache, "a", b"again")
        assert bodies(Store(fd, LIMIT), "a") == [b"again"]


def test_what_is_not_ours_is_removed_or_left_alone(fd: int, tmp_path: Path) -> None:
    put(Store(fd, LIMIT), "a", b"body")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ("0" * 32 + "-" + "0" * 16 + ".tmp")).write_text("x")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "pipe")
    cache = Store(fd, LIMIT)
    assert bodies(cache, "a") == [b"body"]
    assert len(on_disk(tmp_path) - {"directory"}) == 2


def test_a_directory_that_cannot_be_written_is_no_end(fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> int:
        raise PermissionError(13, "Permission denied")

    cache = Store(fd, LIMIT)
    put(cache, "a", b"body")
    monkeypatch.setattr(store, "create", refuse)
    assert cache.begin(url("b"), 5) is None
    [stored] = cache.find(url("a"))
    cache.refresh(stored, stored.record)
    assert bodies(cache, "a") == [b"body"]
