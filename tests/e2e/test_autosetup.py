"""Automatic setup with the real package managers: one repository with a project for each, as few sandboxes as will do.

Nothing is ignored in the repository, so whatever an installation leaves in sight is seen.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support import projects, repos, tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh

CHECKS = {
    "npm": "npm run -s check",
    "classic": "PATH=/opt/hutch/yarn-1.22.22/bin:$PATH yarn -s check",
    "berry": "yarn check",
    "pnpm": "pnpm -s check",
    "pip": "python3 -m unittest check_it",
    "package": "python3 -m unittest checks/check_it.py",
    "pipenv": "pipenv run python -m unittest check_it",
    "poetry": "poetry run python -m unittest check_it",
    "uv": "uv run --frozen --offline python -m unittest check_it",
}
AGENT = "\n".join(
    [
        "export PYTHONDONTWRITEBYTECODE=1",
        "git status --porcelain",
        *(
            f"(cd {folder} && {check}) >/tmp/log 2>&1 && echo {folder} works || cat /tmp/log"
            for folder, check in CHECKS.items()
        ),
        "git status --porcelain",
    ]
)
WORKS = [f"{folder} works" for folder in CHECKS]


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = projects.monorepo(tmp_path_factory.mktemp("auto") / "mono")
    repos.git(path, "checkout", "-q", "-b", "changed")
    lock = (path / "npm" / "package-lock.json").read_text()
    repos.commit(path, {"npm/package-lock.json": lock.replace('"1.0.0"', '"1.0.1"')})
    repos.git(path, "checkout", "-q", "main")
    return path


@pytest.fixture(scope="module")
def first(daemon: Daemon, repo: Path) -> dict[str, Any]:
    done = tasks.run(daemon, *sh(AGENT), repo=str(repo), seconds=280)
    log = tasks.output(daemon, done["id"], "setup", "stderr").decode()
    assert done["state"] == "succeeded", (done["error"], log[-3000:])
    return done


@pytest.mark.timeout(300)
def test_every_project_works_without_network_in_a_clean_tree(daemon: Daemon, first: dict[str, Any]) -> None:
    assert tasks.output(daemon, first["id"]).decode().splitlines() == WORKS
    assert first["diff"]["files"] == 0
    assert tasks.phases(first) == ["fetch", "checkout", "setup", "checkout", "agent", "result"]


def test_what_was_detected_is_said_first(daemon: Daemon, first: dict[str, Any]) -> None:
    lines = tasks.output(daemon, first["id"], "setup").decode().splitlines()[: len(CHECKS)]
    assert "automatic setup: npm ci in npm/ (npm/package-lock.json)" in lines
    assert "automatic setup: pnpm install --frozen-lockfile in pnpm/ (pnpm/pnpm-lock.yaml)" in lines
    assert all(line.startswith("automatic setup: ") for line in lines)
    assert set(lines) <= set(tasks.notices(daemon, first["id"]).splitlines())


def test_the_second_run_hits_the_cache(daemon: Daemon, repo: Path, first: dict[str, Any]) -> None:
    second = tasks.run(daemon, *sh("git status --porcelain; cd npm && npm run -s check"), repo=str(repo))
    assert (second["cache"]["hit"], second["cache"]["key"]) == (True, first["cache"]["key"])
    assert tasks.phases(second) == ["fetch", "agent", "result"]
    assert tasks.output(daemon, second["id"]) == b"ok\n"


def test_a_commit_with_other_lock_files_is_set_up_on_top(daemon: Daemon, repo: Path, first: dict[str, Any]) -> None:
    changes = "echo x >>npm/node_modules/is-number/index.js; touch npm/node_modules/new; echo y >>npm/check.js; echo z >npm/new"
    done = tasks.run(daemon, *sh(f"git status --porcelain; {changes}"), repo=str(repo), ref="changed")
    assert (done["state"], done["cache"]["hit"]) == ("succeeded", True), done["error"]
    assert tasks.phases(done) == ["fetch", "checkout", "maintenance", "agent", "result"]
    assert "another npm/package-lock.json" in tasks.notices(daemon, done["id"])
    assert tasks.output(daemon, done["id"]) == b""
    patch = daemon.hutch("task", "diff", done["id"]).stdout.decode()
    assert [line for line in patch.splitlines() if line.startswith("diff")] == [
        "diff --git a/npm/check.js b/npm/check.js",
        "diff --git a/npm/new b/npm/new",
    ]


def test_a_changed_lock_file_is_named_by_the_miss(
    daemon: Daemon, repo: Path, first: dict[str, Any], tmp_path: Path
) -> None:
    repos.git(repo, "checkout", "-q", "changed")
    try:
        task = tasks.submit(daemon, "true", repo=str(repo))
        found = tasks.wait_for(lambda: daemon.client.task(task)["cache"], "the verdict of the cache")
        tasks.cancel(daemon, task)
    finally:
        repos.git(repo, "checkout", "-q", "main")
    assert not found["hit"]
    assert "npm/package-lock.json" in found["reason"]


def test_no_setup_and_setup_decide(daemon: Daemon, repo: Path, first: dict[str, Any]) -> None:
    done = daemon.run_json("--repo", str(repo), "--no-setup", "--", "test", "!", "-e", "npm/node_modules")
    assert (done["state"], done["cache"]) == ("succeeded", None)
    assert [phase["name"] for phase in done["phases"]] == ["fetch", "checkout", "agent", "result"]
