"""A fetch from a repository on this host that a user named: `git upload-pack` reads it as he, root takes what it sends.

libgit2 would read the files itself, as root, wherever the repository's own files lead. Here what comes over is a pack from a
stranger, as from any server; nothing of the repository is opened by root.

    root: git fetch ── pipe ── setpriv, as the user: git upload-pack PATH
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pygit2

from rootfs.git_errors import FREE_SPACE, RepositoryError
from rootfs.git_url import Source
from rootfs.git_user import PATH

_SECONDS, _LOOK_SECONDS = 3600, 300
_SAID_MAX = 32 << 20  # bytes: the refs of a large repository
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
    lines = _git(source, ["ls-remote", "--symref", _url(source)], _LOOK_SECONDS).splitlines()
    symref = next((found[1] for line in lines if (found := re.fullmatch(r"ref: (\S+)\tHEAD", line))), None)
    commit = next((line[:40] for line in lines if re.fullmatch(r"[0-9a-f]{40}\tHEAD", line)), None)
    return symref, commit, any(re.match(r"[0-9a-f]{40}\t", line) for line in lines)


def fetch(repo: pygit2.Repository, source: Source, refspecs: Sequence[str], *, prune: bool) -> None:
    """Bring refs into the mirror. Raises RepositoryError in git's own words."""
    options = [
        "--no-tags",
        "--no-write-fetch-head",
        "--no-auto-maintenance",
        "--update-shallow",
        "--no-recurse-submodules",
        "--quiet",
    ]
    arguments = ["fetch", *options, *(["--prune"] if prune else []), _url(source), *refspecs]
    _git(source, [f"--git-dir={repo.path}", *arguments], _SECONDS)


def shallow(repo: pygit2.Repository) -> bytes:
    """What git wrote of where the fetched history ends."""
    try:
        return (Path(repo.path) / "shallow").read_bytes()
    except FileNotFoundError:
        return b""


def is_shallow(source: Source) -> bool:
    """Whether its history is cut off."""
    return _ask(source, "rev-parse", "--is-shallow-repository").out.strip() == b"true"


def uncommitted(source: Source) -> int:
    """How many changes of its work tree are in no commit; looked at by the user's own git."""
    return _ask(source, "status", "--porcelain", "-z").nulls


def _ask(source: Source, *words: str) -> _Done:
    assert source.user is not None
    assert source.path is not None
    quiet = ["--no-optional-locks", "-C", source.path, "-c", "core.fsmonitor=false", "-c", "core.untrackedCache=false"]
    return _run(source.user.command(["git", *quiet, *words]), _LOOK_SECONDS)


def _url(source: Source) -> str:
    """The transport `ext::` takes a command: blanks part its words, and a percent sign escapes."""
    assert source.user is not None
    assert source.path is not None
    words = source.user.command(["git", "upload-pack", source.path])
    return "ext::" + " ".join(word.replace("%", "%%").replace(" ", "% ") for word in words)


def _git(source: Source, arguments: Sequence[str], seconds: float) -> str:
    settings = [part for setting in _SETTINGS for part in ("-c", setting)]
    try:
        done = _run(["git", *settings, *arguments], seconds)
    except FileNotFoundError as error:
        raise RepositoryError(
            f"cannot read {source.location}: this host has no git", "apt-get install git, or give a URL"
        ) from error
    if done.code == 0:
        return done.out.decode("utf-8", "replace")
    assert source.user is not None
    said = "".join(c if c.isprintable() else " " for c in done.err.decode("utf-8", "replace")).strip()
    if "No space left" in said:
        raise RepositoryError(f"cannot fetch {source.location}: the disk is full", FREE_SPACE)
    raise RepositoryError(
        f"cannot read {source.location} as {source.user.name}: {said[:_SHOWN]}",
        "give the path of a git repository of yours, or a URL",
    )


@dataclass(frozen=True, slots=True)
class _Done:
    """What a program said, as much of it as is kept, and how many null bytes there were in all."""

    code: int
    out: bytes
    err: bytes
    nulls: int


def _run(argv: Sequence[str], seconds: float) -> _Done:
    """Run a program whose output may be without end."""
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd="/", env=_ENVIRONMENT
        ) as process,
        ThreadPoolExecutor(2) as readers,
    ):
        out, err = (readers.submit(_read, stream) for stream in (process.stdout, process.stderr))
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # git's helpers, too: they hold the pipes
            code = -1
        kept, nulls = out.result()
        return _Done(code, kept, err.result()[0] if code >= 0 else b"it takes too long", nulls)


def _read(stream: Any) -> tuple[bytes, int]:
    kept, nulls = b"", 0
    while piece := os.read(stream.fileno(), 1 << 16):
        kept += piece[: max(0, _SAID_MAX - len(kept))]
        nulls += piece.count(b"\0")
    return kept, nulls
