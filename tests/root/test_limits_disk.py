"""Limits of the disk: a task that exceeds them ends and is told why, with its log and diff; so does who fills it for all."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks, repos, tasks, tiny
from tests.support.daemon import Daemon
from tests.support.tasks import sh

SIZE, ROOM = 8 << 30, 700 << 20  # of which 160 MiB are the reserve


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon on a disk with little room, with the image `tiny`."""
    before, directory = leaks.look(), tmp_path_factory.mktemp("disk")
    file, mount = directory / "file", directory / "mount"
    mount.mkdir()
    with file.open("wb") as handle:
        handle.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", file], check=True, timeout=60)
    subprocess.run(["mount", "-o", "loop,discard", file, mount], check=True, timeout=60)
    try:
        with Daemon(mount / "state") as daemon:
            tiny.install(daemon, tiny.archive(tmp_path_factory.mktemp("tiny") / "tiny.tar"))
            found = os.statvfs(mount)
            with (mount / "ballast").open("wb") as ballast:
                os.posix_fallocate(ballast.fileno(), 0, found.f_bavail * found.f_frsize - ROOM)
            yield daemon
    finally:
        subprocess.run(["umount", mount], check=True, timeout=60)
    assert leaks.settled_difference(before) == []


FILLS = "dd if=/dev/zero of=/big bs=1M count=300 2>/dev/null; while :; do sleep 0.1; done"
HIDES = "exec 3>/hidden; rm /hidden; dd if=/dev/zero bs=1M count=300 >&3 2>/dev/null; while :; do sleep 0.1; done"
MANY = "i=0; while [ $i -lt 5000 ]; do : >/many$i; i=$((i+1)); done; while :; do sleep 0.1; done"


def test_more_than_the_limit_ends_the_task_and_keeps_its_work(daemon: Daemon, tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "project", {"file": "one\n"})
    script = f"echo two >>file; echo said; {FILLS}"
    task = tasks.run(daemon, *sh(script), image="tiny", repo=str(repo), setup="", limits={"disk": 64 << 20})
    assert (task["state"], task["diff"]["files"]) == ("failed", 1)
    assert task["error"]["message"].endswith("used, the limit is 64.0 MiB")
    assert task["error"]["remedy"] == "--disk and --files raise the limits"
    assert tasks.output(daemon, task["id"]) == b"said\n"


@pytest.mark.parametrize(
    ("script", "limits", "words"),
    [
        (FILLS, {"disk": 64 << 20}, "the limit is 64.0 MiB"),
        (HIDES, {"disk": 64 << 20}, "the limit is 64.0 MiB"),
        (MANY, {"files": 1000}, "files, the limit is 1000"),
    ],
)
def test_setup_has_the_same_limits(daemon: Daemon, script: str, limits: dict[str, int], words: str) -> None:
    task = tasks.run(daemon, "true", image="tiny", setup=script, limits=limits)
    assert task["state"] == "failed"
    assert words in task["error"]["message"]
    assert [one for one in daemon.client.snapshots() if one["runtime"] is None] == []


def test_what_is_below_the_limit_goes_on(daemon: Daemon) -> None:
    script = "dd if=/dev/zero of=/big bs=1M count=40 2>/dev/null; sleep 1; echo done"
    task = tasks.run(daemon, *sh(script), image="tiny", limits={"disk": 64 << 20, "files": 1000})
    assert (task["state"], tasks.output(daemon, task["id"])) == ("succeeded", b"done\n")


def test_who_fills_the_disk_for_all_ends_and_the_neighbour_goes_on(daemon: Daemon) -> None:
    with tasks.running(daemon, image="tiny") as neighbour:
        task = tasks.run(daemon, *sh("dd if=/dev/zero of=/big bs=1M; sleep 60"), image="tiny")
        assert task["state"] == "failed"
        assert "this task took most" in task["error"]["message"]
        assert tasks.execute(daemon, neighbour, "printf", "works").text == "works"
    after = tasks.run(daemon, *sh("echo works >/file; cat /file"), image="tiny")
    assert (after["state"], tasks.output(daemon, after["id"])) == ("succeeded", b"works\n")
