"""The mirror: clone and fetch local repositories through the job process, resolve refs, survive broken mirrors.

Must not use the network.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pygit2
import pytest

from rootfs import git_copy
from tests.support import repos
from tests.support.repos import ROOT, fetch, fetch_error, git, job


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """main with two commits, an annotated tag v1 on the first, branches dev and topic/x."""
    repo = repos.make(tmp_path / "my project.git", {"a": "1\n"})
    git(repo, "tag", "-a", "v1", "-m", "v1")
    git(repo, "branch", "dev")
    git(repo, "branch", "topic/x")
    repos.commit(repo, {"a": "2\n"})
    return repo


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    path.mkdir()
    return path


def sha(repo: Path, name: str) -> str:
    return git(repo, "rev-parse", name)


def test_a_fetch_describes_what_a_sandbox_needs(state: Path, source: Path) -> None:
    found = fetch(state, source)
    assert (found["name"], found["branch"], found["default_branch"]) == ("my-project", "main", "main")
    assert found["commit"] == found["default_commit"] == sha(source, "main")
    assert found["refs"] == {
        "refs/remotes/origin/main": sha(source, "main"),
        "refs/remotes/origin/dev": sha(source, "dev"),
        "refs/remotes/origin/topic/x": sha(source, "topic/x"),
        "refs/tags/v1": sha(source, "refs/tags/v1"),
    }
    assert found["origin_url"] == str(source)
    assert found["notices"] == []
    assert git(Path(found["mirror"]), "fsck", "--full", "--strict") == ""
    assert fetch(state, f"file://{source}".replace(" ", "%20"))["mirror"] == found["mirror"]
    assert os.listdir(state / "staging") == []


@pytest.mark.parametrize(
    ("ref", "target", "branch", "full"),
    [
        (None, "main", "main", "refs/heads/main"),
        ("dev", "dev", "dev", "refs/heads/dev"),
        ("topic/x", "topic/x", "topic/x", "refs/heads/topic/x"),
        ("origin/dev", "dev", "dev", "refs/heads/dev"),
        ("refs/heads/dev", "dev", "dev", "refs/heads/dev"),
        ("refs/remotes/origin/dev", "dev", "dev", "refs/heads/dev"),
        ("v1", "v1^{commit}", None, "refs/tags/v1"),
        ("tags/v1", "v1^{commit}", None, "refs/tags/v1"),
        ("refs/tags/v1", "v1^{commit}", None, "refs/tags/v1"),
        ("HEAD", "main", "main", "refs/heads/main"),
    ],
)
def test_a_ref_is_resolved(
    state: Path, source: Path, ref: str | None, target: str, branch: str | None, full: str
) -> None:
    found = fetch(state, source, ref)
    assert (found["commit"], found["branch"], found["ref"]) == (sha(source, target), branch, full)


def test_the_name_that_a_ref_really_has(state: Path, source: Path) -> None:
    """It decides whom the cache trusts: what is named to look like something else is told apart."""
    for argv in (["branch", "refs/tags/v9", "dev"], ["tag", "dev", "main"], ["update-ref", "refs/pull/1/head", "dev"]):
        git(source, *argv)
    names = {
        "dev": "refs/heads/dev", "refs/tags/dev": "refs/tags/dev", "refs/heads/refs/tags/v9": "refs/heads/refs/tags/v9",
        "refs/pull/1/head": "refs/pull/1/head", sha(source, "dev"): None,
    }  # fmt: skip
    assert {ref: fetch(state, source, ref)["ref"] for ref in names} == names


def test_a_commit_is_found_by_its_id_and_by_a_part_of_it(state: Path, source: Path) -> None:
    commit = sha(source, "main~1")
    for ref in (commit, commit[:7], commit[:12].upper()):
        assert (fetch(state, source, ref)["commit"], fetch(state, source, ref)["branch"]) == (commit, None)


def test_an_ambiguous_part_of_an_id_is_refused(state: Path, source: Path) -> None:
    tree, parent, seen = sha(source, "main^{tree}"), sha(source, "main"), dict[str, str]()
    while True:
        commit = git(source, "commit-tree", tree, "-p", parent, "-m", str(len(seen)))
        if commit[:4] in seen:
            break
        seen[commit[:4]] = commit
    for name, tip in (("one", commit), ("two", seen[commit[:4]])):
        git(source, "branch", name, tip)
    assert f"the beginning of 2 commits | write more digits: {min(commit, seen[commit[:4]])}" in fetch_error(
        state, source, commit[:4]
    )
    assert fetch(state, source, commit[:20])["commit"] == commit


@pytest.mark.parametrize(
    ("ref", "said"),
    [
        ("devv", "similar names there: dev"),
        ("opic", "topic/x"),
        ("0" * 40, "no branch, tag or commit"),
        ("main~1", "similar names there: main"),
        ("refs/pull/1/head", "no branch, tag or commit"),
    ],
)
def test_an_unknown_ref_is_an_error_that_helps(state: Path, source: Path, ref: str, said: str) -> None:
    error = fetch_error(state, source, ref)
    assert f"cannot find '{ref}'" in error
    assert said in error


def test_a_ref_beyond_branches_is_fetched_when_it_is_asked_for(state: Path, source: Path) -> None:
    commit = git(source, "commit-tree", sha(source, "main^{tree}"), "-m", "pull request")
    git(source, "update-ref", "refs/pull/1/head", commit)
    found = fetch(state, source, "refs/pull/1/head")
    assert (found["commit"], found["branch"]) == (commit, None)
    assert "refs/pull/1/head" not in found["refs"]


def test_a_branch_wins_over_a_tag_of_its_name(state: Path, source: Path) -> None:
    git(source, "tag", "dev", "main")
    found = fetch(state, source, "dev")
    assert (found["commit"], found["branch"]) == (sha(source, "refs/heads/dev"), "dev")
    assert "is a branch and a tag" in found["notices"][0]


def test_a_second_fetch_follows_the_source(state: Path, source: Path) -> None:
    first = fetch(state, source)
    git(source, "branch", "-D", "topic/x")
    git(source, "branch", "topic", "dev")  # takes the place of a directory of refs
    git(source, "tag", "-d", "v1")
    git(source, "checkout", "-q", "--orphan", "rewritten")
    new = repos.commit(source, {"b": "3\n"})
    git(source, "branch", "-f", "main", new)
    found = fetch(state, source, "main")
    assert found["commit"] == new
    assert sorted(found["refs"]) == [f"refs/remotes/origin/{name}" for name in ("dev", "main", "rewritten", "topic")]
    assert found["default_branch"] == "rewritten"
    git(Path(found["mirror"]), "cat-file", "-e", first["commit"])  # objects stay: a sandbox or a result may need them


def test_many_refs_are_packed(state: Path, source: Path) -> None:
    lines = "".join(f"create refs/tags/t{n} {sha(source, 'main')}\n" for n in range(300))
    git(source, "update-ref", "--stdin", stdin=lines.encode())
    found = fetch(state, source)
    assert len(found["refs"]) == 304
    assert not list(Path(found["mirror"]).glob("refs/tags/*"))
    assert fetch(state, source)["refs"] == found["refs"]


def test_uncommitted_changes_are_told(state: Path, source: Path) -> None:
    (source / "new file").write_text("x")
    (source / "a").write_text("changed")
    assert (
        "2 uncommitted changes are not part of the run"
        in job({"op": "uncommitted", "url": str(source)})["result"]["notice"]
    )


def test_a_worktree_is_its_own_branch(state: Path, source: Path, tmp_path: Path) -> None:
    git(source, "worktree", "add", "-q", str(tmp_path / "tree"), "dev")
    found = fetch(state, tmp_path / "tree")
    assert (found["commit"], found["branch"]) == (sha(source, "dev"), "dev")


def test_a_detached_head_is_the_default_commit(state: Path, source: Path) -> None:
    git(source, "checkout", "-q", "--detach")
    lone = repos.commit(source, {"a": "lone\n"})
    found = fetch(state, source)
    assert (found["commit"], found["branch"], found["default_branch"], found["default_commit"]) == (
        lone,
        None,
        None,
        lone,
    )


def test_a_head_that_points_nowhere_does_no_harm(state: Path, source: Path) -> None:
    git(source, "symbolic-ref", "HEAD", "refs/heads/nowhere")
    found = fetch(state, source)
    assert (found["branch"], found["commit"]) == ("main", sha(source, "main"))


def test_a_new_mirror_has_what_refs_reach_and_nothing_else(state: Path, source: Path) -> None:
    """git packs it; what nobody reaches any more (a stash, a commit that was amended) is not for sandboxes."""
    lost = repos.commit(source, {"a": "lost\n"})
    git(source, "tag", "only-tagged")
    git(source, "reset", "-q", "--hard", "HEAD~1")
    git(source, "tag", "-d", "only-tagged")
    git(source, "repack", "-q", "-a", "-d", "-k")
    found = fetch(state, source)
    mirror = Path(found["mirror"])
    assert len(list((mirror / "objects/pack").glob("*.pack"))) == 1
    assert git(mirror, "fsck", "--full", "--strict") == ""
    assert lost not in git(mirror, "cat-file", "--batch-all-objects", "--batch-check")
    assert found["commit"] == sha(source, "main")


def test_what_git_can_not_pack_is_fetched_or_told_as_before(
    state: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / ".git/refs/heads/broken").write_text("1" * 40 + "\n")
    assert "cannot" in fetch_error(state, source)
    (source / ".git/refs/heads/broken").unlink()
    assert fetch(state, source)["commit"] == sha(source, "main")
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "new"))
    monkeypatch.setitem(git_copy._BARE, "PATH", "/nonexistent")
    git_copy.copy_history(pygit2.Repository(str(source)), tmp_path / "new")
    assert list((tmp_path / "new/objects/pack").iterdir()) == []


def test_a_shallow_source_stays_shallow_and_may_be_deepened(state: Path, source: Path, tmp_path: Path) -> None:
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{source}", str(shallow))
    found = fetch(state, shallow)
    mirror = Path(found["mirror"])
    assert git(mirror, "log", "--format=%H", found["commit"]) == found["commit"]
    assert (mirror / "objects/info/hutch-shallow").read_text() == found["commit"] + "\n"
    git(shallow, "fetch", "-q", "--unshallow")
    again = fetch(state, shallow)
    assert again["mirror"] == found["mirror"]
    assert len(git(mirror, "log", "--format=%H", again["commit"]).split()) == 2
    assert not (mirror / "objects/info/hutch-shallow").exists()


def test_submodules_and_lfs_are_told(state: Path, source: Path) -> None:
    (source / ".gitmodules").write_text(
        '[submodule "x"]\n\tpath = libs/x\n\turl = ../x\n[submodule "y"]\n\tpath = not-there\n\turl = ../y\n'
    )
    (source / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    git(source, "update-index", "--add", "--cacheinfo", f"160000,{sha(source, 'main')},libs/x")
    (source / "libs/x").mkdir(parents=True)
    git(source, "add", ".gitmodules", ".gitattributes")
    git(source, "commit", "-q", "-m", "modules")
    assert fetch(state, source)["notices"] == [
        "submodules are not fetched: libs/x",
        "LFS pointers are left as they are",
    ]


def test_bad_sources_are_one_sentence_and_a_remedy(state: Path, source: Path, tmp_path: Path) -> None:
    empty, plain, file = tmp_path / "empty", tmp_path / "plain", tmp_path / "file"
    empty.mkdir()
    plain.mkdir()
    file.write_text("")
    git(empty, "init", "-q")
    assert "it is empty | commit something" in fetch_error(state, empty)
    assert "it is not a git repository | run `git init`" in fetch_error(state, plain)
    (source / "sub").mkdir()
    assert f"it is not a git repository | give its top directory ({source})" in fetch_error(state, source / "sub")
    assert "it is a file" in fetch_error(state, file)
    assert "there is no such directory" in fetch_error(state, tmp_path / "nowhere")
    assert "neither a URL nor an absolute path" in fetch_error(state, "some/where")
    assert "cannot use 'ext'" in fetch_error(state, "ext://sh -c id")
    assert "control characters" in fetch_error(state, "https://example.com/a\nb")
    assert os.listdir(state / "staging") == []


def test_what_a_killed_fetch_left_is_repaired(state: Path, source: Path) -> None:
    found = fetch(state, source)
    mirror = Path(found["mirror"])
    for name in ("refs/remotes/origin/main.lock", "packed-refs.lock", "config.lock", "objects/pack/pack_git2_1234"):
        (mirror / name).write_bytes(b"half")
    new = repos.commit(source, {"a": "3\n"})
    assert fetch(state, source)["commit"] == new
    assert not list(mirror.rglob("*.lock"))
    assert not list(mirror.rglob("pack_git2_*"))


@pytest.mark.parametrize("damage", ["config", "pack", "ref", "HEAD"])
def test_a_broken_mirror_is_cloned_anew(state: Path, source: Path, damage: str) -> None:
    mirror = Path(fetch(state, source)["mirror"])
    if damage == "pack":
        for pack in mirror.glob("objects/pack/*"):
            pack.unlink()
    elif damage == "ref":
        (mirror / "refs/remotes/origin/main").write_text("f" * 40 + "\n")
    else:
        (mirror / damage).write_bytes(b"\0")
    found = fetch(state, source)
    assert found["commit"] == sha(source, "main")
    git(mirror, "fsck", "--full")


def started(state: Path, source: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-m", "rootfs.git_job"]
    one = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    assert one.stdin
    one.stdin.write(f'{{"op": "fetch", "state": "{state}", "url": "{source}", "ref": null}}'.encode())
    one.stdin.close()
    return one


def test_fetches_of_one_mirror_wait_for_each_other(state: Path, source: Path) -> None:
    mirror = Path(fetch(state, source)["mirror"])
    with (mirror.parent / "lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        jobs = [started(state, source) for _ in range(3)]
        with pytest.raises(subprocess.TimeoutExpired):
            jobs[0].wait(3)
    assert [one.wait(30) for one in jobs] == [0, 0, 0]


def test_a_fetch_killed_at_any_time_leaves_nothing_that_hurts(state: Path, source: Path) -> None:
    for number in range(400):
        (source / f"f{number}").write_text(str(number) * 500)
    commit = repos.commit(source, {})
    for delay in (0.1, 0.15, 0.2, 0.25, 0.3, 0.4):
        one = started(state, source)
        time.sleep(delay)
        one.send_signal(signal.SIGKILL)
        one.wait(10)
    found = fetch(state, source)
    assert found["commit"] == commit
    git(Path(found["mirror"]), "fsck", "--full")
