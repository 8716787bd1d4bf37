"""The artifact cache where memory and disk end: what is large, a full disk, the limit of its size."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import cache, kinds, resident, used
from tests.support.artifact_server import FRESH, MEBI, Page, Registry
from tests.support.tasks import wait_for

TRUST = Path(certifi.where())
BODY = os.urandom(4 * MEBI)


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_what_is_large_passes_through_in_little_memory_and_disk(
    registry: Registry, tmp_path: Path, framing: str
) -> None:
    body = os.urandom(MEBI) * 200
    registry.pages["/a"] = Page(body, [FRESH], framing=framing, steps=200)
    with cache(tmp_path, TRUST, size=16 * MEBI) as lab:
        before = resident(lab)
        with lab.open(registry.url("/a")) as response:
            received = bytearray(response.read(MEBI))
            time.sleep(0.5)  # a client that is slow for a while
            most = used(tmp_path)
            while data := response.read(MEBI):
                received += data
        assert received == body
        assert most <= 4 * MEBI
        assert resident(lab) - before < 16 * MEBI
        assert lab.listing()["entries"] == 0
        wait_for(lambda: kinds(tmp_path) == [], "its files to be gone", 5)


def test_two_clients_read_what_turns_out_too_large_at_their_own_pace(registry: Registry, tmp_path: Path) -> None:
    body = os.urandom(32 * MEBI)
    registry.pages["/a"] = Page(body, [FRESH], framing="chunked", steps=100)
    received: list[bytes] = []
    with cache(tmp_path, TRUST, size=16 * MEBI) as lab:

        def read(pause: float) -> None:
            with lab.open(registry.url("/a")) as response:
                parts = []
                while data := response.read(MEBI):
                    parts.append(data)
                    time.sleep(pause)
                received.append(b"".join(parts))

        threads = [threading.Thread(target=read, args=(pause,)) for pause in (0, 0.02)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert received == [body, body]


def test_its_size_is_bounded_and_the_least_used_goes_first(registry: Registry, tmp_path: Path) -> None:
    for number in range(30):
        registry.pages[f"/{number}"] = Page(BODY[: MEBI - number], [FRESH])
    with cache(tmp_path, TRUST, size=16 * MEBI) as lab:
        for number in range(30):
            lab.get(registry.url(f"/{number}"))
            wait_for(lambda: ".tmp" not in kinds(tmp_path), "it to be stored", 10)
            assert lab.get(registry.url("/0")).how == "hit"
        assert used(tmp_path) <= 16 * MEBI
        assert lab.get(registry.url("/29")).how == "hit"
        assert lab.get(registry.url("/1")).how == "miss"
    with cache(tmp_path, TRUST, size=6 * MEBI):
        assert used(tmp_path) <= 6 * MEBI
    with cache(tmp_path, TRUST, size=6 * MEBI) as lab:
        assert lab.get(registry.url("/0")).how == "hit"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("space", [1000, MEBI])
def test_without_disk_space_it_passes_on(registry: Registry, tmp_path: Path, framing: str, space: int) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH], framing=framing, steps=50)
    registry.pages["/small"] = Page(b"small", [FRESH])
    with cache(tmp_path, TRUST, largest_file=space) as lab:
        assert [lab.get(registry.url("/a")).body == BODY for _ in range(2)] == [True, True]
        assert lab.get(registry.url("/small")).body == b"small"
        wait_for(lambda: ".tmp" not in kinds(tmp_path), "its files to be gone", 5)


def test_a_cache_of_no_size_passes_on(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    with cache(tmp_path, TRUST, size=0) as lab:
        assert [lab.get(registry.url("/a")).how for _ in range(2)] == ["bypass", "bypass"]
