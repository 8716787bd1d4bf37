"""The filter's processes are killed while sandboxes ask: what is left goes on, what died comes back, no decision is skipped.

Must not share a laboratory between tests: each one's leaks are looked for. No test judges by how long a recovery takes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

from tests.support.filter_lab import Lab, lab
from tests.support.filter_load import Ask, Load, kill, stopped, wait_for_others
from tests.support.tasks import wait_for

INSTANT = 0.01  # seconds that a killed process may still run on another core
# Prints the different answers to several requests over new connections, one line each time that it reads one.
ASKER = """
import socket, sys
address = socket.gethostbyname("up.test")
def status():
    with socket.create_connection((address, 80), 8) as connection:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: up.test\\r\\nConnection: close\\r\\n\\r\\n")
        return connection.recv(9999)[9:12].decode()
print("ready", flush=True)
for _ in sys.stdin:
    print(*sorted({status() for _ in range(4)}), flush=True)
"""


@pytest.fixture
def own() -> Iterator[Lab]:
    """A laboratory of the test's own, whose filter may die. What it leaves behind is seen by the leak check."""
    with lab(sandboxes=1) as laboratory:
        wait_for(lambda: len(laboratory.filter.processes()) == 4, "a master, two workers and a cache", 20)
        yield laboratory


def nothing_was_skipped(net: Lab, asks: list[Ask], killed: float) -> None:
    """All that was asked since the kill was answered rightly; only what was under way by then may have been broken off."""
    wrong = [ask for ask in asks if ask.allowed and ask.outcome != "200" and ask.began > killed + INSTANT]
    assert wrong == []
    for allowed in (True, False):
        assert any(ask.ended < killed for ask in asks if ask.allowed is allowed), "there was no load"
        assert any(ask.began > killed + INSTANT for ask in asks if ask.allowed is allowed), "there was no load after it"
    assert [ask for ask in asks if not ask.allowed and ask.outcome == "200"] == []
    assert {(seen.host, seen.path) for seen in net.upstream.seen} == {("up.test", "/")}


@pytest.mark.parametrize("number", [1, 2], ids=["one", "all"])
def test_workers_die_under_load(own: Lab, number: int, record_property: pytest.RecordProperty) -> None:
    own.policy("limited", "up.test")
    with Load(own) as load:
        time.sleep(1.5)
        former = own.filter.workers()
        killed = kill(*former[:number])
        served = wait_for_others(own, former, number)
        time.sleep(1.5)
        asks = load.end()
    record_property("seconds until it served again", round(served - killed, 3))
    print(f"\n{number} of 2 workers back after {served - killed:.3f} s")
    nothing_was_skipped(own, asks, killed)
    assert any(ask.allowed and killed + INSTANT < ask.began < served + 0.5 for ask in asks)
    assert served - killed < 5


@pytest.mark.parametrize("number", [1, 2], ids=["one", "all"])
def test_while_workers_are_missing(own: Lab, number: int) -> None:
    """The master is stopped meanwhile, so that there is a time to look at."""
    own.policy("limited", "up.test")
    with Load(own) as load:
        time.sleep(1)
        former = own.filter.workers()
        with stopped(own.filter.host.pid):
            killed = kill(*former[:number])
            time.sleep(0.5)
            before = len(own.upstream.seen)
            time.sleep(1)
            went = len(own.upstream.seen) - before
            until = time.monotonic()
        wait_for_others(own, former, number)
        time.sleep(1)
        asks = load.end()
    nothing_was_skipped(own, asks, killed)
    waited = [ask for ask in asks if ask.allowed and ask.began < until < ask.ended and ask.outcome == "200"]
    if number == 1:
        assert went > 5, "the other worker goes on"
    else:
        assert went == 0, "nothing leaves"
        assert len(waited) == 4, "each client has a connection that waits"


@pytest.mark.parametrize("what", ["everything", "the master"])
def test_it_comes_back_alone_with_the_same_policies(own: Lab, what: str) -> None:
    own.policy("limited", "up.test")
    with Load(own) as load:
        time.sleep(1)
        former, master = own.filter.workers(), own.filter.host.pid
        killed = kill(*own.filter.processes()) if what == "everything" else kill(master)
        wait_for(lambda: not set(own.filter.workers()) & set(former), "the end of the former ones", 10)
        time.sleep(0.2)
        before = after = len(own.upstream.seen)
        while not own.filter.workers():
            after = len(own.upstream.seen)
            assert time.monotonic() < killed + 20
        served = wait_for_others(own, former)
        time.sleep(1)
        asks = load.end()
    print(f"\n{what} back after {served - killed:.3f} s")
    assert after == before, "in between nothing leaves"
    nothing_was_skipped(own, asks, killed)
    assert own.filter.host.pid not in (0, master)
    assert any(ask.allowed and killed + INSTANT < ask.began and ask.ended < served + 1 for ask in asks)


def test_the_cache_dies_under_load(own: Lab) -> None:
    own.policy("limited", preset="package-managers", registries=["up.test"])
    with Load(own) as load:
        time.sleep(1)
        kills = []
        for _ in range(3):
            [cache] = wait_for(lambda: own.filter.caches() or None, "the cache", 10)
            kills.append(kill(cache))
            wait_for(lambda cache=cache: own.filter.caches() not in ([], [cache]), "another", 10)
        time.sleep(1)
        asks = load.end()
    broken = [ask for ask in asks if ask.allowed and ask.outcome != "200"]
    assert [ask for ask in broken if not any(ask.began < killed + INSTANT < ask.ended + 1 for killed in kills)] == []
    nothing_was_skipped(own, asks, kills[-1])


@pytest.mark.parametrize("how", ["it cannot serve", "it hangs"])
def test_without_the_cache_registries_are_asked_directly(own: Lab, how: str) -> None:
    if how == "it cannot serve":
        own.restart(artifact_bytes=-1)  # which only the cache has to understand
    own.policy("limited", preset="package-managers", registries=["up.test"])
    with contextlib.ExitStack() as stack:
        if how == "it hangs":
            assert "x-hutch-cache" in own.curl("-i", "https://up.test/").stdout
            stack.enter_context(stopped(*own.filter.caches()))
            time.sleep(4)
        for url in ("https://up.test/", "http://up.test/"):
            done = own.curl("-i", "--max-time", "5", url)
            assert "hello up.test" in done.stdout, done
            assert "x-hutch-cache" not in done.stdout
    assert own.curl("--fail", "https://other.test/").returncode != 0
    assert {seen.host for seen in own.upstream.seen} == {"up.test"}


def test_a_policy_that_changes_while_workers_die(own: Lab) -> None:
    own.policy("limited", "up.test")
    with own.popen(ASKER) as asker:
        assert asker.stdin is not None
        assert asker.stdout is not None
        assert asker.stdout.readline() == "ready\n"
        for round_ in range(8):
            former = own.filter.workers()
            victim, allowed = random.choice(former), round_ % 2 == 1
            kill_first = round_ % 4 < 2
            if kill_first:
                kill(victim)
            own.filter.policy(own.address(), "limited", "up.test" if allowed else "other.test")
            if not kill_first:
                kill(victim)
            wait_for(lambda victim=victim: len({*own.filter.workers()} - {victim}) == 2, "two workers", 10)
            workers = own.filter.workers()
            for pid in workers:
                with stopped(*(other for other in workers if other != pid)):
                    asker.stdin.write("\n")
                    asker.stdin.flush()
                    assert asker.stdout.readline() == ("200\n" if allowed else "403\n"), (round_, pid == workers[0])
        asker.stdin.close()
        assert asker.wait(10) == 0


def test_a_worker_that_hangs_is_replaced(own: Lab) -> None:
    own.policy("limited", "other.test")
    former = own.filter.workers()
    hanging, other = former
    os.kill(hanging, signal.SIGSTOP)
    began = time.monotonic()
    own.filter.policy(own.address(), "limited", "up.test")
    print(f"\nnoticed after {time.monotonic() - began:.1f} s")
    wait_for_others(own, former, 1)
    assert hanging not in own.filter.workers()
    with stopped(other):
        assert own.curl("--max-time", "5", "http://up.test/").returncode == 0
        assert own.curl("--fail", "--max-time", "5", "http://other.test/").returncode != 0
    assert {seen.host for seen in own.upstream.seen} == {"up.test"}
