"""The mark that has ext4 spread directories: set where there is one, and no error where there is none."""

from __future__ import annotations

import subprocess
from pathlib import Path

from rootfs.spread import spread_below


def test_a_directory_is_marked_and_marked_again(tmp_path: Path) -> None:
    kind = subprocess.run(
        ["stat", "-f", "-c", "%T", tmp_path], capture_output=True, text=True, check=True, timeout=10
    ).stdout
    spread_below(tmp_path)
    spread_below(tmp_path)
    if "ext" in kind:
        told = subprocess.run(["lsattr", "-d", tmp_path], capture_output=True, text=True, check=True, timeout=10).stdout
        assert "T" in told.split()[0]


def test_no_mark_is_no_error() -> None:
    spread_below(Path("/proc/self/task"))
