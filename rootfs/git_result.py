"""A task's result: a commit made on the host from the mirror's base commit and the task's upper directory; its diff.

Must not run git over what a task left. The commit goes to results.git beside the mirror: two repositories, so that the
mirror's objects can be mounted into sandboxes without showing them other tasks' results.

    git/<key>/results.git   objects/info/alternates = ../mirror.git/objects
                            objects/pack/pack-<commit>.pack: all that one task added, so dropping it is deleting two files
                            refs/hutch/tasks/<task>
"""

import contextlib
import os
import re
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Self

import pygit2
from pygit2.enums import RepositoryOpenFlag

from rootfs.git_errors import RepositoryError
from rootfs.git_mirror import locked
from rootfs.git_patch import Counts, patches
from rootfs.git_tree import Limits, Report, TreeEditor, shown
from rootfs.pack import COMMIT, TREE, PackWriter
from rootfs.upper import Directory, Kind, UpperError

_TASK = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}\Z")
_AUTHOR = "Hutch <hutch@localhost>"
_PREFIX = "refs/hutch/tasks/"


@dataclass(frozen=True, slots=True)
class Request:
    """What the daemon asks for. `lowers`: every layer below the upper, top first; without them deletions go unseen."""

    mirror: Path
    base: str
    upper: Path
    workdir: bytes
    lowers: tuple[Path, ...]
    task: str
    message: str
    limits: Limits
    output: Path | None = None
    exclude: tuple[bytes, ...] = ()  # patterns as in .git/info/exclude, of what was installed for the task

    @classmethod
    def parse(cls, request: dict[str, Any]) -> Self:
        lowers = tuple(Path(path) for path in request["lower"])
        workdir = os.fsencode(request["workdir"]).strip(b"/")
        parts = workdir.split(b"/")
        if not workdir or b"" in parts or b"." in parts or b".." in parts:
            raise RepositoryError(
                f"cannot make a result of the directory {request['workdir']!r}: it is not a path from the root"
            )
        limits = Limits(**request.get("limits", {}))
        message = request.get("message") or f"Task {request['task']}"
        return cls(
            Path(request["mirror"]),
            request["base"],
            Path(request["upper"]),
            workdir,
            lowers,
            request["task"],
            message,
            limits,
            Path(request["output"]) if request.get("output") else None,
            tuple(os.fsencode(pattern) for pattern in request.get("exclude", ())),
        )


def result(request: Request) -> dict[str, Any]:
    """Commit what the task changed, and write the patch that makes it. The job's "result"; "commit" null if that is nothing."""
    ref = _ref(request.task)
    repo = open_results(request.mirror)
    base = _commit(repo, request.base)
    packs = Path(repo.path) / "objects" / "pack"
    pack = PackWriter(packs, f"task-{request.task}")
    try:
        tree, report = _edited(repo, request, base, pack)
        if tree == base.tree_id.raw:
            return _described(None, Counts(), report)
        commit = pack.add(COMMIT, _commit_data(tree, request)).hex()
        pack.finish(commit)
    except UpperError as error:
        raise RepositoryError(
            f"cannot read the result of task {request.task}: {error}", "run `hutch doctor`: overlay options differ"
        ) from error
    finally:
        pack.close()
    # A commit that took its place at the same second with the same content is the same commit: the ref may be moved.
    repo.references.create(ref, commit, force=True)
    counts = Counts()
    with open(request.output or os.devnull, "wb") as file:
        file.writelines(patches(repo, base.tree, repo[commit].tree, counts))
    return _described(commit, counts, report)


def open_results(mirror: Path) -> pygit2.Repository:
    """The results repository beside the mirror, made on first use."""
    results = mirror.parent / "results.git"
    if not results.exists():
        with locked(mirror.parent / "results.lock"):
            if not results.exists():
                _make_results(mirror, results)
    try:
        return pygit2.Repository(str(results), RepositoryOpenFlag.NO_SEARCH)
    except pygit2.GitError as error:
        raise RepositoryError(
            f"cannot open {results}: {error}", "remove it if its results aren't needed any more"
        ) from error


def _make_results(mirror: Path, results: Path) -> None:
    staging = mirror.parents[2] / "staging"
    staging.mkdir(mode=0o700, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="git-", dir=staging))
    try:
        repo = pygit2.init_repository(str(work / "results.git"), bare=True)
        alternates = work / "results.git" / "objects" / "info" / "alternates"
        alternates.parent.mkdir(exist_ok=True)
        alternates.write_text("../../mirror.git/objects\n")
        repo.free()
        _sync(work)
        (work / "results.git").rename(results)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _commit(repo: pygit2.Repository, sha: str) -> Any:
    try:
        commit = repo[sha]
    except (KeyError, ValueError) as error:
        raise RepositoryError(
            f"cannot find the commit {sha} in {repo.path}", "run the task again: its base is gone from the mirror"
        ) from error
    if not isinstance(commit, pygit2.Commit):
        raise RepositoryError(f"cannot use {sha}: it is no commit")
    return commit


def _sync(top: Path) -> None:
    """Make sure that a small tree is on the disk; not by syncing all of that, which may have a gigabyte to write."""
    for folder, _, names in os.walk(top, topdown=False):
        for path in (*(os.path.join(folder, name) for name in names), folder):
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _edited(repo: pygit2.Repository, request: Request, base: Any, pack: PackWriter) -> tuple[bytes, Report]:
    """The task's tree. The way down to the work tree counts too: whoever removed /workspace removed all files."""
    editor = TreeEditor(repo, pack, request.limits, request.exclude)
    with contextlib.ExitStack() as on_the_way:
        found: Directory | _Way = Directory.open(request.upper, request.lowers)
        for name in request.workdir.split(b"/"):
            if isinstance(found, Directory):
                found = _step(on_the_way.enter_context(found), name)
        if isinstance(found, Directory):
            return editor.edit(found, base.tree_id.raw), editor.report
    if found is _Way.UNTOUCHED:
        return base.tree_id.raw, editor.report
    editor.report.notice(f"/{shown(request.workdir)} is gone: the task removed or replaced it")
    return pack.add(TREE, b""), editor.report


class _Way(Enum):
    """How the way to the work tree ends before its end."""

    UNTOUCHED = "the upper has nothing there, the layers below have"
    GONE = "no directory is there any more"


def _step(directory: Directory, name: bytes) -> Directory | _Way:
    kind = directory.kind(name)
    if kind is None:
        return _Way.UNTOUCHED if directory.below(name) is not None else _Way.GONE
    return directory.child(name) if kind is Kind.DIRECTORY else _Way.GONE


def _commit_data(tree: bytes, request: Request) -> bytes:
    now = f"{_AUTHOR} {int(time.time())} +0000"
    message = request.message.replace("\0", "").rstrip("\n") + "\n"
    return f"tree {tree.hex()}\nparent {request.base}\nauthor {now}\ncommitter {now}\n\n{message}".encode(
        "utf-8", "surrogateescape"
    )


def _described(commit: str | None, counts: Counts, report: Report) -> dict[str, Any]:
    skipped = [{"path": shown(path), "reason": reason} for path, reason in report.skipped]
    notices = list(report.notices)
    if report.more:
        notices.append(f"{report.more} more files were left out")
    return {
        "commit": commit,
        **asdict(counts),
        "skipped": skipped,
        "notices": notices,
    }


def drop(mirror: Path, task: str) -> dict[str, Any]:
    """Forget a task's result, and free its objects unless another task was built on them. The job's "drop"."""
    ref = _ref(task)
    if not (mirror.parent / "results.git").exists():
        return {"dropped": False}
    repo = open_results(mirror)
    with locked(mirror.parent / "results.lock"):
        if ref not in repo.references:
            return {"dropped": False}
        commit = str(repo.references[ref].target)
        repo.references.delete(ref)
        if not _needed(repo, commit):
            for ending in ("idx", "pack"):  # the index first: a pack counts as long as it has one
                (Path(repo.path) / "objects" / "pack" / f"pack-{commit}.{ending}").unlink(missing_ok=True)
    return {"dropped": True}


def _needed(repo: pygit2.Repository, commit: str) -> bool:
    """Whether a remaining result is `commit` or descends from it through other results."""
    packs = Path(repo.path) / "objects" / "pack"
    for name in list(repo.references):
        at = str(repo.references[name].target) if name.startswith(_PREFIX) else None
        while at and (packs / f"pack-{at}.idx").exists():
            if at == commit:
                return True
            parents = repo[at].parent_ids
            at = str(parents[0]) if parents else None
    return False


def _ref(task: str) -> str:
    if not _TASK.match(task):
        raise RepositoryError(f"cannot name a result {task!r}: a task's id has letters, digits, - and _ only")
    return _PREFIX + task
