"""What the end-to-end tests share: a repository with branches, a word that makes an environment new, another daemon.

Must not start anything that it does not end.
"""

from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.support import repos, tiny
from tests.support.daemon import Daemon


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """A repository with two branches and a tag; `main` is the default."""
    path = repos.make(tmp_path / "project", {"file.txt": "main\n", "keep.txt": "kept\n"})
    repos.git(path, "tag", "v1")
    repos.git(path, "checkout", "-q", "-b", "feature")
    repos.commit(path, {"file.txt": "feature\n", "new/only-here.txt": "x\n"})
    repos.git(path, "rm", "-q", "keep.txt")
    repos.git(path, "commit", "-q", "-m", "remove")
    repos.git(path, "checkout", "-q", "main")
    return path


@pytest.fixture
def unique() -> str:
    """A line for a setup script that makes its environment one that was never there before."""
    return f"# {secrets.token_hex(8)}\n"


@pytest.fixture
def other_daemon(new_daemon: Daemon, tmp_path: Path) -> Daemon:
    """Another daemon, running, on a state of its own with the image `tiny`."""
    new_daemon.start()
    tiny.install(new_daemon, tiny.archive(tmp_path / "tiny.tar"))
    return new_daemon
