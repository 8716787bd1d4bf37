"""A full disk: the state lies on a small file system of its own. One sentence, no lost end, and room again afterwards.

Must not fill any disk but the one that it makes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import leaks, repos, tasks, tiny
from tests.support.daemon import Daemon
from tests.support.tasks import sh

SIZE = 640 << 20  # an import wants half a gigabyte left alone
ROOM = 60 << 20
FILL = "dd if=/dev/zero of=/root/big bs=1M 2>/tmp/said; "


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A small file system without a reserve for root."""
    directory = tmp_path_factory.mktemp("disk")
    file, mount = directory / "file", directory / "mount"
    mount.mkdir()
    with file.open("wb") as handle:
        handle.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", file], check=True, timeout=60)
    done = subprocess.run(["mount", "-o", "loop", file, mount], capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"this host can't mount a file: {done.stderr.strip()}")
    yield mount
    subprocess.run(["umount", mount], check=True, timeout=60)


@pytest.fixture(scope="module")
def small(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose state lies there, with the image `tiny`."""
    before = leaks.look()
    with Daemon(disk / "state") as daemon:
        tiny.install(daemon, tiny.archive(tmp_path_factory.mktemp("tiny") / "tiny.tar"))
        with (disk / "ballast").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free(disk) - ROOM)
        yield daemon
    assert leaks.settled_difference(before) == []


@pytest.fixture
def room(small: Daemon, disk: Path) -> Iterator[int]:
    """Bytes free before the test; the same must be free after it."""
    before = free(disk)
    assert before > 20 << 20
    yield before
    tasks.wait_for(lambda: free(disk) > before - (4 << 20), f"room on the disk ({free(disk)} of {before})", 30)
    done = tasks.run(small, *sh("echo works again"), image="tiny")
    assert (done["state"], tasks.output(small, done["id"])) == ("succeeded", b"works again\n")


def free(disk: Path) -> int:
    found = os.statvfs(disk)
    return found.f_bavail * found.f_frsize


@pytest.fixture(autouse=True)
def no_leaks(small: Daemon) -> Iterator[None]:
    """As everywhere, with this module's daemon as the one that may stay."""
    before = leaks.look(small.pid)
    yield
    assert leaks.settled_difference(before, small.pid) == []


@pytest.mark.usefixtures("room")
def test_a_command_that_fills_the_disk_and_cleans_up_goes_on(small: Daemon) -> None:
    done = tasks.run(small, *sh(f"{FILL} r=$?; rm /root/big; cat /tmp/said; exit $((r + 10))"), image="tiny")
    assert (done["state"], done["exit_code"]) == ("failed", 11)
    assert b"No space left" in tasks.output(small, done["id"])


@pytest.mark.usefixtures("room")
def test_output_that_cannot_be_kept_ends_the_phase_with_a_sentence(small: Daemon) -> None:
    done = tasks.run(small, *sh(f"{FILL} yes | head -c 3000000; exit 5"), image="tiny")
    assert done["state"] == "failed"
    assert "cannot keep its output" in done["error"]["message"] or done["exit_code"] == 5
    assert [event["type"] for event in tasks.events(small, done["id"])][-1] == "end"


@pytest.mark.usefixtures("room")
def test_the_end_of_a_task_that_leaves_the_disk_full_is_told(small: Daemon) -> None:
    done = small.hutch("run", "--image", "tiny", "--json", "--", *sh(f"{FILL} exit 6"))
    assert done.returncode in (1, 6), done
    assert b"Traceback" not in done.stderr
    task = small.client.tasks()[0]
    assert task["state"] == "failed"


@pytest.mark.usefixtures("room")
def test_a_result_that_cannot_be_kept(small: Daemon, tmp_path: Path) -> None:
    repo = repos.make(tmp_path / "r", {"a": "x\n"})
    done = tasks.run(small, *sh("head -c 35000000 /dev/urandom >file; sync"), image="tiny", repo=str(repo))
    if done["state"] == "succeeded":  # there was just enough room
        assert done["diff"]["files"] == 1
        small.client.remove_task(done["id"])
    else:
        assert "space" in done["error"]["message"] or "cannot" in done["error"]["message"], done["error"]
    again = tasks.run(small, *sh("echo y >a"), image="tiny", repo=str(repo))
    assert (again["state"], again["diff"]["files"]) == ("succeeded", 1), again["error"]


@pytest.mark.usefixtures("room")
def test_a_setup_that_fills_the_disk_leaves_no_snapshot(small: Daemon, disk: Path) -> None:
    layers = sorted((disk / "state" / "layers").iterdir())
    done = tasks.run(small, "true", image="tiny", setup="dd if=/dev/zero of=/root/big bs=1M")
    assert done["state"] == "failed"
    assert sorted((disk / "state" / "layers").iterdir()) == layers


@pytest.mark.usefixtures("room")
def test_an_image_that_does_not_fit(small: Daemon, disk: Path, tmp_path: Path) -> None:
    archive = tmp_path / "large.tar"
    (tmp_path / "large").write_bytes(os.urandom(1 << 20) * 70)
    subprocess.run(["tar", "-C", tmp_path, "-cf", archive, "large"], check=True, timeout=60)
    for form in ("", ".gz"):
        if form:
            subprocess.run(["gzip", "-1", archive], check=True, timeout=60)
        done = small.hutch("image", "import", str(archive) + form, "--name", "large")
        assert done.returncode == 1
        assert b"space" in done.stderr.lower(), done.stderr
        assert b"Traceback" not in done.stderr
    assert [image["name"] for image in small.client.images()] == ["tiny"]
    tasks.wait_for(lambda: not list((disk / "state" / "staging").iterdir()), "the removal of what was begun")


@pytest.mark.usefixtures("room")
def test_a_disk_that_is_full_before_anything_starts(small: Daemon, disk: Path) -> None:
    more = disk / "more"
    with more.open("wb") as file:
        for size in ("64k", "1k"):
            command = ["dd", "if=/dev/zero", f"bs={size}"]
            subprocess.run(command, stdout=file, stderr=subprocess.DEVNULL, check=False, timeout=60)
    try:
        assert free(disk) < 1 << 16
        done = small.hutch("run", "--image", "tiny", "--", "true")
        assert done.returncode in (0, 1)
        assert b"Traceback" not in done.stderr
        if done.returncode:
            assert b"space" in done.stderr or b"full" in done.stderr, done.stderr
        assert small.hutch("task", "ls").returncode == 0
        collected = small.hutch("gc", "--json")
        assert collected.returncode == 0, collected.stderr
    finally:
        more.unlink()
    assert small.client.health()["status"] == "ok"
