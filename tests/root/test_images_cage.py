"""The cages of reader and writer, seen from inside: what the kernel says they may do.

Must not trust the command lines: each property is read back or tried out.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rootfs import confine
from rootfs.store import Store
from rootfs.system_layer import Directory, File, Link, make_system_layer

LOOK = """
import json, os, socket, sys
from rootfs import confine
os.set_inheritable(3, False)
inside = sys.argv[1] == "reader"
status = os.open("/proc/self/status", os.O_RDONLY)
net = os.readlink("/proc/self/ns/net")
try:
    confine.drop_everything(3) if inside else confine.enter_chroot(3)
    fields = dict(line.split(":\\t", 1) for line in os.pread(status, 65536, 0).decode().splitlines())
    answer = {key: fields[key] for key in ("Uid", "Groups", "CapEff", "CapPrm", "CapBnd", "CapInh", "CapAmb", "NoNewPrivs")}
    answer["root"] = sorted(os.listdir("/"))
    answer["net"] = net
    try:
        socket.socket().connect(("192.0.2.1", 80))
    except OSError as error:
        answer["connect"] = error.errno
    try:
        open("/made", "w").close()
        answer["writes"] = True
    except OSError:
        answer["writes"] = False
finally:
    os.close(status)
print(json.dumps(answer))
"""


def look(kind: str, directory: Path) -> dict[str, object]:
    command = confine.reader_command("x") if kind == "reader" else confine.writer_command("x", 1 << 20)
    command = [*command[: command.index("-m")], "-c", LOOK, kind]
    directory.chmod(0o755)
    argv = ["sh", "-c", 'exec "$@" 3<"$0"', str(directory), *command]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def test_the_reader_is_nobody(tmp_path: Path) -> None:
    answer = look("reader", tmp_path)
    assert answer["Uid"] == "\t".join(["65534"] * 4)
    for field in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(str(answer[field]), 16) == 0
    assert answer["NoNewPrivs"] == "1"
    assert str(answer["Groups"]).strip() == ""
    assert answer["root"] == []
    assert answer["net"] != str(Path("/proc/self/ns/net").readlink())
    assert answer["connect"] == 101
    assert answer["writes"] is False


def test_the_writer_has_seven_capabilities_and_one_directory(tmp_path: Path) -> None:
    answer = look("writer", tmp_path)
    # chown, dac_override, fowner, fsetid, mknod, setfcap, and sys_chroot, which only another exec would drop
    allowed = sum(1 << number for number in (0, 1, 3, 4, 27, 31, 18))
    for field in ("CapEff", "CapPrm", "CapBnd"):
        assert int(str(answer[field]), 16) == allowed
    assert answer["NoNewPrivs"] == "1"
    assert answer["root"] == []
    assert answer["net"] != str(Path("/proc/self/ns/net").readlink())
    assert answer["connect"] == 101
    assert answer["writes"] is True
    assert (tmp_path / "made").exists()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "state")


def test_a_system_layer_is_made_once_and_named_by_its_content(store: Store) -> None:
    files = {
        "etc/ssl/ca.pem": b"x",
        "etc/run": File(b"#!/bin/sh\n", 0o755),
        "etc/link": Link("../x"),
        "empty": Directory(0o700),
        "theirs": Directory(owner=(1000, 2000)),
    }
    layer = make_system_layer(store, files)
    path = store.layer_path(layer)
    assert (path / "etc/ssl/ca.pem").read_bytes() == b"x"
    assert (path / "etc/run").stat().st_mode & 0o777 == 0o755
    assert str((path / "etc/link").readlink()) == "../x"
    assert (path / "empty").stat().st_mode & 0o777 == 0o700
    assert ((path / "theirs").stat().st_uid, (path / "theirs").stat().st_gid) == (1000, 2000)
    assert path.stat().st_mode & 0o777 == (path / "etc").stat().st_mode & 0o777 == 0o755
    assert (path / "etc").stat().st_mtime == 0
    assert make_system_layer(store, dict(reversed(files.items()))) == layer
    assert make_system_layer(store, {**files, "etc/ssl/ca.pem": b"y"}) != layer
    assert list(store.staging.iterdir()) == []


@pytest.mark.parametrize("path", ["", "/etc/x", "a/../b", "..", "a//b", "./a", "a\0b"])
def test_a_system_layer_has_plain_paths_only(path: str, store: Store) -> None:
    with pytest.raises(Exception, match="cannot put"):
        make_system_layer(store, {path: b"x"})
