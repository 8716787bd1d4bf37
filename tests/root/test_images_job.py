"""The import as a process: its lines, replacement in one instant, death in the middle, a full disk.

Must not touch processes but those it started.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rootfs.errors import ImageError
from rootfs.store import Store
from tests.support.archives import member, small_root, tar, write
from tests.support.images import load


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def start(store: Store, archive: Path, name: str = "x") -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-I", "-m", "rootfs.import_job"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(
        json.dumps({"state": str(store.root), "archive": str(archive), "name": name, "source": "test"}).encode()
    )
    process.stdin.close()
    return process


def lines_of(process: subprocess.Popen[bytes]) -> list[dict[str, Any]]:
    assert process.stdout is not None
    assert process.stderr is not None
    lines = [json.loads(line) for line in process.stdout.read().splitlines()]
    assert process.stderr.read() == b""
    return lines


def test_the_job_speaks_its_protocol(store: Store) -> None:
    with start(store, write(store.root.parent / "a", small_root())) as process:
        *progress, last = lines_of(process)
    assert process.returncode == 0
    assert all("progress" in line for line in progress)
    assert last["result"] == store.load("x").to_dict()


def test_an_import_replaces_the_former_image_in_one_instant(store: Store) -> None:
    first = load(store, small_root())
    refused_name = store.images / "x.json"
    inode = refused_name.stat().st_ino
    with pytest.raises(ImageError):
        load(store, b"nonsense")
    assert store.load("x") == first
    second = load(store, tar(member(b"hello")))
    assert store.load("x") == second
    assert refused_name.stat().st_ino != inode


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_job_leaves_no_process_and_nothing_after_a_sweep(sent: signal.Signals, store: Store) -> None:
    archive = write(store.root.parent / "big", tar(*(member(b"%d" % n, os.urandom(4 << 20)) for n in range(30))))
    with start(store, archive) as process:
        deadline = time.monotonic() + 20
        while not list(store.staging.glob("*/layer/*")):
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(sent)
        lines = lines_of(process)
    assert process.returncode == (143 if sent is signal.SIGTERM else -9)
    if sent is signal.SIGTERM:
        assert lines[-1]["error"]["message"] == "the job was stopped"
        assert list(store.staging.iterdir()) == []
    deadline = time.monotonic() + 20
    while inmates_of(store):
        assert time.monotonic() < deadline, "an inmate survived"
        time.sleep(0.05)
    store.sweep_staging()
    assert list(store.staging.iterdir()) == []
    assert store.list_images() == []


def inmates_of(store: Store) -> list[str]:
    """Processes whose root directory lies in the store."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if str((entry / "root").readlink()).startswith(str(store.root)):
                    found.append(entry.name)
            except OSError:
                continue
    return found


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    """In a mount namespace of its own, on a tmpfs of 600 MB: more than the reserve, less than the archive needs."""
    archive = write(tmp_path / "big", tar(*(member(b"%d" % n, os.urandom(1 << 20)) for n in range(150))))
    request = json.dumps({"state": str(tmp_path / "disk/state"), "archive": str(archive), "name": "x", "source": "big"})
    script = 'mount -t tmpfs -o size=$1 none "$2" && "$3" -I -m rootfs.import_job; find "$2" -type f'
    (tmp_path / "disk").mkdir()
    for size, words in (("600m", "unpacks to more than|disk is full"), ("100m", "is full")):
        argv = ["unshare", "--mount", "sh", "-c", script, "sh", size, str(tmp_path / "disk"), sys.executable]
        done = subprocess.run(argv, input=request, capture_output=True, text=True, timeout=60, check=False)
        *_, last = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert any(word in last["error"]["message"] for word in words.split("|")), last
        left = [line for line in done.stdout.splitlines() if line.startswith("/")]
        assert [Path(line).name for line in left] == ["layers.lock"]
