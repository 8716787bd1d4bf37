"""What `hutch inspect` reads back from the kernel is what the profile says, and `hutch top` tells who uses what."""

from __future__ import annotations

import json

from sandbox.inside import profile
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh

BUSY = "while :; do :; done"


def test_what_is_in_force_is_what_the_profile_says(daemon: Daemon) -> None:
    with tasks.running(daemon, limits={"memory": 300 << 20, "cpus": 1.5, "pids": 77}) as task:
        found = daemon.client.inspect(task)
        walls = daemon.hutch("inspect", task).stdout.decode()
    shared = {name for name, one in found["namespaces"].items() if one["shared_with_daemon"]}
    assert shared <= {"time"}
    for kind in ("uid_map", "gid_map"):
        ((inside, outside, count),) = found[kind]
        assert (inside, count) == (0, 65_536)
        assert outside > 65_536
    held = found["capabilities"]
    assert held["inheritable"] == held["ambient"] == []
    for name in ("permitted", "effective", "bounding"):
        assert sorted(held[name]) == sorted(profile.CAPABILITIES), name
    assert found["no_new_privs"]
    assert found["seccomp"] == {"mode": "filter", "filters": 2}
    assert found["oom_score_adj"] == profile.OOM_SCORE
    assert {name: tuple(numbers) for name, numbers in found["devices"].items()} == profile.DEVICES
    assert found["sysctls"] == {f"net/{name}": value for name, value in profile.NETWORK_SYSCTLS.items()}
    assert str(300 << 20) in found["cgroup"].values()
    assert found["cgroup"]["pids.max"] == "77"
    mounts = {mount["path"]: mount for mount in found["mounts"]}
    assert {path for path in found["profile"]["read_only"] if path in mounts} >= {"/proc/sys", "/proc/irq"}
    assert all("ro" in mounts[path]["options"].split(",") for path in found["profile"]["read_only"] if path in mounts)
    assert mounts["/proc/kallsyms"]["type"] == "tmpfs"
    assert "none can be gained; seccomp: filter, 2 programs" in walls


def test_a_device_that_root_inside_made_of_something_else_is_not_followed(daemon: Daemon) -> None:
    with tasks.running(
        daemon, "rm -f /dev/tty; ln -s /dev/null /dev/tty; mkfifo /dev/pipe; mv /dev/zero $(printf '/dev/\\377')"
    ) as task:
        assert sorted(daemon.client.inspect(task)["devices"]) == ["\\xff", "full", "null", "random", "urandom"]
        tasks.execute(daemon, task, "rm", "-rf", "/dev/pipe")


def test_top_tells_who_uses_what(daemon: Daemon) -> None:
    task = tasks.submit(daemon, *sh(BUSY), limits={"cpus": 1.0, "memory": 256 << 20})
    try:
        tasks.wait_for(
            lambda: [one for one in daemon.client.usage() if one["task"] == task and one["cpu"] > 0.1], "use"
        )
        (row,) = [line for line in daemon.hutch("top").stdout.decode().splitlines() if task in line]
        assert " of 256 MiB" in row
        assert " 0 %" not in row
        (shown,) = [one for one in json.loads(daemon.hutch("top", "--json").stdout)["tasks"] if one["task"] == task]
        assert (shown["phase"], shown["limits"]["cpus"]) == ("agent", 1.0)
        assert shown["memory"] > 0
        assert 'hutch_tasks{state="running"}' in daemon.client.metrics()
    finally:
        tasks.cancel(daemon, task)
    assert 'hutch_tasks_ended_total{state="cancelled"}' in daemon.client.metrics()
