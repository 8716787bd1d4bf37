"""What the git job reads of manifests: where it looks, what it believes, how much it takes, how long that lasts."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pygit2
import pytest

from rootfs import git_manifests
from rootfs.manifests import facts, wanted
from tests.support import repos

PACKAGE = '{"packageManager": "pnpm@9.1.0"}'


def read(repo: Path) -> dict[str, Any]:
    return git_manifests.read(pygit2.Repository(str(repo)), repos.git(repo, "rev-parse", "HEAD"))


def paths(found: dict[str, Any]) -> list[str]:
    return [file["path"] for file in found["files"]]


def test_it_looks_two_folders_deep_and_where_projects_are(tmp_path: Path) -> None:
    inside = ["package.json", "a/package.json", "a/b/package.json"]
    outside = ["a/b/c/package.json", ".hidden/package.json", "node_modules/x/package.json", "tests/package.json"]
    outside += ["examples/package.json", "a/Fixtures/package.json", "docs/requirements.txt", "a/package.json.bak"]
    found = read(repos.make(tmp_path / "repo", dict.fromkeys((*inside, *outside), PACKAGE)))
    assert paths(found) == inside
    assert found["files"][0]["facts"] == {"manager": "pnpm@9.1.0"}
    assert found["made"] == ["node_modules"]
    assert not found["cut"]


def test_tracked_caches_are_told(tmp_path: Path) -> None:
    files = {"a/.yarn/cache/x.zip": "", "b/.yarn/releases/yarn.cjs": "", "vendor/modules.txt": "", "c/.venv/x": ""}
    assert read(repos.make(tmp_path / "repo", files))["made"] == ["vendor", "a/.yarn/cache", "c/.venv"]


def test_links_and_names_nobody_can_show_are_not_looked_at(tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "repo", {"x": PACKAGE, "bad\x1bname/package.json": PACKAGE, "new\nline/go.mod": ""})
    (repo / "package.json").symlink_to("x")
    (repo / "link").symlink_to("/etc")
    repos.commit(repo, {})
    assert read(repo)["files"] == []


def test_a_file_that_is_too_large_is_not_unpacked(tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "repo", {"package.json": " " * (17 << 20) + "{}", "a/package.json": PACKAGE})
    said = {file["path"]: file["facts"] for file in read(repo)["files"]}
    assert said == {"package.json": {"unreadable": True}, "a/package.json": {"manager": "pnpm@9.1.0"}}


def test_a_commit_that_is_not_whole_has_none(tmp_path: Path) -> None:
    repo = pygit2.Repository(str(repos.make(tmp_path / "repo")))
    assert git_manifests.read(repo, "0" * 40) == {"files": [], "made": [], "cut": False}


def test_fifty_thousand_files_cost_milliseconds(tmp_path: Path) -> None:
    """A thousand folders below the root, of which some are looked into."""
    repo = repos.make(tmp_path / "repo", {"package.json": PACKAGE})
    opened = pygit2.Repository(str(repo))
    blob = opened.create_blob(b"x")
    inner = opened.TreeBuilder()
    for number in range(50):
        inner.insert(f"file{number}.txt", blob, pygit2.enums.FileMode.BLOB)
    folder = inner.write()
    top = opened.TreeBuilder()
    for number in range(1000):
        top.insert(f"folder{number}", folder, pygit2.enums.FileMode.TREE)
    who = pygit2.Signature("Ada", "ada@example.com", 0, 0)
    commit = opened.create_commit(None, who, who, "many", top.write(), [])
    began = time.perf_counter()
    found = git_manifests.read(opened, str(commit))
    assert time.perf_counter() - began < 0.2, "20 ms on a machine that is not busy"
    assert found["cut"]


def test_a_tree_with_too_many_entries_is_not_read(tmp_path: Path) -> None:
    repo = pygit2.Repository(str(repos.make(tmp_path / "repo")))
    entries = b"".join(b"100644 f%07d\0" % number + b"\x11" * 20 for number in range(300_000))
    tree = repo.odb.write(pygit2.enums.ObjectType.TREE, entries)
    who = b"Ada <ada@example.com> 0 +0000"
    text = b"tree %s\nauthor %s\ncommitter %s\n\nmany\n" % (str(tree).encode(), who, who)
    commit = repo.odb.write(pygit2.enums.ObjectType.COMMIT, text)
    assert git_manifests.read(repo, str(commit)) == {"files": [], "made": [], "cut": True}


def test_the_fetch_tells_of_both_commits(tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "repo", {"package.json": PACKAGE})
    repos.git(repo, "checkout", "-q", "-b", "other")
    repos.commit(repo, {"go.mod": "module x\n"})
    repos.git(repo, "checkout", "-q", "main")
    found = repos.fetch(tmp_path / "state", repo, "other")
    assert paths(found["manifests"]) == ["go.mod", "package.json"]
    assert paths(found["default_manifests"]) == ["package.json"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("package.json", '{"workspaces": ["a", 7, "b\\u0007", "%s"]}' % ("x" * 300), {"workspaces": ["a"]}),
        ("package.json", json.dumps({"workspaces": ["a"] * 1000}), {"workspaces": ["a"] * 100}),
        ("package.json", '\ufeff{"dependencies": {"a": "1"}}', {"dependencies": True}),
        ("pyproject.toml", "[project", {"unreadable": True}),
        ("pyproject.toml", "x = " + "[" * 5000, {"unreadable": True}),
        ("pyproject.toml", "tool = 3\nproject = 4\ndependency-groups = [1]\n", {"package": True}),
        ("pnpm-workspace.yaml", "packages:\r\n- a\r\n- \"b/*\" # c\r\nother:\r\n- d\r\n", {"workspaces": ["a", "b/*"]}),
        ("pnpm-lock.yaml", "lockfileVersion: 5.4\n", {"version": "5.4"}),
        ("yarn.lock", "# yarn lockfile v1\n", {}),
        ("go.work", 'go 1.22\nuse ./a\nuse (\n  "./b" // c\n)\n', {"members": ["./b", "./a"]}),
        ("requirements-dev.txt", "a\n--editable .[test]\n", {"editable": True}),
        ("requirements.txt", "-e ./other\n", {}),
        ("pom.xml", "<module> a </module><module>b/c</module>", {"members": ["a", "b/c"]}),
        ("setup.cfg", "no section", {"unreadable": True}),
        ("composer.json", '{"config": {"vendor-dir": "lib"}}', {"vendor": "lib"}),
        ("go.mod", "anything", {}),
    ],
)  # fmt: skip
def test_facts(name: str, text: str, said: dict[str, object]) -> None:
    assert facts(name, text.encode()) == said


@pytest.mark.parametrize(
    "name", "package.json pyproject.toml pnpm-workspace.yaml setup.cfg go.work pom.xml Cargo.toml".split()
)
@pytest.mark.parametrize(
    "piece",
    [
        "use (",
        "<module>",
        "packages:\n",
        "- ",
        "[a.",
        "a.",
        "a.\n",
        "x" * 3999 + "\n",
        "a." * 1999 + "\n",
        "{",
        '"',
        "\n ",
        "''' ",
    ],
)
def test_no_file_costs_more_than_moments(name: str, piece: str) -> None:
    most = wanted(name) or 0
    began = time.process_time()
    facts(name, (piece * (most // len(piece)))[:most].encode())
    assert time.process_time() - began < 5, "more than the size of a file can explain"
