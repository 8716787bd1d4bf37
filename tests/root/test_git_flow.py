"""The whole way of one task's repository: fetch, check out over a snapshot, change, result, diff, apply. And whose it may be.

Must not change the checkout that these tests are in: it is the real project that is mirrored here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rootfs.refs import packed_refs
from rootfs.tree import remove_tree
from tests.support import repos
from tests.support.repos import ROOT, fetch, fetch_error, git, job

USER = 1000


@contextmanager
def overlay(state: Path, lowers: list[Path], upper: Path) -> Iterator[Path]:
    for name in ("work", "merged"):
        shutil.rmtree(state / name, ignore_errors=True)
        (state / name).mkdir()
    upper.mkdir()
    stack = ":".join(str(path) for path in lowers)
    options = f"lowerdir={stack},upperdir={upper},workdir={state}/work,redirect_dir=off,metacopy=off,index=off"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, str(state / "merged")], check=True, timeout=30)
    try:
        yield state / "merged"
    finally:
        subprocess.run(["umount", str(state / "merged")], check=True, timeout=30)


def check_out(state: Path, merged: Path, found: dict[str, Any]) -> None:
    (state / "packed-refs").write_text(packed_refs(found["refs"]))
    env = {
        "PATH": os.environ["PATH"],
        "HUTCH_OBJECTS": found["objects"],
        "HUTCH_PACKED_REFS": str(state / "packed-refs"),
        "HUTCH_WORKTREE": f"{merged}/workspace/{found['name']}",
        "HUTCH_COMMIT": found["commit"],
        "HUTCH_BRANCH": found["branch"] or "",
        "HUTCH_ORIGIN_URL": found["origin_url"],
        "HUTCH_DEFAULT_BRANCH": found["default_branch"] or "",
    }
    run = subprocess.run(
        [str(ROOT / "rootfs/checkout.sh")], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "state"
    (path / "image").mkdir(parents=True)
    yield path
    remove_tree(path)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A clone of this very project with some history of its own."""
    path = tmp_path / "project"
    git(tmp_path, "clone", "-q", "--no-hardlinks", str(ROOT), str(path))
    git(path, "checkout", "-q", "-B", "main")
    repos.commit(path, {"docs/new": "on main\n", "old": "x\n"})
    git(path, "checkout", "-q", "-b", "topic")
    (path / "old").unlink()
    repos.commit(path, {"docs/new": "on topic\n", "topic/deep/file": "t\n"})
    git(path, "checkout", "-q", "main")
    return path


def test_from_a_repository_to_a_patch(state: Path, project: Path, tmp_path: Path) -> None:
    image = state / "image"
    with overlay(state, [image], state / "snapshot") as merged:  # setup, on the default branch
        found = fetch(state, project)
        check_out(state, merged, found)
        work = merged / "workspace" / found["name"]
        (work / ".venv").mkdir()
        (work / ".venv/installed").write_text("by setup")
        (work / "pyproject.toml").write_text("changed by setup")
    found = fetch(state, project, "topic")
    with overlay(state, [state / "snapshot", image], state / "upper") as merged:  # the task, on its branch
        check_out(state, merged, found)
        work = merged / "workspace" / found["name"]
        assert git(work, "status", "--porcelain") == ""
        assert (work / ".venv/installed").exists()
        written = [
            path
            for path in (state / "upper" / "workspace" / found["name"]).rglob("*")
            if ".git" not in path.parts and path.is_file()
        ]
        assert len(written) <= 4  # only what differs between the two commits
        (work / "README.agent").write_text("new\n")
        (work / "pyproject.toml").chmod(0o755)
        shutil.rmtree(work / "topic")
        shutil.move(work / "proxy", work / "filter")  # a rename of a directory from below gives EXDEV
        (work / ".venv/more").write_text("ignored")
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", "the agent's own commit")
        wanted = git(work, "rev-parse", "HEAD^{tree}")
    request = {"mirror": found["mirror"], "base": found["commit"], "task": "t1", "state": str(state)}
    layers = {
        "upper": str(state / "upper"),
        "lower": [str(state / "snapshot"), str(image)],
        "workdir": f"workspace/{found['name']}",
    }
    patch = tmp_path / "patch"
    result = job({**request, **layers, "op": "result", "output": str(patch)})["result"]
    assert (result["skipped"], result["notices"]) == ([], [])
    assert git(Path(found["mirror"]).parent / "results.git", "rev-parse", result["commit"] + "^{tree}") == wanted
    git(project, "checkout", "-q", "topic")
    git(project, "apply", "--index", str(patch))
    assert git(project, "write-tree") == wanted


def give(path: Path, user: int) -> None:
    for folder, folders, files in os.walk(path):
        for name in (".", *folders, *files):
            os.chown(Path(folder, name), user, user, follow_symlinks=False)


def test_root_reads_a_users_repository_and_runs_nothing_of_it(state: Path, tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "users", {"a": "1\n", ".gitattributes": "* filter=x\n"})
    ran = tmp_path / "ran"
    for name in (
        "core.fsmonitor",
        "core.sshCommand",
        "filter.x.clean",
        "filter.x.smudge",
        "filter.x.process",
        "uploadpack.packObjectsHook",
    ):
        git(repo, "config", name, f"touch {ran}; false")
    for name in ("post-checkout", "reference-transaction", "post-index-change"):
        hook = repo / ".git/hooks" / name
        hook.write_text(f"#!/bin/sh\ntouch {ran}\n")
        hook.chmod(0o755)
    (repo / "a").write_text("changed\n")
    give(repo, USER)
    fetch(state, repo)
    assert "not part of the run" in job({"op": "uncommitted", "url": str(repo)})["result"]["notice"]
    assert not ran.exists()


def test_a_users_repository_cannot_lend_somebody_elses_objects(state: Path, tmp_path: Path) -> None:
    secret = repos.make(tmp_path / "secret", {"key": "private\n"})
    secret.chmod(0o700)
    lent = git(secret, "rev-parse", "HEAD")
    repo = repos.make(tmp_path / "users")
    give(repo, USER)
    (repo / ".git/objects/info/alternates").write_text(f"{secret}/.git/objects\n")
    (repo / ".git/refs/heads/stolen").write_text(lent + "\n")
    assert "it borrows objects from" in fetch_error(state, repo, "stolen")
    (repo / ".git/objects/info/alternates").unlink()
    shutil.rmtree(repo / ".git/objects/pack")
    (repo / ".git/objects/pack").symlink_to(secret / ".git/objects/pack")
    assert "it borrows objects from" in fetch_error(state, repo, "stolen")


def test_ones_own_shared_clone_works(state: Path, tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "origin")
    git(tmp_path, "clone", "-q", "--shared", str(repo), str(tmp_path / "shared"))
    give(tmp_path / "shared", USER)
    give(repo, USER)
    assert fetch(state, tmp_path / "shared")["commit"] == git(repo, "rev-parse", "HEAD")


def test_a_full_disk_is_one_sentence_and_no_harm(tmp_path: Path) -> None:
    small, upper = tmp_path / "small", tmp_path / "upper"
    small.mkdir()
    repo = repos.make(tmp_path / "repo", {"a": "1\n"})
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=True, timeout=30)
    try:
        found = fetch(small, repo)
        (upper / "workspace/repo").mkdir(parents=True)
        (upper / "workspace/repo/big").write_bytes(os.urandom(3 << 20))
        request = {"op": "result", "mirror": found["mirror"], "base": found["commit"], "upper": str(upper), "lower": []}
        answer = job({**request, "workdir": "workspace/repo", "task": "t"})
        assert "the disk is full" in answer["error"]["message"]
        assert not list(Path(found["mirror"]).parent.glob("results.git/objects/pack/*"))
        (repo / "big").write_bytes(os.urandom(3 << 20))
        repos.commit(repo, {})
        assert "the disk is full" in fetch_error(small, repo)
        (repo / "big").unlink()
        git(repo, "commit", "-q", "-a", "--amend", "--allow-empty", "-m", "small")
        assert fetch(small, repo)["commit"] == git(repo, "rev-parse", "HEAD")
    finally:
        subprocess.run(["umount", str(small)], check=True, timeout=30)
