"""The doctor on the kernel that runs the tests: its trials tell the truth and leave nothing.

Must not change the host: what is broken on purpose is broken in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host import doctor
from sandbox.host.doctor import Check


@pytest.fixture
def disk() -> Iterator[Path]:
    """A directory on a disk: pytest's own may be on a tmpfs that is too small for a state."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        yield Path(directory)


def by_name(state: Path) -> dict[str, Check]:
    return {check.name: check for check in doctor.checks(state)}


def test_this_host_can_run_tasks(disk: Path) -> None:
    failures = [check for check in doctor.checks(disk / "state") if not check.ok and check.level == "required"]
    assert failures == []
    assert os.listdir(disk) == []


def test_the_trials_ran(disk: Path) -> None:
    found = by_name(disk)
    for name in ("user namespace", "id-mapped mounts", "overlayfs", "nftables rules", "veth"):
        assert found[name].ok, found[name]


def test_a_file_system_that_cannot_be_an_upper_is_found_by_trial(tmp_path: Path) -> None:
    """On an overlay the id-map or the overlay is refused by the kernel itself, not only by the table of types."""
    script = (
        "import json, sys; from dataclasses import asdict; from pathlib import Path; from sandbox.host import doctor\n"
        "print(json.dumps([asdict(c) for c in doctor.checks(Path(sys.argv[1]) / 'm')]))"
    )
    for name in ("l", "u", "w", "m"):
        (tmp_path / name).mkdir()
    mount = "mount -t overlay overlay -o lowerdir=l,upperdir=u,workdir=w m"
    inner = f'cd "$2" && {mount} && exec "$0" -c "$1" "$2"'
    command = ["unshare", "--mount", "sh", "-c", inner, sys.executable, script, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = {check["name"]: check for check in json.loads(done.stdout)}
    trials = [found[name]["ok"] for name in ("id-mapped mounts", "overlayfs") if name in found]
    assert False in trials, found
    assert not found["state directory"]["ok"]


@pytest.mark.parametrize(("program", "package"), [("nft", "nftables"), ("catatonit", "catatonit")])
def test_a_missing_program_names_its_package(program: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, path: None if name == program else real(name, path=path))
    check = by_name(Path("/var/tmp"))[program]
    assert not check.ok
    assert check.remedy == f"apt-get install {package}"
