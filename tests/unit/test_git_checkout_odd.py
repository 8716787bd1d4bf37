"""checkout.sh over every odd repository that setup may have left: it works, and keeps the repository if that can be used.

Must not need root.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import repos
from tests.support.git_sandbox import Sandbox, with_two_branches
from tests.support.repos import git


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return with_two_branches(tmp_path)


def write(name: str, data: str) -> Callable[[Path], None]:
    def damage(work: Path) -> None:
        path = work / ".git" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(data)

    return damage


def run_git(*command: str) -> Callable[[Path], None]:
    def damage(work: Path) -> None:
        git(work, *command)

    return damage


def as_a_file(work: Path) -> None:
    shutil.rmtree(work / ".git")
    (work / ".git").write_text("gitdir: /nowhere\n")


def as_a_link(work: Path) -> None:
    (work / ".git").rename(work / "elsewhere")
    (work / ".git").symlink_to("elsewhere")


def own_commit(work: Path) -> None:
    repos.commit(work, {"setup-made": "x", "a": "setup's\n"})


def in_a_merge(work: Path) -> None:
    git(work, "checkout", "-q", "-b", "one")
    repos.commit(work, {"a": "one\n"})
    git(work, "checkout", "-q", "-b", "two", "HEAD~1")
    repos.commit(work, {"a": "two\n"})
    subprocess.run(
        ["git", "merge", "-q", "one"], cwd=work, env=repos.ENVIRONMENT, capture_output=True, timeout=30, check=False
    )
    assert (work / ".git/MERGE_HEAD").exists()


def packed(work: Path) -> None:
    git(work, "branch", "local")
    git(work, "tag", "made-here")
    git(work, "pack-refs", "--all")


DAMAGES = {
    "index.lock": write("index.lock", ""),
    "other locks": lambda work: [
        write(name, "")(work) for name in ("HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock")
    ],
    "no index": lambda work: (work / ".git/index").unlink(),
    "bad index": write("index", "rubbish"),
    "bad HEAD": write("HEAD", "rubbish"),
    "no HEAD": lambda work: (work / ".git/HEAD").unlink(),
    "bad config": write("config", "[core\n"),
    "bad packed-refs": write("packed-refs", "rubbish\n\0"),
    "branch in the way": lambda work: [git(work, "checkout", "-q", "--detach"), git(work, "branch", "-f", "feature")],
    "bad branch": write("refs/heads/feature/x", "rubbish"),
    "no objects": lambda work: shutil.rmtree(work / ".git/objects"),
    "empty .git": lambda work: [shutil.rmtree(work / ".git"), (work / ".git").mkdir()],
    ".git is a file": as_a_file,
    ".git is a link": as_a_link,
    "config: worktree": run_git("config", "core.worktree", "/nowhere"),
    "config: bare": run_git("config", "core.bare", "true"),
    "config: hooks": lambda work: [
        write("h/post-checkout", "#!/bin/sh\ntouch /tmp/ran\nexit 1")(work),
        git(work, "config", "core.hooksPath", ".git/h"),
    ],
    "config: fsmonitor": run_git("config", "core.fsmonitor", "false; exit 1"),
    "config: sparse": run_git("sparse-checkout", "set", "nothing"),
    "config: extension": run_git("config", "extensions.unknown", "1"),
    "config: partial": run_git("config", "remote.origin.promisor", "true"),
    "config: filter": lambda work: [
        git(work, "config", "filter.f.smudge", "false"),
        write("info/attributes", "* filter=f")(work),
    ],
    "assume-unchanged": lambda work: [
        git(work, "update-index", "--assume-unchanged", "dir/b"),
        (work / "dir/b").write_text("other\n"),
    ],
    "skip-worktree": lambda work: [
        git(work, "update-index", "--skip-worktree", "dir/b"),
        (work / "dir/b").write_text("other\n"),
    ],
    "split index": run_git("update-index", "--split-index"),
    "untracked cache": run_git("update-index", "--untracked-cache"),
    "own commit": own_commit,
    "in a merge": in_a_merge,
    "packed refs": packed,
    "work tree gone": shutil.rmtree,
    "work tree is a link": lambda work: [work.rename(work.parent / "moved"), work.symlink_to("moved")],
    "alternates to nowhere": write("objects/info/alternates", "/nowhere\n"),
    "commondir": write("commondir", "/nowhere"),
    "shallow": write("shallow", "0" * 40 + "\n"),
    "index is a pipe": lambda work: [(work / ".git/index").unlink(), os.mkfifo(work / ".git/index")],
    "HEAD leads to a pipe": lambda work: [
        (work / ".git/HEAD").unlink(),
        os.mkfifo(work.parent / "pipe"),
        (work / ".git/HEAD").symlink_to(work.parent / "pipe"),
    ],
    "a hook is a link": lambda work: (work / ".git/hooks/post-checkout").symlink_to(work / "run.sh"),
    "workspace is a link": lambda work: [
        work.parent.rename(work.parents[1] / "moved"),
        work.parent.symlink_to("moved"),
    ],
}


# Nothing is left that tells which files were tracked: they stay as untracked files.
UNKNOWN_BEFORE = ("bad index", ".git is a file", ".git is a link", "empty .git", "index is a pipe")


# The repository itself can't be used; after any other damage it is kept, with what setup had configured in it.
MADE_ANEW = (
    *UNKNOWN_BEFORE[1:],
    "bad HEAD",
    "no HEAD",
    "bad config",
    "bad packed-refs",
    "no objects",
    "commondir",
    "branch in the way",
    "HEAD leads to a pipe",
)
GONE = ("work tree gone", "work tree is a link", "workspace is a link")


@pytest.mark.parametrize("damage", DAMAGES, ids=str)
def test_an_odd_repository_does_not_break_it(sandbox: Sandbox, damage: str) -> None:
    sandbox.ok()
    git(sandbox.work, "config", "setup.was", "here")
    DAMAGES[damage](sandbox.work)
    said = sandbox.ok("feature/x")
    assert ("is made anew" in said) == (damage in MADE_ANEW)
    if damage not in (*MADE_ANEW, *GONE):
        assert git(sandbox.work, "config", "setup.was") == "here"
    if damage not in UNKNOWN_BEFORE:
        assert not (sandbox.work / "a").exists()
    assert not (sandbox.work / "setup-made").exists()
