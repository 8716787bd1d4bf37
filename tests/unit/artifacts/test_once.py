"""What the artifact cache fetches once, for one client after the other and for many at the same time."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.artifact_lab import Get, Lab
from tests.support.artifact_server import FRESH, Asked, Page, Registry
from tests.support.tasks import wait_for

BODY = bytes(range(256)) * 4_000


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_file_is_fetched_once(get: Get, registry: Registry, framing: str) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH, "X-Kept: yes"], framing=framing)
    first, second = get("/a"), get("/a")
    assert (first.status, first.how, first.body) == (200, "miss", BODY)
    assert (second.status, second.how, second.body) == (200, "hit", BODY)
    assert second.fields["x-kept"] == "yes"
    assert second.fields["content-length"] == str(len(BODY))
    assert len(registry.asked) == 1


def test_an_empty_file_is_kept_too(get: Get, registry: Registry) -> None:
    registry.pages["/empty"] = Page(b"", [FRESH])
    assert [get("/empty").how for _ in range(2)] == ["miss", "hit"]


def test_a_release_is_kept_where_the_registry_says_nothing_of_time(get: Get, registry: Registry) -> None:
    registry.pages["/x-1.0-py3-none-any.whl"] = registry.pages["/simple/x/"] = Page(BODY)
    assert [get("/x-1.0-py3-none-any.whl").how for _ in range(2)] == ["miss", "hit"]
    assert [get("/simple/x/").how for _ in range(2)] == ["miss", "miss"]


def test_one_connection_serves_many_requests(shared: Lab, registry: Registry) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    with shared.connect() as sock:
        for _ in range(3):
            with shared.open(registry.url("/a"), over=sock) as response:
                assert response.read() == BODY
    assert len(registry.asked) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_who_comes_later_reads_along(shared: Lab, registry: Registry, framing: str) -> None:
    """One download, two clients, the second one joins in the middle and neither waits for the end."""
    go = threading.Event()
    registry.pages["/slow"] = Page(BODY, [FRESH], framing=framing, steps=2, go=go)
    url = registry.url("/slow")
    with shared.open(url) as first, shared.open(url) as second:
        assert first.read(1000) == second.read(1000) == BODY[:1000]
        go.set()
        assert first.read() == second.read() == BODY[1000:]
        assert (first.headers["x-hutch-cache"], second.headers["x-hutch-cache"]) == ("miss", "hit")
    assert len(registry.asked) == 1


def test_who_asks_together_waits_for_one_answer(shared: Lab, registry: Registry) -> None:
    """Before the head is there, nobody knows whether it may be shared; it is asked for once all the same."""
    arrived, go = threading.Event(), threading.Event()

    def slow_head(_: Asked) -> Page:
        arrived.set()
        return Page(BODY, ["Cache-Control: no-cache"])

    registry.pages["/a"] = slow_head
    registry.before_answer = go
    before = shared.requests
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(shared.get, registry.url("/a")) for _ in range(8)]
        assert arrived.wait(10)
        wait_for(lambda: shared.requests >= before + 8, "all to have asked", 20)
        time.sleep(0.3)  # and for the process to have read it
        go.set()
        assert all(answer.result(20).body == BODY for answer in answers)
    assert len(registry.asked) == 1


def test_what_cannot_be_shared_is_fetched_by_each(shared: Lab, registry: Registry) -> None:
    registry.pages["/mine"] = lambda asked: Page(str(asked.connection).encode(), ["Set-Cookie: who=you"])
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(shared.get, [registry.url("/mine")] * 8))
    assert {answer.how for answer in answers} == {"bypass"}
    assert len(registry.asked) == 8
