"""What checkout.sh sees, without a sandbox: a mirror, the two files of /run/hutch, a work tree.

Must not need root: the script's two fixed paths are given by environment variables.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from rootfs.refs import packed_refs
from tests.support import repos
from tests.support.repos import ROOT, fetch, git

SCRIPT = ROOT / "rootfs" / "checkout.sh"


class Sandbox:
    """What the script sees: /run/hutch and a work tree."""

    def __init__(self, top: Path, source: Path) -> None:
        self.top, self.source, self.work = top, source, top / "workspace" / "r"
        self.home = top / "home"
        self.home.mkdir()

    def prepared(self, ref: str | None = None) -> dict[str, Any]:
        """What the daemon would put there for `ref`."""
        found = fetch(self.top, self.source, ref)
        (self.top / "packed-refs").write_text(packed_refs(found["refs"]))
        return found

    def script(self, found: dict[str, Any], **env: str) -> subprocess.CompletedProcess[str]:
        variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "HUTCH_OBJECTS": found["objects"],
            "HUTCH_PACKED_REFS": str(self.top / "packed-refs"),
            "HUTCH_WORKTREE": str(self.work),
            "HUTCH_COMMIT": found["commit"],
            "HUTCH_BRANCH": found["branch"] or "",
            "HUTCH_ORIGIN_URL": found["origin_url"],
            "HUTCH_DEFAULT_BRANCH": found["default_branch"] or "",
            **env,
        }
        return subprocess.run(
            ["/bin/sh", str(SCRIPT)], env=variables, capture_output=True, text=True, timeout=60, check=False
        )

    def ok(self, ref: str | None = None, **env: str) -> str:
        """Run it; it must work, and the tracked files must be the commit's. Returns what it said."""
        found = self.prepared(ref)
        run = self.script(found, **env)
        assert run.returncode == 0, run.stderr
        commit = found["commit"]
        assert git(self.work, "rev-parse", "HEAD") == commit
        assert git(self.work, "status", "--porcelain", "--untracked-files=no") == ""
        assert git(self.work, "ls-files", "-s") == git(
            self.source, "ls-tree", "-r", "--format=%(objectmode) %(objectname) 0%x09%(path)", commit
        )
        git(self.work, "fsck")
        return run.stderr


def with_two_branches(tmp_path: Path) -> Sandbox:
    """A source with main, its tag v1, and feature/x, on which `a` is gone and others came."""
    source = repos.make(tmp_path / "source", {"a": "1\n", "dir/b": "2\n", ".gitignore": "*.o\n"})
    git(source, "tag", "-a", "v1", "-m", "v1")
    git(source, "checkout", "-q", "-b", "feature/x")
    (source / "a").unlink()
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)
    (source / "out").symlink_to("../../../etc/passwd")
    repos.commit(source, {"dir/c": "3\n"})
    git(source, "checkout", "-q", "main")
    return Sandbox(tmp_path, source)
