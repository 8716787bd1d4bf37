"""One fetch into a bare mirror with libgit2: refspecs, progress, pruning; libgit2's errors as sentences.

Must not put a credential into the mirror's config or into a message, nor follow what the remote says beyond its refs.

    remote HEAD          -> refs/hutch/HEAD            (its commit is kept even when it is detached)
    remote refs/heads/*  -> refs/remotes/origin/*      } pruned when they are gone there; objects stay
    remote refs/tags/*   -> refs/tags/*                }
"""

import time
from dataclasses import dataclass
from typing import Any

import pygit2
from pygit2.enums import CredentialType, FetchPrune

from rootfs import git_borrow
from rootfs.git_credentials import Credentials
from rootfs.git_errors import FREE_SPACE, Progress, RepositoryError
from rootfs.git_url import Source
from rootfs.refs import BRANCHES, TAGS

HEAD = "refs/hutch/HEAD"
_REFSPECS = [f"+refs/heads/*:{BRANCHES}*", f"+refs/tags/*:{TAGS}*"]
_PAUSE = 0.2  # seconds between two progress lines


@dataclass(frozen=True, slots=True)
class Head:
    """What the remote says of its HEAD: the branch's full name unless detached, and the commit unless it has none."""

    target: str | None
    commit: str | None


class Callbacks(pygit2.RemoteCallbacks):  # type: ignore[misc]  # pygit2 is not followed by mypy
    """Progress out, credentials in. What is raised here comes out of `fetch` again."""

    def __init__(self, source: Source, progress: Progress) -> None:
        super().__init__()
        self._logins = Credentials(source)
        self._progress = progress
        self._last = 0.0

    def credentials(self, url: str, username_from_url: str | None, allowed_types: CredentialType) -> Any:
        return self._logins.next(url, username_from_url, allowed_types)

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        """Pass on libgit2's own judgement. Without this method pygit2 lets every ssh host key through, known or not."""
        return valid

    def transfer_progress(self, stats: Any) -> None:
        done = stats.received_objects == stats.total_objects
        if stats.total_objects and (done or time.monotonic() - self._last > _PAUSE):
            self._last = time.monotonic()
            text = f"fetching objects ({stats.received_bytes / 1e6:.1f} MB)"
            self._progress(text, done=stats.received_objects, total=stats.total_objects)

    def sideband_progress(self, string: str) -> None:
        line = string.rsplit("\r", 1)[-1].strip()
        if line and time.monotonic() - self._last > _PAUSE:
            self._last = time.monotonic()
            self._progress("remote: " + "".join(c if c.isprintable() else "?" for c in line)[:120])


def configure(repo: pygit2.Repository, source: Source) -> None:
    """Give a new mirror its remote. The stored URL has no login."""
    repo.remotes.create("origin", source.location, "+refs/heads/*:" + BRANCHES + "*")
    repo.config["remote.origin.tagOpt"] = "--no-tags"  # the refspecs name them all; libgit2 would ask twice
    repo.config["core.logAllRefUpdates"] = False


def fetch(repo: pygit2.Repository, source: Source, progress: Progress) -> Head:
    """Bring the mirror's refs to what the remote has. RepositoryError when that fails."""
    if source.borrowed:
        target, commit, any_ref = git_borrow.heads(source)
        if any_ref:
            git_borrow.fetch(repo, source, [*_REFSPECS, *([f"+HEAD:{HEAD}"] if commit else [])], prune=True)
        return Head(target, commit)
    try:
        return _fetch(repo, source, progress)
    except pygit2.GitError as error:
        if not _collides(str(error)):
            raise explained(error, source) from error
    # A branch `a` went and `a/b` came: libgit2 updates before it prunes, so the old name is in the way.
    try:
        _drop_stale(repo, source, progress)
        return _fetch(repo, source, progress)
    except pygit2.GitError as error:
        raise explained(error, source) from error


def _fetch(repo: pygit2.Repository, source: Source, progress: Progress) -> Head:
    remote, callbacks = repo.remotes["origin"], Callbacks(source, progress)
    remote.fetch([*_REFSPECS, f"+HEAD:{HEAD}"], prune=FetchPrune.PRUNE, callbacks=callbacks, proxy=True)
    return _head(remote.list_heads(callbacks=callbacks, connect=False))


def _head(heads: list[Any]) -> Head:
    for head in heads:
        if head.name == "HEAD":
            return Head(head.symref_target, str(head.oid))
    return Head(None, None)


def fetch_one(repo: pygit2.Repository, source: Source, wanted: str, progress: Progress) -> bool:
    """Ask for one commit id or full ref name beyond branches and tags. False if the remote doesn't have or give it."""
    kept = f"refs/hutch/fetched/{wanted}"
    try:
        if source.borrowed:
            git_borrow.fetch(repo, source, [f"+{wanted}:{kept}"], prune=False)
            return kept in repo.references
        remote = repo.remotes["origin"]
        remote.fetch(
            [f"+{wanted}:{kept}"], prune=FetchPrune.NO_PRUNE, callbacks=Callbacks(source, progress), proxy=True
        )
        return kept in repo.references
    except (pygit2.GitError, RepositoryError, ValueError, KeyError):
        return False


def _drop_stale(repo: pygit2.Repository, source: Source, progress: Progress) -> None:
    remote = repo.remotes["origin"]
    there = {head.name for head in remote.list_heads(callbacks=Callbacks(source, progress), proxy=True)}
    for name in list(repo.references):
        theirs = "refs/heads/" + name.removeprefix(BRANCHES) if name.startswith(BRANCHES) else name
        if theirs not in there and name.startswith((BRANCHES, TAGS)):
            repo.references.delete(name)


def _collides(text: str) -> bool:
    return any(part in text.lower() for part in ("collides", "conflict", "refs beneath", "a directory"))


# Part of libgit2's text (lower case) -> reason, remedy. The first match counts.
_REASONS = (
    (("no space", "disk quota"), "the disk is full", FREE_SPACE),
    (
        ("certificate", "ssl error: "),
        "its certificate isn't trusted by this host",
        "install its CA with update-ca-certificates",
    ),
    (
        ("known_hosts", "host key", "hostkey"),
        "its ssh host key isn't known",
        "connect once as root with `ssh` or add it to ~/.ssh/known_hosts",
    ),
    (
        ("401", "403", "authenticat", "credential", "login"),
        "the login was refused",
        "check the token or key and what it may read",
    ),
    (
        ("404", "not found: ", "does not exist", "no such"),
        "there is no repository at this address, or it may not be seen",
        "check the URL",
    ),
    (("timed out", "timeout"), "the server didn't answer in time", "try again, or check the network"),
    (
        ("resolve", "failed to connect", "refused", "unreachable", "connection"),
        "the server can't be reached",
        "check the address and the network",
    ),
)


def explained(error: Exception, source: Source) -> RepositoryError:
    """libgit2's error as what couldn't be done, why, and what to do. Passwords never are in libgit2's text: it has none."""
    text = " ".join(str(error).split())
    for parts, reason, remedy in _REASONS:
        if any(part in text.lower() for part in parts):
            return RepositoryError(f"cannot fetch {source.location}: {reason} ({text})", remedy)
    return RepositoryError(
        f"cannot fetch {source.location}: {text}", "check that it is a git repository that this host can reach"
    )
