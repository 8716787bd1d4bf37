"""Results of odd and hostile upper directories: deep trees, devices, links, repositories, sizes, attributes.

Must not follow what it makes; every overlay is real unless the test says that nobody but an attacker could have made it.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from typing import Any

import pytest

from rootfs.git_errors import RepositoryError
from tests.root.test_git_tree import WORKDIR, Content, Stack, stack
from tests.support.repos import git, job

BASE = {
    b"a": Content(b"1\n"),
    b"d/b": Content(b"2\n"),
    b"d/c": Content(b"3\n"),
    b".gitignore": Content(b"*.o\n/build/\n"),
}


def names(made: Stack, result: dict[str, Any]) -> list[str]:
    """The files of a result's commit."""
    return git(made.mirror.parent / "results.git", "ls-tree", "-r", "--name-only", result["commit"]).split("\n")


def test_nothing_changed_is_no_commit() -> None:
    with stack(BASE, BASE) as made:
        (made.work / "a").write_text("1\n")  # in the upper, with the same content
        (made.work / "x.o").write_text("ignored")
        assert made.result() == {
            "commit": None,
            "files": 0,
            "insertions": 0,
            "deletions": 0,
            "skipped": [],
            "notices": [],
        }


def test_an_untouched_upper_is_no_commit() -> None:
    with stack(BASE, BASE) as made:
        assert made.result()["commit"] is None


def test_the_commit_and_its_numbers() -> None:
    with stack(BASE, BASE) as made:
        (made.work / "a").write_text("1\nnew\n")
        (made.work / "d/b").unlink()
        (made.work / "n").write_text("x\ny\n")
        result: dict[str, Any] = made.result()
        assert (result["files"], result["insertions"], result["deletions"]) == (3, 3, 1)
        results = made.mirror.parent / "results.git"
        shown = git(results, "log", "--format=%an|%ae|%P|%s", "refs/hutch/tasks/t1", "-1")
        assert shown == f"Hutch|hutch@localhost|{made.base}|result"
        assert git(results, "fsck", "--full", "--strict") == ""
        assert not (made.mirror / "refs/hutch/tasks").exists()
        assert made.result()["commit"]  # the same task again, as after a crash before it was recorded


def test_the_job_makes_result_and_diff() -> None:
    with stack(BASE, BASE) as made:
        (made.work / "a").write_text("changed\n")
        state = made.state
        common = {"state": str(state), "mirror": str(made.mirror), "base": made.base}
        lowers = [str(state / "lower2"), str(state / "lower1")]
        request = {
            **common,
            "op": "result",
            "upper": str(state / "upper"),
            "workdir": WORKDIR,
            "lower": lowers,
            "task": "t1",
        }
        output = state / "diff"
        job({**request, "output": str(output)})
        assert "-1\n+changed\n" in output.read_text()
        assert job({**common, "op": "drop", "task": "t1"})["result"] == {"dropped": True}
        assert (
            "lacks lower" in job({key: value for key, value in request.items() if key != "lower"})["error"]["message"]
        )


def test_files_of_the_checkout_that_vanish_are_deletions() -> None:
    """Overlayfs makes no whiteout for what no layer below has: the file is just not there."""
    with stack({b"d/x": Content(b"")}, {**BASE, b"d/x": Content(b""), b"new/deep/file": Content(b"")}) as made:
        (made.work / "d/b").unlink()
        shutil.rmtree(made.work / "new")
        (made.work / "a").unlink()
        assert names(made, made.result()) == [".gitignore", "d/c", "d/x"]


def test_ignore_files_of_lower_layers_count() -> None:
    setup = {b"venv/.gitignore": Content(b"*\n"), b"venv/bin/python": Content(b"")}
    with stack(BASE, BASE, setup) as made:
        (made.work / "venv/bin/tool").write_text("")
        (made.work / "build").mkdir()
        (made.work / "build/x").write_text("")
        (made.work / "y").write_text("")
        assert names(made, made.result()) == [".gitignore", "a", "d/b", "d/c", "y"]


def test_what_was_installed_for_the_task_is_no_part_of_it() -> None:
    base = {**BASE, b"web/node_modules/tracked": Content(b"1\n"), b"app/.gitignore": Content(b"!node_modules/\n")}
    inside = ["web/node_modules/a/x", "src/deep/n.egg-info/x", "app/node_modules/x", "other/node_modules/x"]
    with stack(base, base) as made:
        for name in inside:
            (made.work / name).parent.mkdir(parents=True, exist_ok=True)
            (made.work / name).write_text("x")
        (made.work / "web/node_modules/tracked").write_text("2\n")
        (made.work / ".git/info").mkdir(parents=True)
        (made.work / ".git/info/exclude").write_text("other/\n")
        result: dict[str, Any] = made.result((b"/web/node_modules/", b"/**/*.egg-info/", b"/app/node_modules/"))
        changed = git(made.mirror.parent / "results.git", "diff", "--name-only", made.base, result["commit"]).split(
            "\n"
        )
        assert changed == ["app/node_modules/x", "other/node_modules/x", "web/node_modules/tracked"], (
            "a .gitignore wins, tracked files count, and what the task says of itself doesn't"
        )


def test_in_an_ignored_directory_only_tracked_files_count() -> None:
    with stack(BASE, {**BASE, b"build/kept": Content(b"1\n")}) as made:
        (made.work / "build/kept").write_text("2\n")
        (made.work / "build/new").write_text("")
        (made.work / "build/.gitignore").write_text("!new\n")
        result: dict[str, Any] = made.result()
        assert (result["files"], names(made, result)) == (1, [".gitignore", "a", "build/kept", "d/b", "d/c"])


@pytest.mark.parametrize(
    "way", ["removed", "replaced by a file", "replaced by a link", "parent removed", "parent is a link"]
)
def test_a_work_tree_that_is_gone_means_that_all_is_deleted(way: str) -> None:
    with stack(BASE, BASE) as made:
        top = made.work.parent if "parent" in way else made.work
        shutil.rmtree(top)
        if "file" in way:
            top.write_text("")
        elif "link" in way:
            top.symlink_to("/etc")
        result: dict[str, Any] = made.result()
        assert names(made, result) == [""]
        assert result["deletions"] == 5
        assert result["notices"] == [f"/{WORKDIR} is gone: the task removed or replaced it"]


def test_a_work_tree_made_anew_counts_as_it_is() -> None:
    with stack(BASE, BASE) as made:
        shutil.rmtree(made.work.parent)
        made.work.mkdir(parents=True)
        (made.work / "a").write_text("1\n")
        assert names(made, made.result()) == ["a"]


def test_what_git_has_no_place_for_is_skipped_and_said() -> None:
    with stack(BASE, BASE) as made:
        work = made.work
        os.mkfifo(work / "fifo")
        os.mknod(work / "device", 0o600 | 0o020000, os.makedev(1, 3))
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(str(work / "sock"))
        (work / ".GIT").mkdir()
        (work / ".GIT/config").write_text("[core]\n\tfsmonitor = touch /tmp/ran\n")
        (work / "git~1").write_text("")
        (work / ".gitmodules").symlink_to("/etc/passwd")
        (work / "d/.git").mkdir()  # tracked files are around it: only .git itself is left out
        (work / "d/.git/config").write_text("")
        (work / "d/e").write_text("")
        (work / "a").unlink()
        os.mkfifo(work / "a")
        result: dict[str, Any] = made.result()
        assert {entry["path"]: entry["reason"] for entry in result["skipped"]} == {
            "fifo": "it is a named pipe",
            "device": "it is a device",
            "sock": "it is a socket",
            ".GIT": "this name is reserved for git",
            "git~1": "this name is reserved for git",
            ".gitmodules": "a .gitmodules that is a symbolic link is refused by git",
            "a": "it is a named pipe",
        }
        assert names(made, result) == [".gitignore", "d/b", "d/c", "d/e"]


def test_embedded_repositories_are_left_out() -> None:
    with stack(BASE, BASE, {b"vendor/x/.git/HEAD": Content(b"ref: refs/heads/main\n")}) as made:
        (made.work / "vendor/x/file").write_text("in a repository that setup cloned")
        (made.work / "sub").mkdir()
        git(made.work / "sub", "init", "-q")
        (made.work / "sub/file").write_text("x")
        (made.work / "y").write_text("")
        result: dict[str, Any] = made.result()
        assert names(made, result) == [".gitignore", "a", "d/b", "d/c", "y"]
        assert sorted(entry["path"] for entry in result["skipped"]) == ["sub", "vendor/x"]
        assert len(result["notices"]) == 2


def test_submodules_of_the_base_stay() -> None:
    with stack(BASE, BASE) as made:
        index = {"GIT_INDEX_FILE": str(made.state / "index")}
        git(made.mirror, "read-tree", made.base, env=index)
        git(made.mirror, "update-index", "--add", "--cacheinfo", f"160000,{made.base},libs/x", env=index)
        made.base = git(made.mirror, "commit-tree", git(made.mirror, "write-tree", env=index), "-m", "module")
        (made.work / "libs/x").mkdir(parents=True)
        (made.work / "libs/x/file").write_text("somebody's")
        assert made.result()["commit"] is None
        (made.work / "libs/y").write_text("")
        assert names(made, made.result())[3:] == ["d/c", "libs/x", "libs/y"]
        shutil.rmtree(made.work / "libs/x")
        assert "libs/x" not in names(made, made.result())


def test_limits_leave_out_and_say_so() -> None:
    with stack(BASE, BASE) as made:
        (made.work / "big").write_bytes(b"x" * 3000)
        (made.work / "a").write_bytes(b"x" * 3000)
        for number in range(5):
            (made.work / f"n{number}").write_bytes(b"%d" % number * 900)
        result: dict[str, Any] = made.result(file_bytes=2000, total_bytes=2000)
        reasons = {entry["path"]: entry["reason"] for entry in result["skipped"]}
        assert reasons["a"].endswith("its former content is kept")
        assert reasons["big"].startswith("it is larger than")
        assert reasons["n3"] == "the result is too large"
        assert names(made, result) == [".gitignore", "a", "d/b", "d/c", "n0", "n1"]
        result = made.result(entries=3)
        assert result["commit"] is None
        assert result["notices"] == ["the result is incomplete: the task changed too many files"]


@pytest.mark.timeout(300)
def test_a_tree_of_any_depth_ends() -> None:
    with stack(BASE, BASE) as made:
        script = "import os\nfor _ in range(1500):\n  os.mkdir('n'); os.chdir('n')\nopen('f', 'w').close()\n"
        subprocess.run(["python3", "-c", script], cwd=made.work, check=True, timeout=60)
        (made.work / "y").write_text("")
        result: dict[str, Any] = made.result()
        assert result["skipped"][0]["reason"] == "it is nested too deeply"
        assert names(made, result)[-1] == "y"


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        ("a", "metacopy", b"/a"), ("d", "redirect", b"/a/../b"), ("", "redirect", b""), ("d", "redirect", b"a/b"),
        ("a", "redirect", b"/a"), ("d", "whiteouts", b"x"), ("d", "opaque", b"x"),
    ],
)  # fmt: skip
def test_attributes_that_hide_content_are_refused(where: str, name: str, value: bytes) -> None:
    """Not made by overlayfs with our options: then nobody knows what the files are."""
    with stack(BASE, BASE) as made:
        (made.work / "a").write_text("x")
        (made.work / "d/n").write_text("x")
        os.setxattr(made.state / "upper" / WORKDIR / where, f"trusted.overlay.{name}", value)
        with pytest.raises(RepositoryError, match=name):
            made.result()


def test_an_upper_changed_under_the_reader_leads_nowhere_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory that becomes a link between the look at it and its opening: an error, not the link's target."""
    from rootfs import upper

    with stack(BASE, BASE) as made:
        (made.work / "d/n").write_text("x")
        target = made.state / "upper" / WORKDIR / "d"
        real = upper.Directory.child

        def swap(self: upper.Directory, name: bytes) -> upper.Directory:
            if name == b"d":
                shutil.rmtree(target)
                target.symlink_to("/etc")
            return real(self, name)

        monkeypatch.setattr(upper.Directory, "child", swap)
        with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
            made.result()


@pytest.mark.timeout(300)
def test_ten_thousand_changed_files_take_about_a_second() -> None:
    base = {b"d%d/f%d" % (n % 100, n): Content(b"content %d\n" % n * 20) for n in range(10000)}
    with stack(base, base) as made:
        for n in range(10000):
            (made.work / f"d{n % 100}/f{n}").write_text(f"changed {n}\n" * 20)
        started, busy = time.monotonic(), time.process_time()
        result: dict[str, Any] = made.result()
        busy = time.process_time() - busy
        print(f"10,000 changed files: {busy:.2f} s busy, {time.monotonic() - started:.2f} s in all")
        assert (result["files"], result["insertions"]) == (10000, 200000)
        assert busy < 4  # several times what a quiet machine takes
