"""The artifact cache's process is killed, at any time, or told to end."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import Lab, cache, kinds
from tests.support.artifact_server import FRESH, MEBI, Page, Registry
from tests.support.tasks import wait_for

TRUST = Path(certifi.where())
BODY = os.urandom(4 * MEBI)


def test_killed_in_the_middle_of_a_download(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/done"] = Page(b"done", [FRESH])
    registry.pages["/a"] = Page(BODY, [FRESH], steps=2, go=threading.Event())
    with cache(tmp_path, TRUST) as lab:
        lab.get(registry.url("/done"))
        wait_for(lambda: ".meta" in kinds(tmp_path), "the first file", 10)
        with lab.open(registry.url("/a")) as response:
            assert response.read(MEBI) == BODY[:MEBI]
            lab.process.kill()
            with pytest.raises(Exception, match=r"Incomplete|reset"):
                response.read()
    assert kinds(tmp_path) == [".body", ".meta", ".tmp"]
    registry.pages["/a"] = Page(BODY, [FRESH])
    with cache(tmp_path, TRUST) as lab:
        assert kinds(tmp_path) == [".body", ".meta"]
        assert lab.get(registry.url("/done")).how == "hit"
        assert [lab.get(registry.url("/a")).body == BODY for _ in range(2)] == [True, True]
    assert len(registry.asked_for("/a")) == 2


def test_killed_again_and_again_while_storing(registry: Registry, tmp_path: Path) -> None:
    """Whenever it happens, what is served afterwards is whole and right."""
    for number in range(20):
        registry.pages[f"/{number}"] = Page(BODY[: number * 10_000], [FRESH])
    for life in range(8):
        with cache(tmp_path, TRUST) as lab:
            for number in range(20):
                assert lab.get(registry.url(f"/{number}")).body == BODY[: number * 10_000]
                if number == 2 * life + 3:
                    time.sleep(life / 1000)
                    lab.process.kill()
                    break
    with cache(tmp_path, TRUST) as lab:
        answers = [lab.get(registry.url(f"/{number}")) for number in range(20)]
        assert [answer.body for answer in answers] == [BODY[: number * 10_000] for number in range(20)]
        assert {answer.how for answer in answers[:3]} == {"hit"}


@pytest.mark.parametrize("how", ["term", "end of the daemon"])
def test_it_ends_at_once_with_connections_open(lab: Lab, registry: Registry, how: str) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH], steps=2, go=threading.Event())
    with lab.connect() as idle, lab.open(registry.url("/a")) as response:
        response.read(1000)
        before = time.monotonic()
        if how == "term":
            lab.process.send_signal(signal.SIGTERM)
            lab.process.wait(10)
        lab.close()
        assert time.monotonic() - before < 5
        assert idle.recv(1) == b""
