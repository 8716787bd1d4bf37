"""Setups that leave the worst behind: the task has the commit that it asked for, or an error says why not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import repos, tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh

SETUPS = {
    "deletes the workspace": "rm -rf /workspace",
    "deletes what is in it": "cd / && rm -rf /workspace/* /workspace/.[!.]*",
    "puts a link in its place": "cd / && rm -rf /workspace && ln -s /etc /workspace",
    "forks for ever": "f() { f | f & }; f; sleep 0.5; true",
    "changes the clock": "date -s 2001-01-01 || true; touch -d 2001-01-01 file; touch -d 2040-01-01 .git/index",
    "leaves HEAD detached": "git checkout -q --detach HEAD~1",
    "leaves a merge": "git checkout -q -b mine HEAD~1; echo x >file; git commit -qam x; git merge main || true",
    "leaves a rebase": "git checkout -q -b mine HEAD~1; echo x >file; git commit -qam x; git rebase main || true",
    "leaves locks": "touch .git/index.lock .git/HEAD.lock .git/refs/heads/main.lock",
    "makes the work tree bare": "git config core.bare true; git config core.worktree /etc",
    "takes the permissions away": "chmod -R a-rwx . ; chattr +i . 2>/dev/null || true",
    "fills the log": "head -c 3000000 /dev/zero | tr '\\\\0' x",
}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    path = repos.make(tmp_path / "project", {"file": "one\n"})
    repos.commit(path, {"file": "main\n"})
    repos.git(path, "checkout", "-q", "-b", "other")
    repos.commit(path, {"file": "other\n", "added": ""})
    repos.git(path, "checkout", "-q", "main")
    return path


@pytest.mark.parametrize("what", SETUPS)
def test_a_setup_that_leaves_a_mess(daemon: Daemon, repo: Path, what: str) -> None:
    agent = sh("cat file; git status --porcelain; git symbolic-ref --short HEAD; echo more >>file")
    for ref, hit in (("other", False), ("main", True)):
        task = tasks.run(
            daemon, *agent, repo=str(repo), ref=ref, setup=SETUPS[what], limits={"pids": 60, "memory": 256 << 20}
        )
        assert (task["state"], task["error"]) == ("succeeded", None), ref
        assert task["cache"]["hit"] is hit
        assert tasks.output(daemon, task["id"], "agent").decode() == f"{ref}\n{ref}\n"
        assert task["diff"]["files"] == 1


def test_a_git_that_does_nothing_is_not_believed(daemon: Daemon, repo: Path) -> None:
    setup = "printf '#!/bin/sh\\nexit 0\\n' >/usr/local/bin/git && chmod +x /usr/local/bin/git"
    task = tasks.run(daemon, "cat", "file", repo=str(repo), ref="other", setup=setup)
    assert task["state"] == "failed"
    said = tasks.output(daemon, task["id"], "checkout", "stderr").decode()
    assert "/usr/local/bin/git does not do what git does; has setup replaced it?" in said


def test_a_branch_that_is_named_like_an_option(daemon: Daemon, repo: Path) -> None:
    repos.git(repo, "update-ref", "refs/heads/-f", "refs/heads/other")
    task = tasks.run(daemon, *sh("cat file; git symbolic-ref HEAD"), repo=str(repo), ref="-f", setup="")
    assert tasks.output(daemon, task["id"], "agent").decode() == "other\nrefs/heads/-f\n"


def test_a_cache_that_is_reset_while_tasks_use_it(daemon: Daemon, repo: Path) -> None:
    daemon.client.create_environment("reset", {"image": "base", "repo": str(repo), "setup": "echo made >/made"})
    try:
        with tasks.running(daemon, environment="reset") as task:
            assert daemon.client.reset_cache("reset")["snapshots"] == 1
            assert tasks.execute(daemon, task, "cat", "/made").text == "made"
            again = tasks.run(daemon, "cat", "/made", environment="reset")
            assert (again["state"], again["cache"]["hit"]) == ("succeeded", False)
            assert tasks.execute(daemon, task, "cat", "/made").text == "made"
    finally:
        daemon.client.remove_environment("reset")
