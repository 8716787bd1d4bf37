"""checkout.sh: from a mirror's objects to a work tree, over whatever setup left there.

Must not need root: the script's two fixed paths are given by environment variables here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rootfs.refs import packed_refs
from tests.support import repos
from tests.support.repos import ROOT, fetch, git

SCRIPT = ROOT / "rootfs" / "checkout.sh"
WORK = "work"


class Sandbox:
    """What the script sees: /run/hutch and a work tree."""

    def __init__(self, top: Path, source: Path) -> None:
        self.top, self.source, self.work = top, source, top / "workspace" / "r"
        self.home = top / "home"
        self.home.mkdir()

    def prepared(self, ref: str | None = None) -> dict[str, Any]:
        """What the daemon would put there for `ref`."""
        found = fetch(self.top, self.source, ref)
        (self.top / "packed-refs").write_text(packed_refs(found["refs"]))
        return found

    def script(self, found: dict[str, Any], **env: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HUTCH_OBJECTS": found["objects"],
            "HUTCH_PACKED_REFS": str(self.top / "packed-refs"),
            "HUTCH_WORKTREE": str(self.work),
            "HUTCH_COMMIT": found["commit"],
            "HUTCH_BRANCH": found["branch"] or "",
            "HUTCH_ORIGIN_URL": found["origin_url"],
            "HUTCH_DEFAULT_BRANCH": found["default_branch"] or "",
            **env,
        }
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)], env=variables, capture_output=True, text=True, timeout=60, check=False
        )

    def ok(self, ref: str | None = None, **env: str) -> str:
        """Run it; it must work, and the tracked files must be the commit's. Returns what it said."""
        found = self.prepared(ref)
        run = self.script(found, **env)
        assert run.returncode == 0, run.stderr
        commit = found["commit"]
        assert git(self.work, "rev-parse", "HEAD") == commit
        assert git(self.work, "status", "--porcelain", "--untracked-files=no") == ""
        assert git(self.work, "ls-files", "-s") == git(
            self.source, "ls-tree", "-r", "--format=%(objectmode) %(objectname) 0%x09%(path)", commit
        )
        git(self.work, "fsck")
        return run.stderr


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    source = repos.make(tmp_path / "source", {"a": "1\n", "dir/b": "2\n", ".gitignore": "*.o\n"})
    git(source, "tag", "-a", "v1", "-m", "v1")
    git(source, "checkout", "-q", "-b", "feature/x")
    (source / "a").unlink()
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "out").symlink_to("../../../etc/passwd")
    repos.commit(source, {"dir/c": "3\n"})
    git(source, "checkout", "-q", "main")
    return Sandbox(tmp_path, source)


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
}


# Nothing is left that tells which files were tracked: they stay as untracked files.
UNKNOWN_BEFORE = ("bad index", ".git is a file", ".git is a link", "empty .git")


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
)
GONE = ("work tree gone", "work tree is a link")


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
