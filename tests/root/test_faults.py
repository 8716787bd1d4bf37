"""Promises 6 and 8 under faults: whatever fails, and whenever the daemon dies, the next start finds and releases it.

Tasks are told as lost, snapshots are whole or absent, and the host is as it was before.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sandbox.client import HutchError
from tests.support import faults, leaks, tasks
from tests.support.daemon import HUTCH
from tests.support.faults import Victim
from tests.support.tasks import sh

# Where something is being released an error would only be a failed release; the death of the daemon is what counts.
NOT_RAISED = ("lease: about to be released", "task: end stored", "task: end told", "snapshot: stored")


@pytest.fixture(autouse=True)
def no_leaks(victim: Victim) -> Iterator[None]:
    """In place of the general check, which doesn't know this daemon."""
    with victim.watched():
        yield


def test_the_walk_knows_the_steps() -> None:
    found = faults.steps()
    assert len(found) == len(set(found)) >= 16
    assert set(NOT_RAISED) <= set(found)


@pytest.mark.timeout(240)
def test_an_error_at_any_step_is_told_and_leaves_nothing(victim: Victim) -> None:
    for step in faults.steps():
        if step in NOT_RAISED:
            continue
        word = step.replace(" ", "-")
        victim.fault.write_text(step)
        if step == "task: directory made":
            with pytest.raises(HutchError, match="cannot store a new task"):
                victim.submit(word)
        else:
            failed = tasks.finish(victim.daemon, victim.submit(word))
            # A prepared lease may have been at hand.
            assert failed["state"] == "failed" or step.startswith("lease: "), step
            assert failed["state"] == "succeeded" or "injected after" in failed["error"]["message"], (
                step,
                failed["error"],
            )
        victim.fault.write_text("")
        if step.startswith("snapshot"):
            victim.must_work(word)
    victim.must_work("after-all")
    victim.all_is_told()
    victim.disk_is_clean()


def test_leases_that_cannot_be_made_are_told_when_none_is_left(victim: Victim) -> None:
    victim.fault.write_text("lease: connected")
    victim.daemon.restart()
    failed = tasks.run(victim.daemon, "true", image="tiny")
    assert failed["state"] == "failed"
    assert "injected after the step 'lease: connected'" in failed["error"]["message"]
    victim.fault.write_text("")
    assert tasks.run(victim.daemon, "true", image="tiny")["state"] == "succeeded"


@pytest.mark.timeout(200)
def test_a_daemon_that_is_killed_at_any_step(victim: Victim, tmp_path: Path) -> None:
    """Two daemons at a time: most of it is waiting for one to come up."""
    with Victim.make(tmp_path, alone=False) as other, ThreadPoolExecutor(2) as pool:
        walks = [pool.submit(_kill_at, one, faults.steps()[half::2]) for half, one in enumerate((victim, other))]
        for walk in walks:
            walk.result()


def _kill_at(victim: Victim, steps: list[str]) -> None:
    for step in steps:
        word = f"kill-{step.replace(' ', '-')}"
        victim.fault.write_text(f"{step} kill")
        try:
            task = victim.submit(word)
        except HutchError:
            task = ""
        assert victim.has_died(), step
        victim.crash()
        if task and task in {found["id"] for found in victim.daemon.client.tasks()}:
            state = victim.daemon.client.task(task)["state"]
            if step.startswith("lease: "):
                # It may have been made for the next task, while this one had a lease that was prepared.
                assert state in ("lost", "succeeded"), step
            else:
                assert state == ("succeeded" if step.startswith("task: end") else "lost"), step
        if step.startswith("snapshot"):
            victim.must_work(word)
    victim.must_work("after-all")


@pytest.mark.timeout(200)
def test_a_daemon_that_is_killed_at_many_moments(victim: Victim) -> None:
    states = []
    for number, delay in enumerate((0.05, 0.2, 0.4, 0.8)):
        word = f"moment-{number % 2}"
        both = [victim.submit(word) for _ in range(2)]
        time.sleep(delay)
        victim.crash()
        states += [victim.daemon.client.task(task)["state"] for task in both]
    assert "lost" in states
    for word in ("moment-0", "moment-1"):
        victim.must_work(word)


def test_a_daemon_that_is_killed_while_it_starts(victim: Victim) -> None:
    victim.daemon.stop()
    arguments = ["hutch", "serve", "--state", str(victim.daemon.state), "--socket", str(victim.daemon.socket)]
    quiet = [(os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0)]
    for delay in (0.7, 1.5):
        pid = os.posix_spawn(HUTCH, arguments, os.environ, file_actions=quiet)
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    victim.daemon.start()
    victim.must_work("started")


@pytest.mark.parametrize("ignores", ["", "trap '' TERM HUP INT; "])
def test_a_daemon_that_is_stopped_ends_its_tasks_in_order(victim: Victim, ignores: str) -> None:
    daemon = victim.daemon
    script = f"{ignores}echo changed >tracked; (sleep 618.5 &) ; echo at-work; while :; do sleep 0.1; done"
    agents = [tasks.submit(daemon, *sh(script), image="tiny", repo=str(victim.repo)) for _ in range(2)]
    setup = tasks.submit(daemon, "true", image="tiny", setup=f"{ignores}echo at-work; while :; do sleep 0.1; done")
    for task in agents:
        tasks.wait_for_output(daemon, task, b"at-work")
    tasks.wait_for_output(daemon, setup, b"at-work", "setup")
    began = time.monotonic()
    with daemon.client.events(agents[0], follow=True) as stream:
        told = iter(stream)
        next(told)
        os.kill(daemon.pid, signal.SIGTERM)
        assert list(told)[-1]["type"] == "end", "who follows hears of the end"
    assert daemon.stop() == 0
    assert time.monotonic() - began < 30
    assert tasks.host_pids("618.5") == []
    victim.nothing_is_left(leaks.look())
    daemon.start()
    for task in (*agents, setup):
        assert daemon.client.task(task)["state"] == "lost"
    for task in agents:
        assert b"+changed" in daemon.client.diff(task).read(), "what the agent did until then is kept"
    victim.all_is_told()
    victim.disk_is_clean()


def test_who_follows_a_task_hears_that_the_daemon_died(victim: Victim) -> None:
    with tasks.running(victim.daemon, image="tiny") as task:
        with victim.daemon.client.events(task, follow=True) as stream:
            told = iter(stream)
            next(told)
            victim.crash()
            with pytest.raises(HutchError, match="went away"):
                list(told)
        logs = victim.daemon.hutch("task", "logs", task)
        assert b"lost" in logs.stderr
