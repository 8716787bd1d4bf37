"""Promise 6 for everybody but the daemon: spawner, keepers, filter, inits and jobs that are killed while tasks run.

What must go on goes on; what can't is told with a sentence or an exit code; the next task works; nothing is left.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import repos, tasks
from tests.support.faults import Victim
from tests.support.tasks import sh

STAY = "(setsid sleep 619.5 &) ; echo at-work; while [ ! -e /root/go ]; do sleep 0.05; done; echo went-on"


@pytest.fixture(autouse=True)
def no_leaks(victim: Victim) -> Iterator[None]:
    """In place of the general check, which doesn't know this daemon."""
    with victim.watched():
        yield


def spawner(victim: Victim) -> int:
    return tasks.wait_for(lambda: tasks.children(victim.daemon.pid, "sandbox.inside.spawner") or None, "the spawner")[0]


def filter_process(victim: Victim) -> int:
    return tasks.wait_for(lambda: tasks.children(victim.daemon.pid, "proxy") or None, "the filter")[0]


def init_of(marker: str) -> int:
    """The pid 1 of the sandbox that a process is in."""
    pid = tasks.pid_of(marker)
    namespace = Path(f"/proc/{pid}/ns/pid").readlink()
    while (parent := tasks.parent(pid)) and Path(f"/proc/{parent}/ns/pid").readlink() == namespace:
        pid = parent
    return pid


def start(victim: Victim) -> str:
    task = tasks.submit(victim.daemon, *sh(STAY), image="tiny")
    tasks.wait_for_output(victim.daemon, task, b"at-work")
    return task


def let_go(victim: Victim, task: str) -> None:
    """The running task can still be joined, goes on, and succeeds."""
    assert tasks.execute(victim.daemon, task, "touch", "/root/go").code == 0
    done = tasks.finish(victim.daemon, task)
    assert (done["state"], tasks.output(victim.daemon, task)) == ("succeeded", b"at-work\nwent-on\n")


def test_the_spawner_s_death_hurts_no_task(victim: Victim) -> None:
    task = start(victim)
    dying = spawner(victim)
    os.kill(dying, signal.SIGSTOP)
    # More than are prepared: some wait for the spawner, and then for the next one.
    others = [tasks.submit(victim.daemon, "sleep", "1", image="tiny") for _ in range(20)]
    time.sleep(0.5)
    os.kill(dying, signal.SIGKILL)
    assert {tasks.finish(victim.daemon, other)["state"] for other in others} == {"succeeded"}
    assert spawner(victim) != dying
    let_go(victim, task)
    victim.daemon.restart()  # the keepers of dead spawners end with their leases, at the latest with the daemon
    assert tasks.host_pids("619.5") == []


def test_a_spawner_that_is_killed_over_and_over(victim: Victim) -> None:
    submitted = []
    for _ in range(6):
        submitted += [tasks.submit(victim.daemon, *sh("echo fine"), image="tiny") for _ in range(4)]
        os.kill(spawner(victim), signal.SIGKILL)
        time.sleep(0.05)
    done = [tasks.finish(victim.daemon, task) for task in submitted]
    for task in done:
        assert task["state"] == "succeeded" or "spawner" in task["error"]["message"], task
    assert tasks.run(victim.daemon, "true", image="tiny")["state"] == "succeeded"
    victim.daemon.restart()


@pytest.mark.parametrize("whom", ["keeper", "init"])
def test_a_sandbox_that_loses_its_keeper_or_init_ends(victim: Victim, whom: str) -> None:
    task, neighbour = start(victim), tasks.submit(victim.daemon, *sh("echo at-work; sleep 2; echo fine"), image="tiny")
    tasks.wait_for_output(victim.daemon, neighbour, b"at-work")
    init = init_of("619.5")
    os.kill(tasks.parent(init) if whom == "keeper" else init, signal.SIGKILL)
    done = tasks.finish(victim.daemon, task)
    assert (done["state"], done["exit_code"]) == ("failed", 137)
    assert tasks.host_pids("619.5") == []
    assert tasks.output(victim.daemon, tasks.finish(victim.daemon, neighbour)["id"]) == b"at-work\nfine\n"
    victim.must_work("keeper-or-init")


def test_an_exec_whose_keeper_dies_ends(victim: Victim) -> None:
    task = start(victim)
    init = init_of("619.5")
    with victim.daemon.client.exec(task, ["sleep", "619.25"]) as stream:
        told = iter(stream)
        next(told)
        os.kill(tasks.parent(init), signal.SIGKILL)
        assert tasks.collect(told).code in (137, -9)
    assert tasks.finish(victim.daemon, task)["state"] == "failed"


def test_the_filter_s_death_hurts_no_task(victim: Victim) -> None:
    task = start(victim)
    for _ in range(2):
        before = filter_process(victim)
        os.kill(before, signal.SIGKILL)
        # At once: their policies have to wait for the next filter.
        others = [tasks.submit(victim.daemon, "true", image="tiny") for _ in range(3)]
        assert {tasks.finish(victim.daemon, other)["state"] for other in others} == {"succeeded"}
        assert filter_process(victim) != before
    let_go(victim, task)


def test_a_killed_setup_leaves_no_snapshot(victim: Victim) -> None:
    layers = sorted((victim.daemon.state / "layers").iterdir())
    setup = "(setsid sleep 620.5 &) ; echo at-work; sleep 620.25"
    task = tasks.submit(victim.daemon, "true", image="tiny", setup=setup)
    tasks.wait_for_output(victim.daemon, task, b"at-work", "setup")
    os.kill(init_of("620.5"), signal.SIGKILL)
    done = tasks.finish(victim.daemon, task)
    assert (done["state"], done["error"]["message"]) == ("failed", "setup failed with exit code 137")
    assert sorted((victim.daemon.state / "layers").iterdir()) == layers


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that takes a moment to fetch."""
    path = repos.make(tmp_path_factory.mktemp("large") / "r", {"tracked": "base\n"})
    for number in range(10):
        (path / f"{number}").write_bytes(os.urandom(2 << 20))
    repos.commit(path, {}, "bulk")
    return path


def git_job(victim: Victim) -> int:
    """The git job as soon as it is there; stopped, so that it stays in the middle of its work."""
    deadline = time.monotonic() + 30
    while not (found := tasks.children(victim.daemon.pid, "rootfs.git_job")):
        assert time.monotonic() < deadline, "there is no git job"
        time.sleep(0.002)
    os.kill(found[0], signal.SIGSTOP)
    return found[0]


def assert_gone(pid: int) -> None:
    tasks.wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the job's end", 20)


def test_a_git_job_that_is_killed(victim: Victim, large: Path) -> None:
    task = tasks.submit(victim.daemon, "cat", "tracked", image="tiny", repo=str(large))
    os.kill(git_job(victim), signal.SIGKILL)
    done = tasks.finish(victim.daemon, task)
    assert done["state"] == "failed"
    assert "git_job ended without a result" in done["error"]["message"]
    again = tasks.run(victim.daemon, "cat", "tracked", image="tiny", repo=str(large))
    assert (again["state"], tasks.output(victim.daemon, again["id"])) == ("succeeded", b"base\n")
    victim.crash()  # what the job was building is removed at the next start


def test_a_git_job_ends_with_its_task_and_with_its_daemon(victim: Victim, large: Path) -> None:
    for how in ("cancel", "kill"):
        subprocess.run(["rm", "-rf", victim.daemon.state / "git"], check=True, timeout=60)
        task = tasks.submit(victim.daemon, "true", image="tiny", repo=str(large))
        job = git_job(victim)
        if how == "cancel":
            assert tasks.cancel(victim.daemon, task)["state"] == "cancelled"
        else:
            victim.crash()
            assert victim.daemon.client.task(task)["state"] == "lost"
        assert_gone(job)


def test_a_result_job_that_is_killed_is_made_good(victim: Victim) -> None:
    task = tasks.submit(
        victim.daemon, *sh("echo more >>tracked; echo at-work; sleep 1"), image="tiny", repo=str(victim.repo)
    )
    tasks.wait_for_output(victim.daemon, task, b"at-work")
    os.kill(git_job(victim), signal.SIGKILL)
    done = tasks.finish(victim.daemon, task)
    assert (done["state"], done["error"]) == ("succeeded", None)
    assert b"+more" in victim.daemon.client.diff(task).read()


def test_daemon_spawner_and_keepers_killed_at_once(victim: Victim) -> None:
    task = tasks.submit(victim.daemon, *sh("(sleep 617.5 &) ; echo at-work; sleep 617.25"), image="tiny")
    tasks.wait_for_output(victim.daemon, task, b"at-work")
    everybody = [victim.daemon.pid, *tasks.descendants(victim.daemon.pid)]
    titles = (b"python", b"hutch-keeper", b"hutch-standby")
    helpers = [pid for pid in everybody if any(t in Path(f"/proc/{pid}/cmdline").read_bytes() for t in titles)]
    assert len(helpers) > 5
    for pid in helpers:
        os.kill(pid, signal.SIGKILL)
    victim.crash()
    assert victim.daemon.client.task(task)["state"] == "lost"
    assert tasks.host_pids("617.5") + tasks.host_pids("617.25") == []
    victim.must_work("at-once")
