"""The leak check can fail: differences are found, and what another daemon does beside the tests isn't one.

Must not need root: the real look at a host is exercised by every test in tests/root.
"""

from __future__ import annotations

from tests.support.leaks import Kinds, difference


def kinds(**things: list[str]) -> Kinds:
    names = ("process", "mount", "cgroup", "sysctl")
    return {name: dict.fromkeys(things.get(name, []), "") for name in names}


def test_what_is_new_is_a_leak_and_what_went_away_is_none() -> None:
    before, after = kinds(process=["1/1", "2/2"]), kinds(process=["1/1", "3/3"])
    assert difference(before, after) == ["process 3/3"]


def test_a_reused_pid_is_another_process() -> None:
    assert difference(kinds(process=["7/100"]), kinds(process=["7/200"])) == ["process 7/200"]


def test_a_changed_setting_is_a_leak() -> None:
    assert difference(kinds(sysctl=["ip_forward=0"]), kinds(sysctl=["ip_forward=1"])) == ["sysctl ip_forward=1"]


def test_a_new_instance_is_a_leak_and_groups_of_one_that_was_there_are_not() -> None:
    before = kinds(cgroup=["/sys/fs/cgroup/memory/hutch", "/sys/fs/cgroup/memory/hutch/a"])
    after = kinds(
        cgroup=[*before["cgroup"], "/sys/fs/cgroup/memory/hutch/a/s1", "/sys/fs/cgroup/memory/hutch/b"],
    )
    assert difference(before, after) == ["cgroup /sys/fs/cgroup/memory/hutch/b"]


def test_delegated_groups_are_told_apart_by_their_own_name() -> None:
    top = "/sys/fs/cgroup/system.slice/hutch.service"
    before = kinds(cgroup=[f"{top}/hutch-a"])
    after = kinds(cgroup=[f"{top}/hutch-a", f"{top}/hutch-a/s1", f"{top}/hutch-b", f"{top}/hutch-b/s1"])
    assert difference(before, after) == [f"cgroup {top}/hutch-b", f"cgroup {top}/hutch-b/s1"]
