"""What setup leaves for the tasks after it: snapshots, misses and their reasons, exports, and nothing else.

Each test has an environment of its own, by a word in its setup script.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from tests.support import repos, tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh


def snapshot_count(daemon: Daemon, state: Path) -> int:
    return len(list((state / "layers").iterdir()))


def test_maintenance_runs_on_a_hit_only(daemon: Daemon, repo: Path, unique: str) -> None:
    spec: dict[str, Any] = {
        "repo": str(repo),
        "setup": f"{unique}echo setup >>/root/trace",
        "maintenance": "echo maintenance >>/root/trace; cat file.txt",
    }
    first = tasks.run(daemon, "cat", "/root/trace", **spec)
    assert (first["cache"]["hit"], tasks.phases(first)) == (
        False,
        ["fetch", "checkout", "setup", "checkout", "agent", "result"],
    )
    assert tasks.output(daemon, first["id"]) == b"setup\n"
    second = tasks.run(daemon, "cat", "/root/trace", **spec)
    assert (second["cache"]["hit"], tasks.phases(second)) == (
        True,
        ["fetch", "maintenance", "agent", "result"],
    )
    assert tasks.output(daemon, second["id"]) == b"setup\nmaintenance\n"
    assert tasks.output(daemon, second["id"], "maintenance") == b"main\n", "it sees the task's checkout"
    third = tasks.run(daemon, "cat", "/root/trace", **spec)
    assert tasks.output(daemon, third["id"]) == b"setup\nmaintenance\n", "what maintenance did is not in the snapshot"
    assert second["cache"]["key"] == first["cache"]["key"]
    assert "old" in second["cache"]["reason"]


def test_a_miss_names_what_changed(daemon: Daemon, repo: Path, unique: str) -> None:
    spec: dict[str, Any] = {"repo": str(repo), "setup": f"{unique}true", "maintenance": "true", "env": {"A": "1"}}
    first = tasks.run(daemon, "true", **spec)["cache"]
    assert (first["hit"], first["reason"]) == (False, "first run of this environment")
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "setup": ({"setup": f"{unique}true; true"}, "setup script"),
        "maintenance": ({"maintenance": "true; true"}, "maintenance script"),
        "env": ({"env": {"A": "2"}}, "variables"),
        "network": ({"network": {"setup": {"access": "off"}}}, "setup's network"),
    }
    for change, words in changes.values():
        tasks.run(daemon, "true", **spec)  # so that the latest snapshot, which the reason is told by, is this one
        cache = tasks.run(daemon, "true", **{**spec, **change})["cache"]
        assert not cache["hit"]
        assert words in cache["reason"], cache
    again = tasks.run(daemon, "true", **spec)["cache"]
    assert again["hit"]
    agent = {"network": {"agent": {"access": "unrestricted"}}, "timeout": 60}
    assert tasks.run(daemon, "true", **{**spec, **agent})["cache"]["hit"]


def test_a_failing_setup_stops_the_task(daemon: Daemon, repo: Path, unique: str, state: Path) -> None:
    before = snapshot_count(daemon, state)
    setup = f"{unique}echo to-stdout; echo to-stderr >&2; false; echo not-reached"
    done = daemon.hutch("run", "--repo", str(repo), "--setup", setup, "--", "echo", "agent-ran")
    assert done.returncode == 1
    assert done.stdout == b""
    assert b"to-stdout" in done.stderr
    assert b"to-stderr" in done.stderr
    assert b"not-reached" not in done.stderr
    assert b"setup failed with exit code 1" in done.stderr
    task: dict[str, Any] = daemon.client.tasks()[0]  # type: ignore[assignment]
    assert (task["state"], task["exit_code"], tasks.phases(task)[-1]) == ("failed", None, "setup")
    assert task["phases"][-1]["exit_code"] == 1
    assert task["error"]["remedy"].startswith(f"hutch task logs {task['id']}")
    logs = daemon.hutch("task", "logs", task["id"])
    assert b"to-stdout" in logs.stderr
    assert snapshot_count(daemon, state) == before
    again = tasks.run(daemon, "true", repo=str(repo), setup=setup)
    assert not again["cache"]["hit"]


def test_a_failing_maintenance_stops_the_task(daemon: Daemon, unique: str) -> None:
    spec: dict[str, Any] = {"setup": f"{unique}true", "maintenance": "exit 3"}
    assert tasks.run(daemon, "true", **spec)["state"] == "succeeded"
    failed = tasks.run(daemon, "true", **spec)
    assert (failed["state"], tasks.phases(failed)[-1]) == ("failed", "maintenance")
    assert "maintenance failed with exit code 3" in failed["error"]["message"]


def test_background_processes_of_setup_end_with_it(daemon: Daemon, unique: str) -> None:
    setup = f"{unique}(setsid nohup sleep 611.5 >/dev/null 2>&1 &) ; sleep 611.25 & sleep 0.1"
    began = time.monotonic()
    done = tasks.run(daemon, *sh("ps -e -o args 2>/dev/null || cat /proc/[0-9]*/cmdline | tr '\\0' ' '"), setup=setup)
    assert done["state"] == "succeeded"
    assert time.monotonic() - began < 30
    assert b"611" not in tasks.output(daemon, done["id"])
    assert tasks.host_pids("611.5") + tasks.host_pids("611.25") == []


def test_exports_in_bashrc_reach_the_agent_and_plain_ones_do_not(daemon: Daemon, unique: str) -> None:
    setup = unique + (
        "export PLAIN=plain\n"
        "echo 'export FROM_BASHRC=\"two words\" PATH=/opt/tool/bin:$PATH' >>~/.bashrc\n"
        "mkdir -p /opt/tool/bin; printf '#!/bin/sh\\necho the tool\\n' >/opt/tool/bin/tool; chmod +x /opt/tool/bin/tool"
    )
    look = sh('echo "[$PLAIN][$FROM_BASHRC]"; tool')
    first, second = (tasks.run(daemon, *look, setup=setup)["id"] for _ in range(2))
    assert tasks.output(daemon, first) == tasks.output(daemon, second) == b"[][two words]\nthe tool\n"
    assert tasks.output(daemon, tasks.run(daemon, "tool", setup=setup)["id"]) == b"the tool\n"


EARLY_RETURN = """# as Ubuntu has it
case $- in
    *i*) ;;
      *) return;;
esac
[ -z "$PS1" ] && return
shopt -s checkwinsize
"""


def test_exports_behind_an_early_return_are_seen_too(daemon: Daemon, unique: str) -> None:
    setup = f"{unique}cat >~/.bashrc <<'EOF'\n{EARLY_RETURN}EOF\necho 'export LATE=seen' >>~/.bashrc"
    done = tasks.run(daemon, *sh('echo "[$LATE]"'), setup=setup)
    assert tasks.output(daemon, done["id"]) == b"[seen]\n"
    assert tasks.output(daemon, done["id"], stream="stderr") == b""


def test_a_broken_bashrc_does_not_stop_the_command(daemon: Daemon, unique: str) -> None:
    setup = f"{unique}echo 'export A=1; if then (' >~/.bashrc"
    done = tasks.run(daemon, "echo", "ran", setup=setup)
    assert tasks.output(daemon, done["id"]) == b"ran\n"


def test_variables_of_the_task_are_in_all_phases(daemon: Daemon, unique: str) -> None:
    env = {"GREETING": "hello 'world' $HOME \n\u00e9", "PATH": "/somewhere:/usr/bin:/bin"}
    done = tasks.run(
        daemon, "python3", "-c", "import os; print(os.environ['GREETING'], os.environ['PATH'])",
        setup=f"{unique}printf %s \"$GREETING\"", env=env,
    )  # fmt: skip
    assert tasks.output(daemon, done["id"], "setup").decode() == env["GREETING"]
    assert tasks.output(daemon, done["id"]).decode() == f"{env['GREETING']} {env['PATH']}\n"


def test_another_branch_from_the_same_snapshot(daemon: Daemon, repo: Path, unique: str) -> None:
    setup = f"{unique}echo built >build.out; echo ignored >>.git/info/exclude; git rev-parse --abbrev-ref HEAD"
    first = tasks.run(daemon, "true", repo=str(repo), setup=setup)
    assert tasks.output(daemon, first["id"], "setup") == b"main\n"
    look = sh("cat file.txt build.out new/only-here.txt; ls keep.txt 2>&1; git status --porcelain")
    second = tasks.run(daemon, *look, repo=str(repo), setup=setup, ref="feature")
    assert second["cache"]["hit"]
    said = tasks.output(daemon, second["id"]).decode()
    assert said.startswith("feature\nbuilt\nx\nls: cannot access 'keep.txt'")
    assert second["diff"]["files"] == 0, "what setup left untracked is no change of the task's"


def test_a_new_commit_of_the_default_branch_still_hits(daemon: Daemon, repo: Path, unique: str) -> None:
    spec: dict[str, Any] = {"repo": str(repo), "setup": f"{unique}true"}
    tasks.run(daemon, "true", **spec)
    commit = repos.commit(repo, {"file.txt": "newer\n"})
    done = tasks.run(daemon, "cat", "file.txt", **spec)
    assert (done["cache"]["hit"], done["commit"]) == (True, commit)
    assert tasks.output(daemon, done["id"]) == b"newer\n"


def test_directories_of_a_cached_state_can_be_renamed(daemon: Daemon, tmp_path: Path, unique: str) -> None:
    """overlayfs refuses that unless told otherwise, and `git mv` has no way around it."""
    repo = repos.make(tmp_path / "project", {"lib/a.txt": "a\n", "lib/sub/b.txt": "b\n", "keep.txt": "k\n"})
    setup = f"{unique}mkdir -p build lib/made && echo m >build/m && echo made >lib/made/x"
    moves = (
        "git mv lib src && git mv src/sub top && echo more >>src/a.txt && rm src/made/x && mv build lib && mv lib build && "
        "mkdir -p deep && mv /etc/apt deep/apt && mv deep/apt /etc/apt && git status --porcelain"
    )
    for turn in range(2):
        done = tasks.run(daemon, *sh(moves), repo=str(repo), setup=setup)
        assert done["exit_code"] == 0, tasks.output(daemon, done["id"], stream="stderr")
        assert done["cache"]["hit"] is (turn == 1)
        patch = daemon.client.diff(done["id"]).read()
        fresh = tmp_path / f"fresh{turn}"
        repos.git(tmp_path, "clone", "-q", str(repo), str(fresh))
        subprocess.run(["git", "apply"], cwd=fresh, input=patch, check=True, timeout=30)
        files = {
            str(path.relative_to(fresh)) for path in fresh.rglob("*") if path.is_file() and ".git" not in path.parts
        }
        assert files == {"keep.txt", "src/a.txt", "top/b.txt"}
        assert (fresh / "src/a.txt").read_text() == "a\nmore\n"
