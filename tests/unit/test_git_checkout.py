"""checkout.sh: from a mirror's objects to a work tree, over whatever setup left there.

Must not need root: the script's two fixed paths are given by environment variables here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.support import repos
from tests.support.git_sandbox import Sandbox, with_two_branches
from tests.support.repos import fetch, git


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    return with_two_branches(tmp_path)


def test_a_fresh_work_tree_is_what_a_clone_makes(sandbox: Sandbox) -> None:
    sandbox.ok("feature/x")
    work = sandbox.work
    assert git(work, "symbolic-ref", "HEAD") == "refs/heads/feature/x"
    assert git(work, "rev-parse", "--abbrev-ref", "@{upstream}") == "origin/feature/x"
    assert git(work, "rev-parse", "--abbrev-ref", "origin/HEAD") == "origin/main"
    assert git(work, "tag") == "v1"
    assert git(work, "branch", "-a").split() == [
        "*",
        "feature/x",
        "remotes/origin/HEAD",
        "->",
        "origin/main",
        *"remotes/origin/feature/x remotes/origin/main".split(),
    ]
    assert git(work, "remote", "get-url", "origin") == str(sandbox.source)
    assert (work / "out").readlink() == Path("../../../etc/passwd")
    assert os.access(work / "run.sh", os.X_OK)
    assert git(work, "log", "--format=%s") == "change\nchange"
    git(work, "commit", "-q", "--allow-empty", "-m", "mine")
    assert git(work, "status", "-sb") == "## feature/x...origin/feature/x [ahead 1]"
    assert sorted(path.name for path in (work / ".git" / "hooks").iterdir()) == []


def test_a_tag_or_commit_is_detached(sandbox: Sandbox) -> None:
    sandbox.ok("v1")
    assert (
        subprocess.run(
            ["git", "symbolic-ref", "-q", "HEAD"], cwd=sandbox.work, capture_output=True, check=False
        ).returncode
        == 1
    )


def test_another_commit_keeps_what_is_not_tracked(sandbox: Sandbox) -> None:
    sandbox.ok()
    (sandbox.work / "built.o").write_text("o")
    (sandbox.work / "dir/untracked").write_text("u")
    (sandbox.work / "dir/b").write_text("setup changed this\n")
    stat = (sandbox.work / ".gitignore").stat()
    said = sandbox.ok("feature/x")
    assert said == ""
    assert not (sandbox.work / "a").exists()
    assert (sandbox.work / "built.o").read_text() == "o"
    assert (sandbox.work / "dir/untracked").read_text() == "u"
    assert (sandbox.work / "dir/b").read_text() == "2\n"
    assert (sandbox.work / ".gitignore").stat().st_ino == stat.st_ino  # files that don't differ are not written again
    assert git(sandbox.work, "branch", "--format=%(refname:short)") == "feature/x\nmain"


def test_files_whose_times_changed_are_not_written_again(sandbox: Sandbox) -> None:
    sandbox.ok()
    os.utime(sandbox.work / "a", (1, 1))
    sandbox.ok()
    assert (sandbox.work / "a").stat().st_mtime == 1


def test_what_stands_in_the_way_is_replaced(sandbox: Sandbox) -> None:
    sandbox.ok()
    (sandbox.work / "dir/c").mkdir()
    (sandbox.work / "dir/c/file").write_text("x")
    (sandbox.work / "run.sh").write_text("mine")
    (sandbox.work / "out").mkdir()
    shutil.rmtree(sandbox.work / "dir" / "b", ignore_errors=True)
    (sandbox.work / "dir/b").unlink()
    (sandbox.work / "dir/b").symlink_to("/etc")
    sandbox.ok("feature/x")
    shutil.rmtree(sandbox.work / "dir")
    (sandbox.work / "dir").symlink_to("/tmp")
    sandbox.ok("feature/x")
    assert not (sandbox.work / "dir").is_symlink()


def packed(work: Path) -> None:
    git(work, "branch", "local")
    git(work, "tag", "made-here")
    git(work, "pack-refs", "--all")


def test_refs_follow_the_origin_and_local_branches_stay(sandbox: Sandbox) -> None:
    sandbox.ok()
    packed(sandbox.work)
    git(sandbox.source, "branch", "-D", "feature/x")
    git(sandbox.source, "tag", "-d", "v1")
    new = repos.commit(sandbox.source, {"a": "new\n"})
    sandbox.ok()
    shown = git(sandbox.work, "for-each-ref", "--format=%(refname)").split()
    assert shown == ["refs/heads/local", "refs/heads/main", "refs/remotes/origin/HEAD", "refs/remotes/origin/main"]
    assert git(sandbox.work, "rev-parse", "origin/main") == new


def test_a_configuration_of_the_user_changes_nothing(sandbox: Sandbox) -> None:
    (sandbox.home / ".gitconfig").write_text(
        '[core]\n\tautocrlf = true\n\thooksPath = /nowhere\n[filter "lfs"]\n\tsmudge = false\n\trequired = true\n'
    )
    repos.commit(sandbox.source, {".gitattributes": "*.bin filter=lfs\n", "x.bin": "pointer\n"})
    sandbox.ok(
        GIT_DIR="/nowhere",
        GIT_INDEX_FILE="/nowhere",
        GIT_CONFIG_COUNT="1",
        GIT_CONFIG_KEY_0="core.bare",
        GIT_CONFIG_VALUE_0="true",
    )
    assert (sandbox.work / "a").read_bytes() == b"1\n"


def test_a_shallow_history_ends_quietly(sandbox: Sandbox) -> None:
    repos.commit(sandbox.source, {"a": "2\n"})
    shallow = sandbox.top / "shallow"
    git(sandbox.top, "clone", "-q", "--depth", "1", f"file://{sandbox.source}", str(shallow))
    sandbox.source = shallow
    sandbox.ok()
    assert len(git(sandbox.work, "log", "--format=%H").split()) == 1


def test_a_detached_origin_without_default_branch(sandbox: Sandbox) -> None:
    git(sandbox.source, "checkout", "-q", "--detach")
    repos.commit(sandbox.source, {"a": "lone\n"})
    sandbox.ok()


def test_no_git_is_said_in_one_sentence(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    run = sandbox.script(sandbox.prepared(), PATH=str(tmp_path / "bin"))
    assert (run.returncode, run.stderr.count("\n")) == (127, 1)
    assert "there is no git in this image" in run.stderr


def test_a_commit_that_is_not_there_is_an_error(sandbox: Sandbox) -> None:
    found = sandbox.prepared()
    run = sandbox.script({**found, "commit": "1" * 40})
    assert run.returncode == 1
    assert "cannot check out 1111" in run.stderr


def test_odd_branch_names(sandbox: Sandbox) -> None:
    name = "we\"ird/$(id)'-ü"
    git(sandbox.source, "branch", name)
    sandbox.ok(name)
    assert git(sandbox.work, "rev-parse", "--abbrev-ref", "@{upstream}") == "origin/" + name


def test_it_is_quick(sandbox: Sandbox) -> None:
    sandbox.ok()
    found = fetch(sandbox.top, sandbox.source, "feature/x")
    took = []
    for _ in range(5):
        started = time.monotonic()
        assert sandbox.script(found).returncode == 0
        took.append(time.monotonic() - started)
    assert min(took) < 0.15, took
