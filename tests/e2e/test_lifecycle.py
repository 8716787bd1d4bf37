"""The life of a task as its user sees it: exit codes, refs, cancelling, time limits, removal.

Uses the command line and the API only.
"""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import repos, tasks
from tests.support.daemon import HUTCH, Daemon
from tests.support.tasks import sh


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 37", 37), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_the_command_s_exit_code_is_the_task_s(daemon: Daemon, script: str, code: int) -> None:
    done = daemon.hutch("run", "--", *sh(script))
    assert done.returncode == code


def test_a_command_that_is_not_there(daemon: Daemon) -> None:
    done = daemon.hutch("run", "--", "no-such-command-here")
    assert done.returncode == 127
    assert b"no-such-command-here" in done.stderr


def test_ctrl_c_cancels_the_task(daemon: Daemon) -> None:
    run = start_run(daemon, "--", *sh("trap 'echo told-to-end; exit 5' TERM; echo at-work; sleep 600 & wait"))
    read_until(run, b"at-work")
    run.send_signal(signal.SIGINT)
    out, err = run.communicate(timeout=60)
    assert run.returncode == 130
    assert b"told-to-end" in out, "a command that listens may tidy up"
    assert b"cancel" in err
    task: dict[str, Any] = daemon.client.tasks()[0]  # type: ignore[assignment]
    assert (task["state"], task["error"]) == ("cancelled", None)


def start_run(daemon: Daemon, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {"HUTCH_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [HUTCH, "run", *arguments], stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
    )


def read_until(run: subprocess.Popen[bytes], text: bytes) -> None:
    """Read the command's output up to `text`; the test's own time limit bounds it."""
    assert run.stdout is not None
    seen = b""
    while text not in seen:
        piece = run.stdout.read1(65536)  # type: ignore[attr-defined]
        assert piece, f"it ended without {text!r}: {seen!r} {run.stderr and run.stderr.read()!r}"
        seen += piece


def test_cancelling_while_setup_ignores_sigterm(daemon: Daemon, unique: str) -> None:
    setup = f"{unique}trap '' TERM INT HUP; echo at-work; while true; do sleep 1; done"
    task = tasks.submit(daemon, "true", setup=setup)
    tasks.wait_for_output(daemon, task, b"at-work", "setup")
    began = time.monotonic()
    done = tasks.cancel(daemon, task)
    assert (done["state"], tasks.phases(done)[-1]) == ("cancelled", "setup")
    assert time.monotonic() - began < 10
    assert not tasks.run(daemon, "true", setup=f"{unique}true")["cache"]["hit"]


def test_the_result_of_a_cancelled_task_is_kept(daemon: Daemon, repo: Path) -> None:
    task = tasks.submit(daemon, *sh("echo changed >file.txt; echo at-work; sleep 600"), repo=str(repo))
    tasks.wait_for_output(daemon, task, b"at-work")
    done = tasks.cancel(daemon, task)
    assert (done["state"], done["diff"]["files"]) == ("cancelled", 1)
    assert b"+changed" in daemon.client.diff(task).read()


def test_a_task_that_takes_too_long(daemon: Daemon, repo: Path) -> None:
    command = sh("echo changed >file.txt; exec sleep 600")
    done = daemon.hutch("run", "--repo", str(repo), "--timeout", "3s", "--json", "--", *command)
    assert done.returncode == 124
    assert b'"state": "timed_out"' in done.stdout
    task: dict[str, Any] = daemon.client.tasks()[0]  # type: ignore[assignment]
    assert "longer than 3 s" in task["error"]["message"]
    assert task["diff"]["files"] == 1


def test_cancelling_twice_and_after_the_end_does_no_harm(daemon: Daemon) -> None:
    task = tasks.submit(daemon, *sh("trap '' TERM; echo at-work; sleep 600"), timeout=3.0)
    tasks.wait_for_output(daemon, task, b"at-work")
    for _ in range(3):
        daemon.client.cancel(task)
    done = tasks.finish(daemon, task)
    assert done["state"] == "cancelled"
    daemon.client.cancel(task)
    assert daemon.client.task(task)["state"] == "cancelled"
    assert [event["type"] for event in tasks.events(daemon, task)].count("end") == 1


def test_kinds_of_refs(daemon: Daemon, repo: Path) -> None:
    main = repos.git(repo, "rev-parse", "main")
    feature = repos.git(repo, "rev-parse", "feature")
    look = sh(
        "cat file.txt; git rev-parse HEAD; git status --porcelain; git symbolic-ref -q --short HEAD || echo detached"
    )
    expected = {
        None: ("main", main, "main"),
        "main": ("main", main, "main"),
        "feature": ("feature", feature, "feature"),
        "v1": ("main", main, "detached"),
        feature[:9]: ("feature", feature, "detached"),
        main: ("main", main, "detached"),
    }
    for ref, seen in expected.items():
        done = tasks.run(daemon, *look, repo=str(repo), ref=ref)
        assert done["commit"] == seen[1], ref
        assert tasks.output(daemon, done["id"]).decode().split() == list(seen), ref
        assert done["diff"] == {"files": 0, "insertions": 0, "deletions": 0}, ref


@pytest.mark.parametrize("ref", ["no-such-branch", "fffffff", "0" * 40, "--upload-pack=x", "a..b", "main~1", " "])
def test_an_unknown_ref_is_one_sentence(daemon: Daemon, repo: Path, ref: str) -> None:
    done = daemon.hutch("run", "--repo", str(repo), f"--ref={ref}", "--", "true")
    assert done.returncode == 1
    assert done.stdout == b""
    last = done.stderr.decode().strip().splitlines()[-1]
    assert "cannot" in last, done.stderr
    assert "Traceback" not in done.stderr.decode()


def test_removing_a_task(daemon: Daemon, repo: Path, state: Path) -> None:
    with tasks.running(daemon, repo=str(repo)) as task:
        refused = daemon.hutch("task", "rm", task)
        assert refused.returncode == 1
        assert b"running" in refused.stderr
    changed = tasks.run(daemon, *sh("echo x >file.txt"), repo=str(repo))["id"]
    for one in (task, changed):
        assert daemon.hutch("task", "rm", one[:8]).returncode == 0
        gone = daemon.hutch("task", "show", one)
        assert (gone.returncode, gone.stdout) == (1, b"")
        assert b"there is no task" in gone.stderr
        assert not (state / "tasks" / one).exists()
    kept = subprocess.run(["grep", "-rl", changed, str(state / "git")], capture_output=True, timeout=30, check=False)
    assert kept.stdout == b"", "its result is gone from the repository too"


def test_what_a_task_wrote_is_gone_after_its_end(daemon: Daemon, state: Path) -> None:
    done = tasks.run(daemon, *sh("mkdir -p /root/deep/er; echo x >/root/deep/er/file; chmod 0 /root/deep"))
    tasks.wait_for(lambda: not (state / "tasks" / done["id"] / "agent").exists(), "the removal")
    assert sorted(path.name for path in (state / "tasks" / done["id"]).iterdir()) == ["events.ndjson"]
