"""A repository on this host as a source: may it be read, is it shallow, what of it is not committed.

Must not run anything from it (libgit2 runs no hook, filter or fsmonitor on a fetch or a status) nor write to it.
"""

import os
from pathlib import Path

import pygit2
from pygit2.enums import RepositoryOpenFlag

from rootfs.git_errors import RepositoryError
from rootfs.git_url import Source

_ALTERNATES_DEEP = 5  # as git itself


def open_local(source: Source) -> pygit2.Repository:
    """The source's repository, opened for reading. RepositoryError if it is none or borrows objects of somebody else.

    libgit2 refuses repositories of another user, because their config could make it run something. Nothing that runs is
    done with this one, and root must be able to read a user's checkout: the check is off for this process.
    """
    path = source.path or ""
    if not Path(path).is_dir():
        reason = "it is a file" if os.path.exists(path) else "there is no such directory"
        raise RepositoryError(
            f"cannot read the repository {source.location}: {reason}", "give the path of a git repository"
        )
    pygit2.settings.owner_validation = False
    try:
        repo = pygit2.Repository(path, RepositoryOpenFlag.NO_SEARCH)
    except (pygit2.GitError, KeyError) as error:
        above = pygit2.discover_repository(path)
        remedy = (
            f"give its top directory ({Path(above).parent})"
            if above
            else f"run `git init` and commit in {path}, or give another path"
        )
        raise RepositoryError(f"cannot read {source.location}: it is not a git repository", remedy) from error
    _refuse_foreign_objects(source, common_directory(repo))
    return repo


def common_directory(repo: pygit2.Repository) -> Path:
    """The directory that holds objects and refs: of a linked worktree it is the main repository's."""
    own = Path(repo.path)
    try:
        pointer = (own / "commondir").read_text().strip()
    except (OSError, UnicodeDecodeError):
        return own
    return (own / pointer).resolve()


def _refuse_foreign_objects(source: Source, directory: Path) -> None:
    """Borrowed objects (alternates, links) must belong to the repository's owner.

    Root reads here what a user only names: a repository whose `alternates` points to somebody else's would hand out
    that person's objects. A repository of root's may borrow from anywhere.
    """
    owner = directory.stat().st_uid
    waiting = [(directory / "objects", 0)]
    while waiting and owner != 0:
        objects, depth = waiting.pop()
        for part in (objects, objects / "pack"):
            if part.exists() and part.stat().st_uid != owner:
                raise RepositoryError(
                    f"cannot read {source.location}: it borrows objects from {part}, which belongs to another user",
                    "run `git repack -a -d` in it and remove objects/info/alternates",
                )
        if depth < _ALTERNATES_DEEP:
            waiting += [(alternate, depth + 1) for alternate in _alternates(objects)]


def _alternates(objects: Path) -> list[Path]:
    try:
        lines = (objects / "info" / "alternates").read_bytes().splitlines()
    except OSError:
        return []
    return [objects / os.fsdecode(line) for line in lines if line and not line.startswith(b"#")]


def shallow_commits(repo: pygit2.Repository) -> bytes:
    """The ids of the commits whose parents are missing, one a line; empty for a whole history."""
    try:
        lines = (common_directory(repo) / "shallow").read_bytes().split()
    except FileNotFoundError:
        return b""
    return b"".join(sorted(line + b"\n" for line in lines if len(line) == 40 and line.isalnum()))


def uncommitted(repo: pygit2.Repository) -> str | None:
    """A notice when the work tree has changes: they are no part of any commit, so not of the run."""
    if repo.is_bare or not repo.workdir:
        return None
    try:
        changes = repo.status(untracked_files="normal", ignored=False)
    except (pygit2.GitError, UnicodeError, OSError):
        return f"could not see whether {repo.workdir} has uncommitted changes; they would not be part of the run"
    return notice(len(changes), f" (for example {_printable(next(iter(changes)))})" if changes else "")


def notice(changes: int, example: str = "") -> str | None:
    """What to tell of so many uncommitted changes."""
    if not changes:
        return None
    count = f"{changes} uncommitted changes are" if changes > 1 else "1 uncommitted change is"
    return f"{count} not part of the run{example}: commit first to include them"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name)[:80]
