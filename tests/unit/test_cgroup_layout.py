"""Tables for the choice between cgroup v2 and v1, from mount tables of real hosts; needs no root.

Must not look at the machine it runs on: what the kernel really does is tested in tests/root/test_cgroup.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sandbox.host.cgroup_layout import (
    Limits,
    choose,
    own_v2_group,
    parse_mounts,
    probe_files,
    settings,
)
from sandbox.host.errors import UnsupportedHost

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
37 31 0:34 / /sys/fs/cgroup/freezer rw,relatime - cgroup cgroup rw,freezer
39 31 0:36 / /sys/fs/cgroup/pids rw,relatime - cgroup cgroup rw,pids
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
"""
HYBRID = V1 + "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
ALL = frozenset({"cpuset", "cpu", "io", "memory", "hugetlb", "pids"})


def test_v2_is_taken_where_it_has_everything() -> None:
    layout = choose(parse_mounts(V2), ALL)
    assert layout.version == 2
    assert [tree.root for tree in layout.trees] == [Path("/sys/fs/cgroup")]
    assert layout.tree_of("memory") is layout.tree_of("pids") is layout.trees[0]


@pytest.mark.parametrize("table", [V1, HYBRID])
def test_v1_is_taken_where_v2_has_nothing(table: str) -> None:
    layout = choose(parse_mounts(table), frozenset())
    assert layout.version == 1
    assert {tree.root.name: tree.controllers for tree in layout.trees} == {
        "memory": ("memory",),
        "cpu,cpuacct": ("cpu",),
        "pids": ("pids",),
        "freezer": ("freezer",),
    }


def test_controllers_of_one_v1_mount_share_one_group() -> None:
    table = "1 1 0:1 / /cg rw - cgroup cgroup rw,cpu,memory,pids,freezer\n"
    (tree,) = choose(parse_mounts(table), frozenset()).trees
    assert tree.controllers == ("memory", "cpu", "pids", "freezer")


def test_v1_without_a_freezer_is_enough() -> None:
    table = "".join(line for line in V1.splitlines(True) if "freezer" not in line)
    assert choose(parse_mounts(table), frozenset()).tree_of("freezer") is None


@pytest.mark.parametrize(
    ("table", "v2", "named", "remedy"),
    [
        ("", frozenset(), "memory", "cgroup_enable=memory"),
        (V2, ALL - {"memory"}, "memory", "cgroup_enable=memory"),
        (V2, ALL - {"pids"}, "memory", "unified_cgroup_hierarchy"),
        (V1.replace("rw,cpu,cpuacct", "rw,cpuacct"), frozenset(), "cpu", "CONFIG_CFS_BANDWIDTH"),
        (V1.replace("rw,pids", "rw,rdma"), frozenset(), "pids", "CONFIG_CGROUP_PIDS"),
        (HYBRID.replace("rw,pids", "rw,rdma"), frozenset({"pids"}), "pids", "unified_cgroup_hierarchy"),
    ],
)
def test_what_is_missing_is_named_with_its_remedy(table: str, v2: frozenset[str], named: str, remedy: str) -> None:
    with pytest.raises(UnsupportedHost) as caught:
        choose(parse_mounts(table), v2)
    assert named in caught.value.message
    assert remedy in caught.value.remedy


def test_mount_points_are_unescaped_and_odd_lines_skipped() -> None:
    mounts = parse_mounts("\nnonsense\n1 1 0:1 / /a\\040b\\134c rw - cgroup2 cgroup2 rw\n1 1 0:1 / /x rw - cgroup2\n")
    assert mounts.v2 == Path("/a b\\c")


def test_the_first_mount_of_a_hierarchy_wins() -> None:
    assert parse_mounts(V2 + V2.replace("/sys/fs/cgroup", "/elsewhere")).v2 == Path("/sys/fs/cgroup")


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("0::/system.slice/hutch.service\n", "/system.slice/hutch.service"),
        ("9:name=systemd:/\n4:memory:/x\n0::/\n", "/"),
        ("4:memory:/x\n", None),
    ],
)
def test_own_group_is_read_from_the_v2_line(text: str, group: str | None) -> None:
    assert own_v2_group(text) == group


def test_limits_become_control_files() -> None:
    limits = Limits(memory=512 << 20, cpus=1.5, pids=100)
    assert {s.file: s.value for s in settings(2, limits)} == {
        "memory.max": "536870912",
        "memory.swap.max": "0",
        "memory.oom.group": "1",
        "cpu.max": "150000 100000",
        "pids.max": "100",
    }
    v1 = [s.file for s in settings(1, limits)]
    assert v1.index("memory.limit_in_bytes") < v1.index("memory.memsw.limit_in_bytes")
    assert {s.file: s.value for s in settings(1, limits)}["cpu.cfs_quota_us"] == "150000"


def test_the_smallest_quota_is_what_the_kernel_accepts() -> None:
    assert {s.file: s.value for s in settings(2, Limits(1 << 20, 0.01, 1))}["cpu.max"] == "1000 100000"


@pytest.mark.parametrize("version", [1, 2])
def test_every_needed_controller_is_probed(version: int) -> None:
    assert {controller for controller, _ in probe_files(version)} == {"memory", "cpu", "pids"}


@pytest.mark.parametrize(("memory", "cpus", "pids"), [(0, 1.0, 10), (1 << 30, 0.0, 10), (1 << 30, 1.0, 0), (-1, 1, 1)])
def test_senseless_limits_are_refused(memory: int, cpus: float, pids: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        Limits(memory, cpus, pids)
