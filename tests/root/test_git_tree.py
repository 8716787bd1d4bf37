"""The tree made from an overlay's upper directory is the tree that `git add -A` makes of the merged directory.

Random base trees, another commit in the layer below, random changes on a real overlay mount. Must not use the code under
test for anything but the answer, nor follow a link that a random tree contains.
"""

# Names that are not UTF-8 are the point, and pathlib takes no bytes:
# ruff: noqa: PTH101, PTH108, PTH112, PTH113, PTH114, PTH116, PTH211
from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st

from rootfs import git_result
from rootfs.git_tree import Limits
from rootfs.tree import remove_tree
from tests.support.repos import git

OPTIONS = "redirect_dir=on,metacopy=off,index=off"
WORKDIR = "workspace/r"
FAST = "/dev/shm" if os.path.isdir("/dev/shm") else "/var/tmp"  # unmounting an overlay syncs its file system


@dataclass(frozen=True)
class Content:
    """A file's bytes and executable bit, or a link's target."""

    data: bytes
    executable: bool = False
    link: bool = False


Files = dict[bytes, Content]


@dataclass
class Stack:
    """An overlay with the work tree of one commit below, another commit checked out on top, ready to be changed."""

    state: Path
    below: str
    base: str
    merged: Path

    @property
    def mirror(self) -> Path:
        return self.state / "git" / "k" / "mirror.git"

    @property
    def work(self) -> Path:
        return self.merged / WORKDIR

    def result(self, exclude: tuple[bytes, ...] = (), **limits: int) -> dict[str, object]:
        request = git_result.Request(
            self.mirror,
            self.base,
            self.state / "upper",
            WORKDIR.encode(),
            (self.state / "lower2", self.state / "lower1"),
            "t1",
            "result",
            Limits(**limits),
            exclude=exclude,
        )
        return git_result.result(request)

    def tree(self) -> str:
        """The tree of the answer."""
        commit = self.result()["commit"]
        return git(self.mirror.parent / "results.git", "rev-parse", f"{commit or self.base}^{{tree}}")

    def expected(self) -> str:
        """What git makes of a copy of the merged directory."""
        copy = self.state / "copy"
        if self.work.is_dir() and not self.work.is_symlink():
            shutil.copytree(self.work, copy, symlinks=True)
        else:
            copy.mkdir()
        env = {"GIT_DIR": str(self.mirror), "GIT_WORK_TREE": str(copy), "GIT_INDEX_FILE": str(self.state / "index")}
        git(copy, "read-tree", self.base, env=env)
        git(copy, "add", "-A", ".", env=env)
        return git(copy, "write-tree", env=env)


@contextmanager
def stack(below: Files, base: Files, setup: Files | None = None) -> Iterator[Stack]:
    """`below` checked out in the first layer, `setup` (ignored files) in the second, `base` checked out in the upper."""
    state = Path(tempfile.mkdtemp(prefix="git-tree-", dir=FAST))
    try:
        mirror = state / "git" / "k" / "mirror.git"
        mirror.mkdir(parents=True)
        git(mirror, "init", "-q", "--bare")
        commits = [commit_of(state, mirror, files) for files in (below, base)]
        for name in ("lower1", "lower2", "upper", "work", "merged"):
            (state / name / (WORKDIR if name.startswith("lower") else "")).mkdir(parents=True)
        checkout(state, mirror, None, commits[0], state / "lower1" / WORKDIR)
        write_all(state / "lower2" / WORKDIR, setup or {})
        layers = f"lowerdir={state}/lower2:{state}/lower1,upperdir={state}/upper,workdir={state}/work,{OPTIONS}"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", layers, str(state / "merged")], check=True, timeout=30
        )
        try:
            checkout(state, mirror, commits[0], commits[1], state / "merged" / WORKDIR)
            yield Stack(state, commits[0], commits[1], state / "merged")
        finally:
            subprocess.run(["umount", str(state / "merged")], check=True, timeout=30)
    finally:
        remove_tree(state)  # of any depth


def commit_of(state: Path, mirror: Path, files: Files) -> str:
    source = state / "source"
    source.mkdir()
    write_all(source, files)
    env = {"GIT_DIR": str(mirror), "GIT_WORK_TREE": str(source), "GIT_INDEX_FILE": str(state / "index")}
    git(source, "add", "-A", "-f", ".", env=env)
    commit = git(source, "commit-tree", "-m", "c", git(source, "write-tree", env=env), env=env)
    shutil.rmtree(source)
    (state / "index").unlink()
    return commit


def checkout(state: Path, mirror: Path, old: str | None, new: str, where: Path) -> None:
    """As checkout.sh does it: what git removes and writes here is what the overlay gets to see."""
    env = {"GIT_DIR": str(mirror), "GIT_WORK_TREE": str(where), "GIT_INDEX_FILE": str(state / "index")}
    if old:
        git(where, "read-tree", old, env=env)
        subprocess.run(
            ["git", "update-index", "-q", "--refresh"], cwd=where, env={**os.environ, **env}, timeout=30, check=False
        )
    git(where, "read-tree", "--reset", "-u", new, env=env)
    (state / "index").unlink()


def write_all(top: Path, files: Files) -> None:
    for path, content in files.items():
        put(os.fsencode(top), path, content)


def put(top: bytes, name: bytes, content: Content) -> None:
    """Write one file, unless a file or link is in its way: through a link this would leave the test's directory."""
    if not makes_directories(top, os.path.dirname(name)):
        return
    path = top + b"/" + name
    remove(path)
    if content.link:
        os.symlink(content.data, path)
        return
    with open(path, "wb") as file:
        file.write(content.data)
    os.chmod(path, 0o755 if content.executable else 0o644)


def makes_directories(top: bytes, name: bytes) -> bool:
    """Whether every part of `name` below `top` is a real directory now."""
    here = top
    os.makedirs(top, exist_ok=True)
    for part in filter(None, name.split(b"/")):
        here += b"/" + part
        if not os.path.lexists(here):
            os.mkdir(here)
        if os.path.islink(here) or not os.path.isdir(here):
            return False
    return True


def is_inside(top: bytes, name: bytes) -> bool:
    """Whether `name` is there and no link stands on its way."""
    parts = name.split(b"/")
    ways = [top + b"/" + b"/".join(parts[:depth]) for depth in range(1, len(parts))]
    return os.path.lexists(top + b"/" + name) and not any(os.path.islink(way) for way in ways)


def remove(path: bytes) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


# Each example mounts: shrinking one takes longer than reading it.
NO_SHRINK = (Phase.explicit, Phase.reuse, Phase.generate)
NAMES = st.sampled_from([b"a", b"b", b"c.o", b"d\xff", b"e e", b"f\n", b"-x", "ü".encode()])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
DATA = st.sampled_from([b"", b"x\n", b"y", b"x\r\ny\r\n", b"\0\xff\r\n", b"l\n" * 50])
FILES = st.builds(Content, DATA, st.booleans())
LINKS = st.sampled_from([b"a", b"/etc/passwd", b"../../../..", b"\xff", b"."]).map(
    lambda target: Content(target, link=True)
)
CONTENTS = st.one_of(FILES, FILES, LINKS)
RULES = st.sampled_from([b"*.o", b"a", b"/b", b"a/", b"!a", b"!*.o", b"*", b"b/**", b"**/e*", b"!/d?", b"a/b"])
IGNORES = st.lists(RULES, min_size=1, max_size=3)
IGNORE_FILES = st.tuples(st.one_of(st.just(b""), PATHS.map(lambda path: path + b"/")), IGNORES).map(
    lambda made: (made[0] + b".gitignore", Content(b"\n".join(made[1]) + b"\n"))
)
TREES = st.tuples(st.dictionaries(PATHS, CONTENTS, max_size=12), st.lists(IGNORE_FILES, max_size=2)).map(
    lambda made: {**made[0], **dict(made[1])}
)
OPERATIONS = st.one_of(
    st.tuples(st.just("put"), PATHS, CONTENTS),
    st.tuples(st.just("put"), PATHS, CONTENTS),
    IGNORE_FILES.map(lambda made: ("put", made[0], made[1])),
    st.tuples(st.just("remove"), PATHS, st.none()),
    st.tuples(st.just("remove"), st.sampled_from([b".gitignore", b"a", b"b", b"."]), st.none()),
    st.tuples(st.just("mkdir"), PATHS, st.none()),
    st.tuples(st.just("touch"), PATHS, st.none()),
    st.tuples(st.just("chmod"), PATHS, st.none()),
    st.tuples(st.just("move"), PATHS, PATHS),
)


def apply(work: Path, operation: tuple[str, bytes, object]) -> None:
    """One change as a task might make it; what isn't possible at the moment is left out."""
    kind, name, argument = operation
    top = os.fsencode(work)
    if kind == "put" and isinstance(argument, Content):
        return put(top, name, argument)
    if kind == "mkdir":
        makes_directories(top, name)
        return None
    if not is_inside(top, name):
        return None
    path = top + b"/" + name
    if kind == "remove":
        return remove(path if name != b"." else top)
    if kind == "move" and isinstance(argument, bytes) and not argument.startswith(name + b"/"):
        return move(top, path, argument)
    if os.path.islink(path) or not os.path.isfile(path):
        return None
    if kind == "touch":
        with open(path, "r+b") as file:
            data = file.read()
            file.seek(0)
            file.write(data)
    elif kind == "chmod":
        os.chmod(path, os.stat(path).st_mode ^ 0o111)


def move(top: bytes, path: bytes, name: bytes) -> None:
    target = top + b"/" + name
    if makes_directories(top, os.path.dirname(name)) and not os.path.lexists(target) and os.path.lexists(path):
        Path(os.fsdecode(path)).rename(os.fsdecode(target))  # of directories that came from below too


@pytest.mark.timeout(300)
@settings(max_examples=100, deadline=None, phases=NO_SHRINK, suppress_health_check=list(HealthCheck))
@given(below=TREES, base=TREES, operations=st.lists(OPERATIONS, min_size=1, max_size=10))
def test_the_tree_is_the_one_that_git_makes(
    below: Files, base: Files, operations: list[tuple[str, bytes, object]]
) -> None:
    with stack(below, base) as made:
        for operation in operations:
            apply(made.work, operation)
        expected = made.expected()
        event("changed" if expected != git(made.mirror, "rev-parse", made.base + "^{tree}") else "unchanged")
        assert made.tree() == expected


LINES = [
    b"* text=auto",
    b"*.o text",
    b"a -text",
    b"* eol=crlf",
    b"*.o binary",
    b"[attr]x text",
    b"b x",
    b"b !text",
    b"* ident",
    b"/a/b eol=lf",
]
ATTRIBUTES = st.lists(st.sampled_from(LINES), max_size=4).map(lambda lines: Content(b"\n".join(lines) + b"\n"))
PARTS = st.sampled_from([b"x\r\n", b"y\n", b"z", b"$Id: q $\n", b"\r", b"\0", b"\x01", b"\x1a", b"w" * 127])
TEXTS = st.lists(PARTS, max_size=5).map(b"".join)
TEXT_NAMES = st.sampled_from([b"a", b"b", b"c.o", b"a2/b", b"s/a", b"s/b", b"s/c.o"])
TEXT_FILES = st.dictionaries(TEXT_NAMES, TEXTS.map(Content), min_size=1, max_size=6)


@pytest.mark.timeout(300)
@settings(max_examples=100, deadline=None, phases=NO_SHRINK, suppress_health_check=list(HealthCheck))
@given(base=TEXT_FILES, top=ATTRIBUTES, sub=ATTRIBUTES, changed=TEXT_FILES)
def test_text_is_stored_as_git_stores_it(base: Files, top: Content, sub: Content, changed: Files) -> None:
    with stack({}, {**base, b".gitattributes": top, b"s/.gitattributes": sub}) as made:
        write_all(made.work, changed)
        assert made.tree() == made.expected()
