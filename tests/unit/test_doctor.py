"""Tables for the doctor's judgements, and one run on whatever machine this is; needs no root.

Must not rely on what this machine can do: that the trials tell the truth is tested in tests/root/test_doctor.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.host import doctor, doctor_rules

FULL = "Name:\tx\nCapEff:\t000001ffffffffff\n"
RANGE = "0 0 4294967295\n"
MOUNTS = """\
27 1 254:0 / / rw - ext4 /dev/vda rw
28 27 0:1 / /var rw - xfs /dev/vdb rw
29 28 0:2 / /var/lib/hutch rw - overlay overlay rw
30 27 0:3 / /variable rw - tmpfs tmpfs rw
"""


@pytest.mark.parametrize(
    ("euid", "status", "ok"),
    [
        (0, FULL, True),
        (1000, FULL, False),
        (0, "CapEff:\t00000000a80425fb\n", False),
        (0, "", False),
    ],
)
def test_privileges(euid: int, status: str, ok: bool) -> None:
    check = doctor_rules.privileges(euid, status)
    assert check.ok is ok
    assert bool(check.remedy) is not ok


def test_a_missing_capability_is_named() -> None:
    check = doctor_rules.privileges(0, "CapEff:\t000001ffffdfffff\n")
    assert "CAP_SYS_ADMIN" in check.detail
    assert "CAP_CHOWN" not in check.detail


@pytest.mark.parametrize(
    ("release", "ok"),
    [
        ("6.12.57+deb13-amd64", True),
        ("6.1.0-41-amd64", True),
        ("5.19", True),
        ("5.18.19", False),
        ("5.4.0-200-generic", False),
        ("10.0", True),
        ("odd", False),
    ],
)
def test_kernel(release: str, ok: bool) -> None:
    check = doctor_rules.kernel(release, "x86_64")
    assert check.ok is ok
    assert release in check.detail


@pytest.mark.parametrize(("version", "ok"), [((3, 12, 0), True), ((3, 14, 1), True), ((3, 11, 9), False)])
def test_python(version: tuple[int, ...], ok: bool) -> None:
    assert doctor_rules.python(version).ok is ok


def test_missing_namespaces_are_named_with_their_option() -> None:
    check = doctor_rules.namespaces(frozenset({"cgroup", "ipc", "net", "pid", "uts", "mnt"}))
    assert "user" in check.detail
    assert "CONFIG_USER_NS" in check.remedy
    everything = frozenset({"cgroup", "ipc", "net", "pid", "user", "uts", "mnt", "time", "pid_for_children"})
    assert doctor_rules.namespaces(everything).ok


@pytest.mark.parametrize(("text", "ok"), [("96365\n", True), ("0\n", False), ("", False)])
def test_user_namespaces(text: str, ok: bool) -> None:
    assert doctor_rules.user_namespaces(text).ok is ok


@pytest.mark.parametrize(
    ("swaps", "limit", "ok"),
    [
        ("Filename Type Size\n", False, True),
        ("Filename Type Size\n/dev/sda2 partition 1\n", True, True),
        ("Filename Type Size\n/dev/sda2 partition 1\n", False, False),
    ],
)
def test_swap_accounting(swaps: str, limit: bool, ok: bool) -> None:
    assert doctor_rules.swap_accounting(swaps, limit).ok is ok


@pytest.mark.parametrize(
    ("uid_map", "subuid", "ok"),
    [
        (RANGE, "", True),
        (RANGE, "me:100000:65536\n# remark\n\nyou:165536:65536\n", True),
        (RANGE, "me:1342177280:65536\n", False),
        (RANGE, "me:1000000000:1000000000 # wide\n", False),
        (RANGE, "me:0x50000000:65536\n", True),
        (RANGE, "me:1879048192:65536\n", True),
        ("0 100000 65536\n", "", False),
        ("", "", False),
    ],
)
def test_id_ranges(uid_map: str, subuid: str, ok: bool) -> None:
    assert doctor_rules.id_ranges(uid_map, subuid, "").ok is ok
    assert doctor_rules.id_ranges(uid_map, "", subuid).ok is ok


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/home/x", "ext4"),
        ("/var/lib", "xfs"),
        ("/var/lib/hutch", "overlay"),
        ("/var/lib/hutch/layers", "overlay"),
        ("/var/lib/hutches", "xfs"),
    ],
)
def test_the_deepest_mount_tells_the_type(path: str, kind: str) -> None:
    assert doctor_rules.type_of(MOUNTS, Path(path)) == kind


def test_a_later_mount_on_the_same_point_hides_the_former() -> None:
    assert doctor_rules.type_of(MOUNTS + "31 29 0:4 / /var rw - btrfs /dev/vdc rw\n", Path("/var/x")) == "btrfs"


@pytest.mark.parametrize(
    ("kind", "ok", "level"),
    [
        ("ext4", True, "required"),
        ("tmpfs", True, "optional"),
        ("overlay", False, "required"),
        ("nfs4", False, "required"),
        ("fuse.sshfs", False, "required"),
        ("", True, "required"),
    ],
)
def test_file_system(kind: str, ok: bool, level: str) -> None:
    check = doctor_rules.file_system("/var/lib/hutch", kind)
    assert (check.ok, check.level) == (ok, level)


@pytest.mark.parametrize(
    ("free", "ok", "level"), [(1 << 30, False, "required"), (5 << 30, False, "optional"), (50 << 30, True, "required")]
)
def test_disk_space(free: int, ok: bool, level: str) -> None:
    check = doctor_rules.disk_space("/x", free)
    assert (check.ok, check.level) == (ok, level)


def test_a_run_anywhere_names_a_remedy_for_every_failure(tmp_path: Path) -> None:
    found = doctor.checks(tmp_path / "not" / "there")
    assert len({check.name for check in found}) == len(found)
    for check in found:
        assert check.detail
        assert bool(check.remedy) is not check.ok, check
    assert list(tmp_path.iterdir()) == []
