"""The bare mirror of one repository: clone or fetch it, resolve a ref, describe what a sandbox needs of it.

Must not write outside its key's directory and staging/, and never deletes an object: running sandboxes read them.

    state/git/<key>/lock         flock: one fetch at a time
    state/git/<key>/mirror.git   cloned in state/staging/<random>/, then renamed: it exists whole or not at all
                                 objects/info/hutch-shallow: the sandbox's .git/shallow when the source is shallow
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pygit2
from pygit2.enums import FileMode, RepositoryOpenFlag

from rootfs import git_borrow, git_copy, git_local, git_manifests, git_remote, git_sweep
from rootfs.git_errors import Progress, RepositoryError
from rootfs.git_remote import Head
from rootfs.git_url import Source
from rootfs.refs import BRANCHES, HEADS, TAGS, Choice, choose, guess_default, similar

_PACK_REFS_ABOVE = 50  # loose refs
_LOOKED_AT = 200  # branches of a mirror whose objects are checked before a fetch
_SHOWN_SUBMODULES = 10
_SHALLOW = "objects/info/hutch-shallow"


def fetch(state: Path, source: Source, ref: str | None, progress: Progress) -> dict[str, Any]:
    """Mirror `source` under `state`, resolve `ref` (None: the default branch) and describe both. The job's "fetch"."""
    home = state / "git" / source.key
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    local = git_local.open_local(source) if source.path and not source.borrowed else None
    with locked(home / "lock"):
        git_sweep.touch(home)
        repo, head = _updated(state, home / "mirror.git", source, local, progress)
        refs = listed(repo)
        if not refs:
            raise RepositoryError(f"cannot use {source.location}: it is empty", "commit something to it first")
        default = guess_default(head.target, head.commit, refs)
        found = _resolved(repo, source, ref, refs, default, progress)
        commit = repo[found.target]
        default_commit = refs[BRANCHES + default] if default else head.commit or str(commit.id)
        manifests = git_manifests.read(repo, str(commit.id))
        same = default_commit == str(commit.id)
        default_manifests = manifests if same else git_manifests.read(repo, default_commit)
    notices = [found.notice, *_notices(repo, commit)]
    return {
        "mirror": str(home / "mirror.git"),
        "objects": str(home / "mirror.git" / "objects"),
        "name": source.name,
        "origin_url": source.location,
        "default_branch": default,
        "default_commit": default_commit,
        "branch": found.branch,
        "ref": found.name,
        "commit": str(commit.id),
        "refs": refs,
        "notices": [notice for notice in notices if notice],
        "local": source.path is not None,
        "manifests": manifests,
        "default_manifests": default_manifests,
    }


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive flock on `path`. The kernel lets go when the process dies."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _updated(
    state: Path, mirror: Path, source: Source, local: pygit2.Repository | None, progress: Progress
) -> tuple[pygit2.Repository, Head]:
    """The mirror after a fetch. One that is missing, broken, or shallow in another way than its source is cloned anew."""
    repo = _opened(mirror)
    if source.borrowed:  # where a shallow history ends, the fetch tells; whether it does at all is asked
        shallow = _shallow_of(mirror) if git_borrow.is_shallow(source) else b""
    else:
        shallow = git_local.shallow_commits(local) if local else b""
    if repo is None or _shallow_of(mirror) != shallow:
        return _cloned(state, mirror, source, local, shallow, progress)
    _sweep(mirror)
    progress(f"fetching {source.location}")
    head = git_remote.fetch(repo, source, progress)
    _settle(repo, git_borrow.shallow(repo) if source.borrowed else shallow)
    return repo, head


def _opened(mirror: Path) -> pygit2.Repository | None:
    """The mirror if it is usable: it opens, and what its branches name is there."""
    try:
        repo = pygit2.Repository(str(mirror), RepositoryOpenFlag.NO_SEARCH)
        _ = repo.remotes["origin"], repo.references["HEAD"]
        branches = [sha for name, sha in listed(repo).items() if name.startswith(BRANCHES)]
        for sha in branches[:_LOOKED_AT]:
            _ = repo[sha].peel(pygit2.Tree)
    except (pygit2.GitError, KeyError, ValueError):
        return None
    return repo


def _sweep(mirror: Path) -> None:
    """Remove what a killed fetch left. Nobody else writes here: the flock is ours."""
    for folder, _, names in os.walk(mirror):
        inside_pack = Path(folder).name == "pack"
        for name in names:
            if name.endswith(".lock") or (inside_pack and name.startswith(("pack_git2_", "tmp_"))):
                Path(folder, name).unlink(missing_ok=True)


def _cloned(
    state: Path, mirror: Path, source: Source, local: pygit2.Repository | None, shallow: bytes, progress: Progress
) -> tuple[pygit2.Repository, Head]:
    """A fresh clone, visible under its name by one rename. A mirror that was there goes to staging, whose sweep takes it:
    sandboxes that still read its objects have them mounted and keep them."""
    progress(f"cloning {source.location}")
    staging = state / "staging"
    staging.mkdir(mode=0o700, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="git-", dir=staging))
    try:
        repo = pygit2.init_repository(str(work / "mirror.git"), bare=True)
        git_remote.configure(repo, source)
        if local is not None and not shallow:
            git_copy.copy_history(local, work / "mirror.git")
        head = git_remote.fetch(repo, source, progress)
        _settle(repo, git_borrow.shallow(repo) if source.borrowed else shallow)
        repo.free()
        if mirror.exists():
            _adopt_packs(mirror, work / "mirror.git")
            mirror.rename(work / "former.git")
        (work / "mirror.git").rename(mirror)
        _sync_directory(mirror.parent)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    if not (work / "former.git").exists():
        work.rmdir()
    return pygit2.Repository(str(mirror), RepositoryOpenFlag.NO_SEARCH), head


def _adopt_packs(former: Path, new: Path) -> None:
    """Keep the former mirror's whole packs: task results are built on commits that may be gone from the remote."""
    for index in (former / "objects" / "pack").glob("pack-*.idx"):
        pack = index.with_suffix(".pack")
        target = new / "objects" / "pack"
        if pack.exists() and not (target / pack.name).exists():
            os.link(pack, target / pack.name)  # the index last: a pack without one is not seen
            os.link(index, target / index.name)


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _shallow_of(mirror: Path) -> bytes:
    try:
        return (mirror / _SHALLOW).read_bytes()
    except FileNotFoundError:
        return b""


def _settle(repo: pygit2.Repository, shallow: bytes) -> None:
    """After a fetch: say where history ends, and pack many loose refs into one file, since listing them must stay fast."""
    if shallow:
        # Both: libgit2 reads `shallow` (a fetch removes it), a sandbox gets to see objects/ only.
        _write_synced(Path(repo.path) / "shallow", shallow)
        _write_synced(Path(repo.path) / _SHALLOW, shallow)
    loose = sum(len(names) for _, _, names in os.walk(os.path.join(repo.path, "refs")))
    if loose > _PACK_REFS_ABOVE:
        repo.compress_references()


def listed(repo: pygit2.Repository) -> dict[str, str]:
    """Branches and tags with their object ids. Names that aren't UTF-8 are left out: nobody could ask for them."""
    refs = {}
    for raw in repo.raw_listall_references():
        try:
            name = raw.decode()
        except UnicodeDecodeError:
            continue
        target = repo.references[name].target if name.startswith((BRANCHES, TAGS)) else None
        if isinstance(target, pygit2.Oid):
            refs[name] = str(target)
    return refs


def _resolved(
    repo: pygit2.Repository,
    source: Source,
    ref: str | None,
    refs: dict[str, str],
    default: str | None,
    progress: Progress,
) -> Choice:
    """`ref` as the id of a commit that is in the mirror, with the branch it names if it names one."""
    if ref is None or ref == "HEAD":
        target = refs[BRANCHES + default] if default else _detached_head(repo, source)
        return Choice(target=target, branch=default, name=HEADS + default if default else None)
    choice = choose(ref, refs)
    if choice and choice.target:
        return Choice(_commit_of(repo, choice.target, ref), choice.branch, None, choice.notice, choice.name)
    if choice and choice.prefix:
        sha = _expanded(repo, choice.prefix)
        if sha or (len(ref) == 40 and git_remote.fetch_one(repo, source, choice.prefix, progress)):
            return Choice(target=_commit_of(repo, sha or choice.prefix, ref))
    elif ref.startswith("refs/") and git_remote.fetch_one(repo, source, ref, progress):
        target = str(repo.references[f"refs/hutch/fetched/{ref}"].target)
        return Choice(target=_commit_of(repo, target, ref), name=ref)
    near = similar(ref, refs)
    remedy = f"similar names there: {', '.join(near)}" if near else "give a branch, a tag or a commit of it"
    raise RepositoryError(f"cannot find '{ref}' in {source.location}: no branch, tag or commit has this name", remedy)


def _detached_head(repo: pygit2.Repository, source: Source) -> str:
    if git_remote.HEAD not in repo.references:
        raise RepositoryError(
            f"cannot tell the default branch of {source.location}", "name a branch, tag or commit with --ref"
        )
    return str(repo.references[git_remote.HEAD].target)


def _commit_of(repo: pygit2.Repository, sha: str, ref: str) -> str:
    try:
        return str(repo[sha].peel(pygit2.Commit).id)
    except (pygit2.GitError, KeyError, ValueError) as error:
        raise RepositoryError(f"cannot use '{ref}': it names no commit", "give a branch, a tag or a commit") from error


def _expanded(repo: pygit2.Repository, prefix: str) -> str | None:
    """The full id of the commit or tag that starts with `prefix`. Files and directories with it don't count."""
    try:
        return str(repo[prefix].id)
    except KeyError:
        return None
    except ValueError:
        pass  # ambiguous among all objects: rare enough to look at each
    fitting = {str(oid) for oid in repo.odb if str(oid).startswith(prefix)}
    commits = sorted(sha for sha in fitting if isinstance(repo[sha], pygit2.Commit))
    if len(commits) > 1:
        raise RepositoryError(
            f"cannot use '{prefix}': it is the beginning of {len(commits)} commits",
            f"write more digits: {', '.join(commits[:5])}",
        )
    return commits[0] if commits else None


def _notices(repo: pygit2.Repository, commit: Any) -> list[str]:
    """What somebody would miss in the work tree of this commit: submodules, and files kept elsewhere by LFS."""
    notices = []
    modules = _submodules(repo, commit)
    if modules:
        more = ", …" if len(modules) > _SHOWN_SUBMODULES else ""
        notices.append(f"submodules are not fetched: {', '.join(modules[:_SHOWN_SUBMODULES])}{more}")
    if b"filter=lfs" in _blob(repo, commit, ".gitattributes"):
        notices.append("LFS pointers are left as they are")
    return notices


def _submodules(repo: pygit2.Repository, commit: Any) -> list[str]:
    paths = re.findall(rb"^\s*path\s*=\s*([!-~][ -~]*)", _blob(repo, commit, ".gitmodules"), re.MULTILINE)
    found = []
    for path in {raw.decode().strip() for raw in paths[:1000]}:
        try:
            entry = commit.tree[path]
        except (KeyError, ValueError):
            continue
        if entry.filemode == FileMode.COMMIT:
            found.append(path)
    return sorted(found)


def _blob(repo: pygit2.Repository, commit: Any, path: str) -> bytes:
    try:
        entry = commit.tree[path]
    except KeyError:
        return b""
    return entry.data[: 1 << 20] if isinstance(entry, pygit2.Blob) else b""


def uncommitted(source: Source) -> dict[str, str | None]:
    """What of a local repository is in no commit, as a notice. The job's "uncommitted"."""
    if source.borrowed:
        return {"notice": git_local.notice(git_borrow.uncommitted(source))}
    return {"notice": git_local.uncommitted(git_local.open_local(source)) if source.path else None}
