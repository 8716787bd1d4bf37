"""Wrong, cut off and hostile archives through the whole way of an import: command line, upload, job, store.

How each kind of archive is read is tested with the import itself; here nothing of it may be left, nor hurt anybody.
"""

from __future__ import annotations

import gzip
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import tasks
from tests.support.archives import directory, hardlink, member, small_root, symlink, tar
from tests.support.daemon import HUTCH, Daemon

GOOD = small_root()
ESCAPE = "/tmp/hutch-escape-test"
WRONG = {
    "empty": b"",
    "text": b"this is no archive\n" * 100,
    "zeros": bytes(100_000),
    "cut off in a header": GOOD[: 512 * 3 + 100],
    "cut off in a file": tar(member(b"./file", b"x" * 100_000))[:50_000],
    "gzip cut off": gzip.compress(tar(member(b"./file", os.urandom(100_000))))[:60_000],
    "gzip of nothing": gzip.compress(b""),
    "size that lies": tar(member(b"./file", b"x", size=1 << 40)),
    "checksum": tar(member(b"./file", b"x", checksum=1)),
    "file through a link": tar(symlink(b"./link", b"/tmp"), member(b"./link/hutch-escape-test", b"x")),
    "hard link outside": tar(hardlink(b"./passwd", b"/etc/passwd")),
    "hard link up": tar(hardlink(b"./passwd", b"../../../../../../etc/passwd")),
}
ODD = {
    "path up": tar(directory(b"./a/"), member(b"./a/../../../../../../../../../tmp/hutch-escape-test", b"x")),
    "absolute path": tar(member(ESCAPE.encode(), b"x")),
    "device": tar(directory(b"./dev/"), member(b"./dev/sda", kind=b"4", device=(8, 0)), member(b"./file", b"x")),
    "set-uid and odd owners": tar(member(b"./tool", b"x", mode=0o6755, uid=70_000_000, gid=5)),
}


@pytest.fixture(autouse=True)
def nothing_is_left(daemon: Daemon, state: Path) -> Iterator[None]:
    daemon.client.gc()  # what earlier tests no longer use would go with the image
    before = sorted((state / "layers").iterdir())
    yield
    if "odd" in [image["name"] for image in daemon.client.images()]:
        daemon.client.remove_image("odd")
        daemon.client.gc()
    tasks.wait_for(lambda: not list((state / "staging").iterdir()), "the removal of what was begun", 20)
    assert [layer for layer in before if not layer.exists()] == []
    assert not Path(ESCAPE).exists()
    assert {image["name"] for image in daemon.client.images()} == {"base"}
    assert tasks.run(daemon, "true")["state"] == "succeeded"


def importing(daemon: Daemon, path: Path, name: str = "odd") -> subprocess.CompletedProcess[bytes]:
    return daemon.hutch("image", "import", str(path), "--name", name)


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_archive_is_one_sentence(daemon: Daemon, tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive.tar").write_bytes(WRONG[kind])
    done = importing(daemon, tmp_path / "archive.tar")
    assert (done.returncode, done.stdout) == (1, b""), done
    last = done.stderr.decode().strip().splitlines()[-1]
    assert "cannot import" in last
    assert "archive.tar" in last
    assert "Traceback" not in done.stderr.decode()


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_archive_harms_nobody(daemon: Daemon, state: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "archive.tar").write_bytes(ODD[kind])
    done = importing(daemon, tmp_path / "archive.tar")
    assert done.returncode in (0, 1)
    assert b"Traceback" not in done.stderr
    nodes = subprocess.run(
        ["find", state / "layers", "-maxdepth", "3", "(", "-type", "b", "-o", "-name", "tool", "-perm", "/6000", ")"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    assert b"/dev/sda" not in nodes.stdout


@pytest.mark.parametrize("name", ["", "../x", "UPPER/x", "a" * 100, ".hidden", "-x"])
def test_a_wrong_name(daemon: Daemon, tmp_path: Path, name: str) -> None:
    (tmp_path / "archive.tar").write_bytes(GOOD)
    done = daemon.hutch("image", "import", str(tmp_path / "archive.tar"), f"--name={name}")
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr


def test_what_is_no_file(daemon: Daemon, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", Path("/dev/null")):
        done = importing(daemon, path)
        assert done.returncode in (1, 2), path
        assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("encoding", ["Content-Length: 1000000", "Transfer-Encoding: chunked"])
def test_an_upload_that_breaks_off(daemon: Daemon, state: Path, encoding: str) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.socket))
        head = f"PUT /images/odd HTTP/1.1\r\nHost: x\r\n{encoding}\r\n\r\n"
        connection.sendall(head.encode() + b"3e8\r\n" + GOOD[:1000])
        tasks.wait_for(lambda: list((state / "staging").iterdir()), "the begin of the upload")


def large(tmp_path: Path) -> Path:
    path = tmp_path / "large.tar"
    path.write_bytes(tar(*(member(b"./%d" % number, os.urandom(64) * 16384) for number in range(120))))
    return path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_import_whose_caller_leaves(daemon: Daemon, state: Path, tmp_path: Path, number: signal.Signals) -> None:
    command = [HUTCH, "image", "import", str(large(tmp_path)), "--name", "odd"]
    environment = {"HUTCH_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"}
    caller = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        tasks.wait_for(lambda: job_of(daemon, "rootfs.import_job"), "the import job")
        time.sleep(0.2)
    finally:
        caller.send_signal(number)
        caller.communicate(timeout=30)
    tasks.wait_for(lambda: not job_of(daemon, "rootfs.import_job"), "the end of the import job", 20)


def job_of(daemon: Daemon, module: str) -> list[int]:
    return tasks.children(daemon.pid, module)


def test_an_import_job_that_is_killed(daemon: Daemon, tmp_path: Path) -> None:
    caller, job = import_under_way(daemon, tmp_path)
    os.kill(job, signal.SIGKILL)
    out, err = caller.communicate(timeout=30)
    assert caller.returncode == 1, (out, err)
    assert b"ended without a result" in err.strip().splitlines()[-1], err
    assert tasks.run(daemon, "true")["state"] == "succeeded"
    daemon.restart()  # what the job was building is removed at the next start


def test_a_daemon_that_is_killed_during_an_import(daemon: Daemon, state: Path, tmp_path: Path) -> None:
    caller, job = import_under_way(daemon, tmp_path)
    daemon.stop(signal.SIGKILL)
    out, err = caller.communicate(timeout=30)
    assert (caller.returncode, out) == (1, b"")
    assert b"went away" in err
    tasks.wait_for(lambda: not Path(f"/proc/{job}").exists(), "the job's end")
    assert list((state / "staging").iterdir()), "it was killed in the middle"
    daemon.start()
    assert list((state / "staging").iterdir()) == []


def import_under_way(daemon: Daemon, tmp_path: Path) -> tuple[subprocess.Popen[bytes], int]:
    """The command that waits for an import, and the import's job, which is in the middle."""
    command = [HUTCH, "image", "import", str(large(tmp_path)), "--name", "odd"]
    environment = {"HUTCH_SOCKET": str(daemon.socket), "PATH": "/usr/bin:/bin"}
    caller = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    job = tasks.wait_for(lambda: job_of(daemon, "rootfs.import_job") or None, "the import job")[0]
    time.sleep(0.3)
    return caller, job


def test_a_daemon_that_is_stopped_during_an_import_ends_it(daemon: Daemon, state: Path, tmp_path: Path) -> None:
    caller, job = import_under_way(daemon, tmp_path)
    daemon.stop()
    assert not Path(f"/proc/{job}").exists()
    assert list((state / "staging").iterdir()) == []
    out, err = caller.communicate(timeout=30)
    assert (caller.returncode, out) == (1, b"")
    assert b"Traceback" not in err
    daemon.start()
