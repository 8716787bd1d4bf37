"""The patch of a result: `git apply` must make the very same tree of it. And packs, refs, URLs, names: the pure parts.

Must not need root: results are committed with git itself here.
"""

from __future__ import annotations

import tempfile
from dataclasses import astuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootfs.git_errors import RepositoryError
from rootfs.git_names import is_git, is_modules
from rootfs.git_patch import Counts, patches
from rootfs.git_result import drop, open_results
from rootfs.git_tree import parse_tree, tree_data
from rootfs.git_url import parse, safe_name
from rootfs.pack import BLOB, COMMIT, TREE, PackWriter
from rootfs.refs import guess_default, packed_refs
from tests.support.repos import git, job

NAMES = st.sampled_from(
    [b"a", b"b", b"d\xff", b"e e", b'q"u', b"t\tb", b"n\nl", b"back\\slash", "ü".encode(), b"-x", b"c "]
)
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(b"/".join)
LINES = st.sampled_from(
    [b"one\n", b"two\n", b"three\r\n", b"\xff\xfe\n", b"-- \n", b"\\ No newline\n", b"@@ -1 +1 @@\n"]
)
DATA = st.one_of(
    st.tuples(st.lists(LINES, max_size=12), st.sampled_from([b"", b"no end", b"\0binary"])).map(
        lambda made: b"".join(made[0]) + made[1]
    ),
    st.binary(max_size=300),
)
NODES = st.tuples(st.sampled_from([b"100644", b"100755", b"120000"]), DATA)
TREES = st.dictionaries(PATHS, NODES, max_size=8)
Tree = dict[bytes, tuple[bytes, bytes]]


def write_tree(repo: Path, tree: Tree, index: Path) -> str:
    """The tree in the repository; a path that another one makes a directory of is left out."""
    env = {"GIT_INDEX_FILE": str(index)}
    lines = []
    for path, (mode, data) in tree.items():
        if not any(other.startswith(path + b"/") for other in tree):
            sha = git(repo, "hash-object", "-w", "--stdin", stdin=data)
            lines.append(mode + b" " + sha.encode() + b" 0\t" + path + b"\0")
    index.unlink(missing_ok=True)
    git(repo, "update-index", "-z", "--index-info", env=env, stdin=b"".join(lines))
    return git(repo, "write-tree", env=env)


def mirror_in(path: Path) -> Path:
    mirror = path / "git" / "k" / "mirror.git"
    mirror.mkdir(parents=True)
    git(mirror, "init", "-q", "--bare")
    return mirror


@pytest.mark.timeout(300)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(old=TREES, new=TREES)
def test_a_patch_makes_the_same_tree(old: Tree, new: Tree) -> None:
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        mirror = mirror_in(state)
        trees = [write_tree(mirror, tree, state / "index") for tree in (old, {**old, **new})]
        commits = [git(mirror, "commit-tree", tree, "-m", "c") for tree in trees]
        for base, tip, wanted in ((*commits, trees[1]), (*reversed(commits), trees[0])):
            repo = open_results(mirror)
            counts = Counts()
            (state / "patch").write_bytes(b"".join(patches(repo, repo[base].tree, repo[tip].tree, counts)))
            stats = repo.diff(repo[base].tree, repo[tip].tree).stats
            assert astuple(counts) == (stats.files_changed, stats.insertions, stats.deletions)
            if base == tip or trees[0] == trees[1]:
                assert (state / "patch").read_bytes() == b""
                continue
            env = {"GIT_INDEX_FILE": str(state / "applied")}
            git(mirror, "read-tree", base, env=env)
            git(mirror, "apply", "--cached", "--whitespace=nowarn", str(state / "patch"), env=env)
            assert git(mirror, "write-tree", env=env) == wanted


def test_dropping_a_result_frees_its_objects_unless_another_needs_them(tmp_path: Path) -> None:
    mirror = mirror_in(tmp_path)
    base = git(mirror, "commit-tree", write_tree(mirror, {b"a": (b"100644", b"1")}, tmp_path / "index"), "-m", "base")
    results = open_results(mirror)
    packs = Path(results.path) / "objects" / "pack"
    commits = []
    for task, parent in (("one", base), ("two", base), ("follow-up", "one")):
        pack = PackWriter(packs, task)
        blob = pack.add(BLOB, task.encode())
        tree = pack.add(TREE, tree_data({b"t": (0o100644, blob)}))
        parent = commits[0] if parent == "one" else parent
        text = f"tree {tree.hex()}\nparent {parent}\nauthor H <h> 0 +0000\ncommitter H <h> 0 +0000\n\n{task}\n"
        commits.append(pack.add(COMMIT, text.encode()).hex())
        pack.finish(commits[-1])
        pack.close()
        results.references.create(f"refs/hutch/tasks/{task}", commits[-1])
    where = Path(results.path)
    assert git(where, "fsck", "--full", "--strict") == ""
    assert git(where, "show", f"{commits[1]}:t") == "two"
    assert drop(mirror, "two") == {"dropped": True}
    assert drop(mirror, "two") == {"dropped": False}
    assert drop(mirror, "one") == {"dropped": True}
    assert {path.stem for path in packs.iterdir()} == {f"pack-{commits[0]}", f"pack-{commits[2]}"}
    assert git(where, "fsck", "--full") == ""


def test_the_job_answers_bad_requests_with_a_sentence(tmp_path: Path) -> None:
    assert "there is no operation 'x'" in job({"op": "x"})["error"]["message"]
    assert "lacks state, url" in job({"op": "fetch"})["error"]["message"]
    request = {
        "op": "result",
        "mirror": str(mirror_in(tmp_path)),
        "base": "1" * 40,
        "upper": str(tmp_path),
        "workdir": "w",
        "lower": [],
        "task": "t",
    }
    assert "cannot find the commit 1111" in job(request)["error"]["message"]
    assert (
        "a task's id has letters"
        in job({"op": "drop", "mirror": request["mirror"], "task": "../x"})["error"]["message"]
    )


@given(
    st.dictionaries(
        st.sampled_from([b"a", b"a.b", b"a0", b"a-", b"b", b"\xff"]),
        st.sampled_from([0o040000, 0o100644, 0o120000, 0o160000]).map(lambda m: (m, b"1" * 20)),
    )
)
def test_a_tree_is_read_as_it_was_written(nodes: dict[bytes, tuple[int, bytes]]) -> None:
    assert parse_tree(tree_data(nodes)) == nodes


def test_packed_refs_take_no_forged_line() -> None:
    sha = "a" * 40
    assert (
        packed_refs({"refs/tags/b": sha, "refs/remotes/origin/a": sha})
        == f"# pack-refs with: sorted \n{sha} refs/remotes/origin/a\n{sha} refs/tags/b\n"
    )
    for name, value in (("refs/a b", sha), ("refs/a\n", sha), ("HEAD", sha), ("refs/a", "x"), ("refs/a", sha + "\n")):
        with pytest.raises(ValueError, match="packed-refs"):
            packed_refs({name: value})


@pytest.mark.parametrize(
    ("target", "commit", "refs", "wanted"),
    [
        ("refs/heads/dev", "1", {"dev": "1", "main": "1"}, "dev"),
        (None, "1", {"dev": "1", "main": "1"}, "main"),
        (None, "2", {"dev": "1", "main": "1"}, None),
        ("refs/heads/gone", None, {"b": "1", "master": "2"}, "master"),
        (None, None, {"b": "1", "a": "2"}, "a"),
        (None, None, {}, None),
    ],
)
def test_the_default_branch(target: str | None, commit: str | None, refs: dict[str, str], wanted: str | None) -> None:
    assert guess_default(target, commit, {f"refs/remotes/origin/{name}": sha for name, sha in refs.items()}) == wanted


@pytest.mark.parametrize(
    ("url", "location", "name"),
    [
        ("https://user:secret@Example.com:443/a/b.git", "https://example.com/a/b.git", "b"),
        ("https://secret@example.com/a/b/", "https://example.com/a/b/", "b"),
        ("git+ssh://example.com/x", "ssh://git@example.com/x", "x"),
        ("ssh://me:secret@example.com:2222/x", "ssh://me@example.com:2222/x", "x"),
        ("git@example.com:team/x.git", "git@example.com:team/x.git", "x"),
        ("example.com:x", "git@example.com:x", "x"),
        ("https://[::1]:8443/x", "https://[::1]:8443/x", "x"),
        ("https://example.com/.git", "https://example.com/.git", "repository"),
        ("https://example.com/..", "https://example.com/..", "repository"),
        ("https://example.com/%20%20a b;c", "https://example.com/%20%20a b;c", "a-b-c"),
        ("https://example.com/.github", "https://example.com/.github", ".github"),
    ],
)
def test_a_url_is_taken_apart(url: str, location: str, name: str) -> None:
    source = parse(url)
    assert (source.location, source.name) == (location, name)
    assert "secret" not in repr(source) or source.username == "secret"
    assert parse(location).key == source.key


def test_the_key_ignores_the_login_only() -> None:
    urls = [
        "https://example.com/a",
        "https://example.com/b",
        "http://example.com/a",
        "ssh://example.com/a",
        "https://example.com:1/a",
    ]
    assert len({parse(url).key for url in urls}) == len(urls)
    assert parse("https://x:y@example.com/a/").key == parse("https://EXAMPLE.com/a").key


@pytest.mark.parametrize(
    "url",
    ["", " ", "ext::sh", "a/b", "file://host/x", "ftp://x/y", "https://", "https://[x/", "https://a:b:c/", "x\0y"],
)
def test_what_is_no_repository_is_refused(url: str) -> None:
    with pytest.raises(RepositoryError) as caught:
        parse(url)
    assert caught.value.remedy


def test_safe_names() -> None:
    assert safe_name("/x/" + "a" * 200) == "a" * 100
    assert safe_name("/") == safe_name("...") == safe_name("/.GIT") == "repository"


@pytest.mark.parametrize(
    "name",
    [
        ".git",
        ".GIT",
        ".Git ",
        ".git.",
        "git~1",
        "GIT~1",
        ".git::$INDEX_ALLOCATION",
        ".g\u200cit",
        "x\\.git",
        ".git\\x",
        "",
        ".",
        "..",
    ],
)
def test_every_spelling_of_git_is_known(name: str) -> None:
    assert is_git(name.encode())


@pytest.mark.parametrize("name", [b".gitx", b"git", b".gi", b"git~2", b"x.git", b".gitignore", b"\xff", b"..."])
def test_other_names_are_fine(name: bytes) -> None:
    assert not is_git(name)
    assert is_modules(b".gitmodules")
    assert not is_modules(name)
