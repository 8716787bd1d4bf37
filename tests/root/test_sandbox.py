"""Promises 1, 2, 3 and 6 as the kernel tells them: what processes of a real sandbox have and may do, read back inside.

Must not take the profile's own tables for granted: what is expected is written here once more, as literals.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from proxy import trust
from tests.support import tasks
from tests.support.daemon import Daemon

PROBE = (Path(__file__).parents[1] / "support" / "probe.py").read_text()
KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
# chown dac_override fowner fsetid kill setgid setuid setpcap net_bind_service sys_chroot setfcap
CAPABILITIES = "00000000800405fb"
NONE = "0" * 16
MASKED = (
    "/proc/acpi", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore", "/proc/keys", "/proc/key-users", "/proc/kmsg",
    "/proc/modules", "/proc/timer_list", "/proc/sysvipc", "/proc/vmallocinfo", "/sys/firmware", "/sys/fs/bpf",
    "/sys/fs/cgroup", "/sys/kernel/debug", "/sys/kernel/security", "/sys/kernel/tracing", "/sys/module", "/sys/dev/block",
)  # fmt: skip
READ_ONLY = (
    "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
    "/proc/sys/kernel/core_pattern", "/sys/class/net/lo/mtu", "/run/hutch",
)  # fmt: skip
DEVICES = {
    "null": ["c", 1, 3], "zero": ["c", 1, 5], "full": ["c", 1, 7], "random": ["c", 1, 8], "urandom": ["c", 1, 9],
    "tty": ["c", 5, 0], "fd": ["l"], "stdin": ["l"], "stdout": ["l"], "stderr": ["l"], "ptmx": ["l"],
    "pts": ["d"], "shm": ["d"], "mqueue": ["d"],
}  # fmt: skip
OURS = {"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "TERM", "DEBIAN_FRONTEND", "HUTCH", "HUTCH_PATH"}
SHELLS = {"PWD", "SHLVL", "OLDPWD", "_", "LC_CTYPE"}
EVERYBODY_REFUSED = {
    "mount tmpfs": "EPERM", "mount proc": "EPERM", "bind /proc": "EPERM", "remount /proc/sys": "EPERM",
    "umount /proc/sys": "EPERM", "umount /dev/pts": "EPERM",
    "unshare user": "EPERM", "unshare mnt": "EPERM", "unshare net": "EPERM", "sethostname": "EPERM", "mknod": "EPERM",
    "clone3": "ENOSYS", "io_uring": "ENOSYS", "bpf": "EPERM", "keyctl": "EPERM", "setns": "EPERM",
    "init_module": "EPERM", "add address": "EPERM", "add route": "EPERM", "lo down": "EPERM",
    "packet socket": "EAFNOSUPPORT", "raw socket": "EPERM", "vsock": "EAFNOSUPPORT", "alg socket": "EAFNOSUPPORT",
    "nf_tables": "EPROTONOSUPPORT", "terminal injection": "EPERM",
}  # fmt: skip
ASKED = json.dumps({"read": [*MASKED, "/proc/1/environ"], "write": READ_ONLY})
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
CANARY = "HUTCH_TEST_CANARY"
Views = dict[str, dict[str, Any]]


@pytest.fixture(scope="module", autouse=True)
def canary() -> Iterator[None]:
    """A variable of the daemon's that must not get inside. Set before the daemon is started."""
    os.environ[CANARY] = "of the host"
    yield
    del os.environ[CANARY]


@pytest.fixture(scope="module")
def views(canary: None, daemon: Daemon) -> Views:
    """What the probe saw as a phase's command, as a command that joined, on a terminal, and as nobody."""
    probe = ("python3", "-c", PROBE, ASKED)
    task = tasks.submit(daemon, "sh", "-c", '"$@"; echo at-work; exec sleep 600', "sh", *probe)
    try:
        tasks.wait_for_output(daemon, task, b"at-work\n")
        first = tasks.output(daemon, task).removesuffix(b"at-work\n")
        seen = {
            "first": json.loads(first),
            "exec": json.loads(joined(daemon, task, *probe)),
            "login": json.loads(joined(daemon, task, *probe, login=True)),
            "terminal": json.loads(joined(daemon, task, *probe, tty=True)),
            "nobody": json.loads(joined(daemon, task, *NOBODY, *probe)),
        }
    finally:
        tasks.cancel(daemon, task)
    return seen


def joined(daemon: Daemon, task: str, *command: str, **options: Any) -> str:
    done = tasks.execute(daemon, task, *command, **options)
    assert done.code == 0, done
    return done.text


@pytest.fixture(params=["first", "exec", "login", "terminal", "nobody"])
def view(request: pytest.FixtureRequest, views: Views) -> dict[str, Any]:
    return views[request.param]


def test_all_namespaces_are_its_own(view: dict[str, Any], views: Views) -> None:
    for kind in KINDS:
        assert view["namespaces"][kind] != str(Path(f"/proc/self/ns/{kind}").readlink()), kind
    assert view["namespaces"] == views["first"]["namespaces"], "a command that joins is in the same ones"


def test_its_ids_are_a_range_of_the_host_that_nobody_has(view: dict[str, Any]) -> None:
    inside, outside, count = map(int, view["uid_map"].split())
    assert (inside, count) == (0, 65536)
    assert outside >= 0x50000000
    assert outside % 65536 == 0
    assert view["gid_map"] == view["uid_map"]


def test_capabilities_are_the_short_list(view: dict[str, Any], views: Views) -> None:
    own = NONE if view is views["nobody"] else CAPABILITIES
    sets = {name: view["status"][f"Cap{name}"] for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert sets == {"Inh": NONE, "Prm": own, "Eff": own, "Bnd": CAPABILITIES, "Amb": NONE}


def test_privileges_cannot_be_gained_and_calls_are_filtered(view: dict[str, Any]) -> None:
    assert view["status"]["NoNewPrivs"] == "1"
    assert view["status"]["Seccomp"] == "2"
    assert view["core limit"] == [1, 1], "0 would not keep a piped core pattern from running"


def test_root_inside_has_no_groups_of_the_host(view: dict[str, Any], views: Views) -> None:
    identity = "65534" if view is views["nobody"] else "0"
    assert view["status"]["Uid"] == view["status"]["Gid"] == " ".join([identity] * 4)
    assert view["status"]["Groups"] == ""


def test_it_has_three_descriptors(view: dict[str, Any], views: Views) -> None:
    kind = "/dev/pts/0" if view is views["terminal"] else "pipe"
    assert view["fds"] == {"0": kind, "1": kind, "2": kind}


def test_no_variable_of_the_host_is_inside(view: dict[str, Any], daemon: Daemon) -> None:
    image = set(daemon.client.image("base")["config"]["env"])
    assert set(view["environment"]) - SHELLS == OURS | set(trust.trust_env()) | image
    assert "of the host" not in view["environment"].values()


def test_init_and_its_variables_are_the_sandbox_s_own(views: Views, daemon: Daemon) -> None:
    assert views["first"]["read"]["/proc/1/environ"] != ""
    assert CANARY not in views["first"]["read"]["/proc/1/environ"]
    assert views["first"]["pids"][0] == 1
    assert len(views["first"]["pids"]) <= 4, "only init, the shell and the probe"


def test_the_host_s_name_is_hidden(view: dict[str, Any]) -> None:
    assert view["hostname"] == "hutch"


def test_paths_that_tell_of_the_host_are_masked(view: dict[str, Any]) -> None:
    seen = {path: view["read"][path] for path in MASKED}
    assert {path: text for path, text in seen.items() if text not in ("", "ENOENT")} == {}
    assert "" in seen.values(), "a positive control: some of them exist on every kernel"


def test_what_configures_the_kernel_is_read_only(view: dict[str, Any]) -> None:
    refused = ("EROFS", "EACCES", "EISDIR", "ENOENT")  # EACCES comes first where a file belongs to the host's root
    assert {path: code for path, code in view["write"].items() if code not in refused} == {}
    for path in ("/proc/sys", "/proc/irq", "/proc/bus", "/sys", "/run/hutch"):
        assert "ro" in view["mounts"][path], path


def test_mounts_give_no_more_than_they_must(view: dict[str, Any]) -> None:
    mounts = view["mounts"]
    for path in ("/proc", "/sys", "/dev/shm", "/dev/mqueue", "/run/hutch"):
        assert {"nosuid", "nodev", "noexec"} <= set(mounts[path]), path
    assert {"nosuid", "noexec"} <= set(mounts["/dev"])
    assert "nodev" in mounts["/"]
    assert [path for path, options in mounts.items() if any(":" in option for option in options)] == [], "propagation"
    tops = ("/", "/proc", "/sys", "/dev", "/run/hutch")
    assert [path for path in mounts if not path.startswith(tops[1:]) and path not in tops] == []


def test_dev_is_minimal(view: dict[str, Any]) -> None:
    assert view["dev"] == DEVICES


def test_it_has_one_link_beside_its_loopback(view: dict[str, Any]) -> None:
    assert view["links"] == ["eth0", "lo"]


def test_what_would_change_its_walls_is_refused(view: dict[str, Any]) -> None:
    found = {name: view["attempts"][name] for name in EVERYBODY_REFUSED}
    assert found == EVERYBODY_REFUSED


def test_a_command_that_joins_is_in_the_same_control_group(daemon: Daemon) -> None:
    with tasks.running(daemon, "sleep 600.125 &") as task:
        first = tasks.pid_of("600.125")
        client = daemon.client
        with client.exec(task, ["sleep", "600.25"]) as stream:
            assert next(iter(stream))["type"] == "started"
            second = tasks.pid_of("600.25")
            groups = [Path(f"/proc/{pid}/cgroup").read_text() for pid in (first, second)]
        assert groups[0] == groups[1]
        assert "/hutch" in groups[0]
        assert groups[0] != Path("/proc/self/cgroup").read_text()
        # Hanging up ends it.
        tasks.wait_for(lambda: not tasks.host_pids("600.25"), "the end of a command whose caller has gone")


def test_owners_on_disk_are_those_inside(daemon: Daemon, state: Path) -> None:
    script = "cd /root; echo x >file; mkdir directory; ln -s file link; chown 1000:2000 file; chown -h 33 link"
    with tasks.running(daemon, script) as task:
        upper = state / "tasks" / task / "agent" / "upper" / "root"
        owners = {name: (upper / name).lstat() for name in ("file", "directory", "link")}
    assert {name: (info.st_uid, info.st_gid) for name, info in owners.items()} == {
        "file": (1000, 2000),
        "directory": (0, 0),
        "link": (33, 0),
    }


def test_two_sandboxes_share_no_host_id_address_or_namespace(daemon: Daemon) -> None:
    look = (
        "cat /proc/self/uid_map; hostname -I 2>/dev/null || ip -o -4 address show eth0;"
        "for n in mnt net pid user uts ipc cgroup; do readlink /proc/self/ns/$n; done"
    )
    with tasks.running(daemon) as one, tasks.running(daemon) as other:
        first, second = (joined(daemon, task, "sh", "-c", look).split() for task in (one, other))
    assert not (set(first) & set(second)) - {"0", "65536", "2:", "eth0", "inet", "scope", "global", "forever"}, (
        first,
        second,
    )


def group_file(pid: int, v1: tuple[str, str], v2: str) -> str:
    """A control file of the group that a process of the host is in; `v1`: controller and file."""
    groups = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
    controller, file = v1
    for _, controllers, path in groups:
        if controller in controllers.split(","):
            mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
            mount = next(m[4] for m in mounts if m[-3] == "cgroup" and controller in m[-1].split(","))
            return Path(f"{mount}{path}/{file}").read_text().strip()
    mount = "/sys/fs/cgroup" if Path("/sys/fs/cgroup/cgroup.controllers").exists() else "/sys/fs/cgroup/unified"
    return Path(f"{mount}{groups[-1][2]}/{v2}").read_text().strip()


def test_limits_are_in_force_from_outside(daemon: Daemon) -> None:
    limits = {"memory": 256 << 20, "cpus": 0.5, "pids": 50}
    with tasks.running(daemon, "sleep 600.375 &", limits=limits):
        pid = tasks.pid_of("600.375")
        assert group_file(pid, ("memory", "memory.limit_in_bytes"), "memory.max") == str(256 << 20)
        assert group_file(pid, ("pids", "pids.max"), "pids.max") == "50"
        quota = group_file(pid, ("cpu", "cpu.cfs_quota_us"), "cpu.max").split()[0]
        assert int(quota) in (50_000, 10_000, 5_000)


def test_who_takes_too_much_memory_is_killed(daemon: Daemon) -> None:
    script = "b = bytearray(1)\nwhile True: b.extend(bytes(4 << 20))"
    done = tasks.run(daemon, "python3", "-c", script, limits={"memory": 128 << 20})
    assert (done["state"], done["exit_code"]) == ("failed", 137)
    assert "memory" in tasks.notices(daemon, done["id"])


def test_nobody_inside_is_spared_when_memory_is_used_up(view: dict[str, Any]) -> None:
    assert view["oom score"] == "500"


SWARM = """
import os, time
for number in range(100):
    if os.fork() == 0:
        block = bytearray(os.urandom(3 << 20))
        time.sleep(600)
    time.sleep(0.005)
"""


def test_many_small_processes_over_the_limit_do_not_take_the_sandbox_along(daemon: Daemon) -> None:
    """The keeper is in the same group, and larger than each of them."""
    script = 'python3 -c "$0"; echo still here'
    done = tasks.run(daemon, "sh", "-c", script, SWARM, limits={"memory": 100 << 20})
    assert (done["state"], tasks.output(daemon, done["id"])) == ("succeeded", b"still here\n")
    assert "agent: memory: 100 MiB reached, killed python3 (" in tasks.notices(daemon, done["id"])


def test_a_limit_that_ended_a_command_is_in_the_tasks_error(daemon: Daemon) -> None:
    script = ["python3", "-c", "bytearray(b'x' * (90 << 20))"]
    done = tasks.run(daemon, *script, limits={"memory": 64 << 20})
    assert (done["state"], done["exit_code"]) == ("failed", 137)
    # The kernel tells names of ten in five seconds only, and the test before had more.
    assert re.fullmatch(r"agent: memory: 64\.0 MiB reached(, killed python3)?", done["error"]["message"])
    assert done["error"]["remedy"] == "--memory raises it"
    done = tasks.run(daemon, "true", setup=f'{script[0]} {script[1]} "{script[2]}"', limits={"memory": 64 << 20})
    assert "setup failed with exit code 137 (setup: memory: 64.0 MiB reached" in done["error"]["message"]


BOMB = """
import os, time
made = 0
try:
    while made < 5000:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
except OSError:
    print("stopped at", made)
print("at-work", flush=True)
time.sleep(600)
"""


def test_a_fork_bomb_is_bounded_and_can_be_joined_or_says_why_not(daemon: Daemon) -> None:
    task = tasks.submit(daemon, "python3", "-c", BOMB, limits={"memory": 512 << 20, "pids": 40})
    try:
        tasks.wait_for_output(daemon, task, b"at-work")
        said = tasks.output(daemon, task).split()
        assert said[:2] == [b"stopped", b"at"]
        assert int(said[2]) < 40
        began = os.times().elapsed
        full = daemon.hutch("exec", task, "--", "true", timeout=30)
        assert os.times().elapsed - began < 20
        assert full.returncode == 0 or (full.stderr.count(b"\n") == 1 and b"process" in full.stderr), full
    finally:
        tasks.cancel(daemon, task)


def test_the_root_user_of_an_image_cannot_write_what_lies_below(daemon: Daemon, state: Path) -> None:
    """Neither a running sandbox nor its snapshot may change a layer: the next task sees the image as it was."""
    with suppress(AssertionError):
        tasks.run(daemon, "sh", "-c", "echo broken >/etc/debian_version; rm -rf /usr/bin/env")
    done = tasks.run(daemon, "sh", "-c", "cat /etc/debian_version; ls /usr/bin/env")
    assert tasks.output(daemon, done["id"]).endswith(b"/usr/bin/env\n")
    assert b"broken" not in tasks.output(daemon, done["id"])
