"""Several tasks, several daemons, and a garbage collection in the middle of it: nobody takes what is another's.

Must not stop the daemon that all tests of the module share.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import tasks
from tests.support.daemon import HUTCH, Daemon


def test_two_tasks_that_miss_together_build_once(daemon: Daemon, unique: str) -> None:
    spec: dict[str, Any] = {"setup": f"{unique}sleep 1; date +%N >/root/born"}
    both = [tasks.submit(daemon, "cat", "/root/born", **spec) for _ in range(3)]
    done = [tasks.finish(daemon, task) for task in both]
    assert sorted(task["cache"]["hit"] for task in done) == [False, True, True]
    assert len({tasks.output(daemon, task["id"]) for task in done}) == 1


def test_a_task_waiting_for_another_s_setup_can_be_cancelled(daemon: Daemon, unique: str) -> None:
    spec: dict[str, Any] = {"setup": f"{unique}echo at-work; sleep 4"}
    first = tasks.submit(daemon, "true", **spec)
    tasks.wait_for_output(daemon, first, b"at-work", "setup")
    second = tasks.submit(daemon, "true", **spec)
    time.sleep(0.3)
    assert tasks.cancel(daemon, second)["state"] == "cancelled"
    assert tasks.finish(daemon, first)["state"] == "succeeded"


def test_two_daemons_side_by_side(daemon: Daemon, other_daemon: Daemon) -> None:
    with tasks.running(daemon, "sleep 612.5 &") as one:
        with tasks.running(other_daemon, "sleep 612.25 &", image="tiny") as other:
            first, second = (tasks.pid_of(word) for word in ("612.5", "612.25"))
            assert Path(f"/proc/{first}/uid_map").read_text() != Path(f"/proc/{second}/uid_map").read_text()
            assert [task["id"] for task in daemon.client.tasks() if task["state"] == "running"] == [one]
            assert [task["id"] for task in other_daemon.client.tasks()] == [other]
            assert daemon.hutch("task", "show", other).returncode == 1
        other_daemon.stop()
        assert tasks.execute(daemon, one, "echo", "still here").text == "still here"


@pytest.mark.parametrize("torn", [False, True])
def test_a_daemon_on_a_copy_of_the_state(daemon: Daemon, state: Path, new_daemon: Daemon, torn: bool) -> None:
    """As of a machine that was switched off, say; started beside the first one it must not take that one's for its own."""
    new_daemon.state.mkdir(exist_ok=True)
    own = (state / "instance").read_text()
    (new_daemon.state / "instance").write_text("" if torn else own)
    with tasks.running(daemon) as task:
        new_daemon.start()
        assert (new_daemon.state / "instance").read_text().split()[0] != own.split()[0]
        new_daemon.stop()
        assert tasks.execute(daemon, task, "echo", "still here").text == "still here"


def test_a_second_daemon_on_the_same_state_is_refused(daemon: Daemon, state: Path, tmp_path: Path) -> None:
    for options, words in (
        (("--state", str(state), "--socket", str(tmp_path / "s")), b"another daemon serves the state"),
        (("--state", str(tmp_path / "x"), "--socket", str(daemon.socket)), b"another daemon listens on"),
    ):
        done = subprocess.run([HUTCH, "serve", *options], capture_output=True, timeout=60, check=False)
        assert done.returncode == 1
        assert words in done.stderr
        assert b"Traceback" not in done.stderr
    assert daemon.client.health()["status"] == "ok", "the first one noticed nothing"
    assert tasks.run(daemon, "true")["state"] == "succeeded"


def test_gc_spares_what_running_tasks_stand_on(daemon: Daemon, unique: str) -> None:
    """An image may be removed and everything expire while a task runs: its files stay until its end."""
    with tasks.running(daemon, setup=f"{unique}echo from-setup >/root/file") as task:
        collected = daemon.hutch("gc", "--json")
        assert collected.returncode == 0
        assert tasks.execute(daemon, task, "cat", "/root/file").text == "from-setup"
    assert tasks.run(daemon, "cat", "/root/file", setup=f"{unique}echo from-setup >/root/file")["cache"]["hit"]


def test_an_image_that_is_removed_under_a_running_task(other_daemon: Daemon) -> None:
    with tasks.running(other_daemon, image="tiny") as task:
        assert other_daemon.hutch("image", "rm", "tiny").returncode == 0
        assert other_daemon.hutch("gc").returncode == 0
        assert tasks.execute(other_daemon, task, "ls", "/usr/bin/env").text == "/usr/bin/env"
    for image, remedy in (("tiny", b"hutch image ls"), ("base", b"hutch image build base")):
        gone = other_daemon.hutch("run", "--image", image, "--", "true")
        assert gone.returncode == 1
        assert remedy in gone.stderr
    assert b'"layers": 0' not in other_daemon.hutch("gc", "--json").stdout
    left = list((other_daemon.state / "layers").iterdir())
    assert len(left) <= 1, "the daemon's own small layer may stay"
