"""Repositories for tests, made with the git command line and no configuration but ours; and the git job as a process.

Must not touch the user's git configuration.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.com",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.com",
    "GIT_AUTHOR_DATE": "2026-01-01T00:00:00Z",
    "GIT_COMMITTER_DATE": "2026-01-01T00:00:00Z",
}
ROOT = Path(__file__).parents[2]


def git(
    where: Path, *arguments: str | bytes | Path, env: Mapping[str, str] | None = None, stdin: bytes | None = None
) -> str:
    """Run git in `where`; its output without the last newline."""
    command = ["git", "-C", str(where), "-c", "init.defaultBranch=main", "-c", "safe.directory=*", *arguments]
    run = subprocess.run(
        command, capture_output=True, env={**ENVIRONMENT, **(env or {})}, input=stdin, timeout=60, check=False
    )
    assert run.returncode == 0, (command, run.stderr.decode(errors="replace"), run.stdout[-2000:])
    return run.stdout.decode("utf-8", "surrogateescape").removesuffix("\n")


def make(path: Path, files: Mapping[str, str] | None = None) -> Path:
    """A repository with one commit of `files` on main."""
    path.mkdir(parents=True)
    git(path, "init", "-q")
    commit(path, files or {"README": "hello\n"})
    return path


def commit(repo: Path, files: Mapping[str, str], message: str = "change") -> str:
    """Write `files`, commit everything; the commit's id."""
    for name, text in files.items():
        (repo / name).parent.mkdir(parents=True, exist_ok=True)
        (repo / name).write_text(text)
    git(repo, "add", "-A")
    git(repo, "commit", "-q", "--allow-empty", "-m", message)
    return git(repo, "rev-parse", "HEAD")


def job(request: Mapping[str, Any], env: Mapping[str, str] | None = None, timeout: float = 60) -> dict[str, Any]:
    """The last line of `python -I -m rootfs.git_job`, and its progress texts under "progress"."""
    run = subprocess.run(
        [sys.executable, "-I", "-m", "rootfs.git_job"],
        input=json.dumps(request).encode(),
        capture_output=True,
        env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", **(env or {})},
        cwd=ROOT,
        timeout=timeout,
        check=False,
    )
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert lines, run.stderr.decode()
    assert run.returncode == (0 if "result" in lines[-1] else 1), (lines[-1], run.stderr.decode())
    return {**lines[-1], "progress": [line["progress"] for line in lines[:-1]]}


def fetch(state: Path, url: str | Path, ref: str | None = None, **more: Any) -> dict[str, Any]:
    """The result of a fetch that must work."""
    answer = job({"op": "fetch", "state": str(state), "url": str(url), "ref": ref}, **more)
    assert "result" in answer, answer
    found: dict[str, Any] = answer["result"]
    return found


def fetch_error(state: Path, url: str | Path, ref: str | None = None, **more: Any) -> str:
    """Message and remedy of a fetch that must not work."""
    answer = job({"op": "fetch", "state": str(state), "url": str(url), "ref": ref}, **more)
    assert "error" in answer, answer
    return f"{answer['error']['message']} | {answer['error']['remedy']}"
