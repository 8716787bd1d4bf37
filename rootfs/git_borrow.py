"""A fetch from a repository on this host that a user named: `git upload-pack` reads it as he, root takes what it sends.

libgit2 would read the files itself, as root, wherever the repository's own files lead. Here what comes over is a pack from a
stranger, as from any server; nothing of the repository is opened by root.

    root: git fetch ── pipe ── setpriv, as the user: git upload-pack PATH
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pygit2

from rootfs.git_errors import FREE_SPACE, RepositoryError
from rootfs.git_url import Source
from rootfs.git_user import PATH

_SECONDS = 3600
_SHOWN = 300
_SETTINGS = (
    "protocol.ext.allow=always",
    "gc.auto=0",
    "maintenance.auto=false",
    "fetch.unpackLimit=1",
    "core.fsync=all",
    "core.hooksPath=/dev/null",
)
# Nothing of root's own configuration counts: a user chose what is fetched.
_ENVIRONMENT = {
    "PATH": PATH,
    "HOME": "/nonexistent",
    "LC_ALL": "C.UTF-8",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_TERMINAL_PROMPT": "0",
}


def heads(source: Source) -> tuple[str | None, str | None, bool]:
    """The full name of the branch that HEAD is, and its commit, None each where there is none; and whether there is any ref."""
    lines = _git(source, ["ls-remote", "--symref", _url(source)]).splitlines()
    symref = next((found[1] for line in lines if (found := re.fullmatch(r"ref: (\S+)\tHEAD", line))), None)
    commit = next((line[:40] for line in lines if re.fullmatch(r"[0-9a-f]{40}\tHEAD", line)), None)
    return symref, commit, any(re.match(r"[0-9a-f]{40}\t", line) for line in lines)


def fetch(repo: pygit2.Repository, source: Source, refspecs: Sequence[str], *, prune: bool) -> None:
    """Bring refs into the mirror. Raises RepositoryError in git's own words."""
    options = ["--no-tags", "--no-write-fetch-head", "--no-auto-maintenance", "--update-shallow", "--quiet"]
    arguments = ["fetch", *options, *(["--prune"] if prune else []), _url(source), *refspecs]
    _git(source, [f"--git-dir={repo.path}", *arguments])


def shallow(repo: pygit2.Repository) -> bytes:
    """What git wrote of where the fetched history ends."""
    try:
        return (Path(repo.path) / "shallow").read_bytes()
    except FileNotFoundError:
        return b""


def uncommitted(source: Source) -> int:
    """How many changes of its work tree are in no commit; looked at by the user's own git."""
    assert source.user is not None
    assert source.path is not None
    command = source.user.command(["git", "--no-optional-locks", "-C", source.path, "status", "--porcelain", "-z"])
    done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False, cwd="/", env=_ENVIRONMENT)
    return done.stdout.count(b"\0")


def _url(source: Source) -> str:
    """The transport `ext::` takes a command: blanks part its words, and a percent sign escapes."""
    assert source.user is not None
    assert source.path is not None
    words = source.user.command(["git", "upload-pack", source.path])
    return "ext::" + " ".join(word.replace("%", "%%").replace(" ", "% ") for word in words)


def _git(source: Source, arguments: Sequence[str]) -> str:
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    try:
        done = subprocess.run(
            ["git", *settings, *arguments],
            capture_output=True,
            timeout=_SECONDS,
            check=False,
            cwd="/",
            env=_ENVIRONMENT,
        )
    except FileNotFoundError as error:
        raise RepositoryError(
            f"cannot read {source.location}: this host has no git", "apt-get install git, or give a URL"
        ) from error
    if done.returncode == 0:
        return done.stdout.decode("utf-8", "replace")
    assert source.user is not None
    said = "".join(c if c.isprintable() else " " for c in done.stderr.decode("utf-8", "replace")).strip()
    if "No space left" in said:
        raise RepositoryError(f"cannot fetch {source.location}: the disk is full", FREE_SPACE)
    raise RepositoryError(
        f"cannot read {source.location} as {source.user.name}: {said[:_SHOWN]}",
        "give the path of a git repository of yours, or a URL",
    )
