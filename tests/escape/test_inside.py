"""What root and an ordinary user inside a sandbox try by themselves: each class of attack, in every view of a sandbox.

Views: the agent's first process, commands that joined (with pipes, on a terminal, as nobody), setup's first process with the
network on, nobody in setup. The same program in a container without Hutch's walls shows that the attacks can succeed.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.escape.conftest import ALLOWED, CANARY, INSIDE, NOBODY, attack, breaches, elsewhere, encoded, program
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.upstream import Upstream

Found = dict[str, dict[str, str]]
NETWORK = ("agent", "agent's nobody", "setup")  # elsewhere the same network would be tried again


@dataclass(frozen=True)
class Class:
    """A class of attacks: what it is, what stops it, the attacks that belong to it, the views that it is tried in."""

    what: str
    by: str
    attacks: tuple[str, ...]
    views: tuple[str, ...] = ()


TABLE = (
    Class("leaked descriptors", "close_range and O_CLOEXEC; pipes of its own",
          ("descriptors_of_its_own", "descriptors_of_init")),
    Class("leaving the root directory", "pivot_root, the old root detached; nobody inside sees another",
          ("above_the_root", "other_roots")),
    Class("overwriting the host's programs", "init is a sealed memfd; the host's files have other owners",
          ("the_programs_of_the_host",)),
    Class("looking at the host", "a mount, pid and cgroup namespace; environments built from nothing",
          ("traces_of_the_host", "processes_of_the_host")),
    Class("tracing init", "capabilities; an ordinary user isn't root inside", ("tracing_init",)),
    Class("making namespaces", "seccomp by argument; clone3 answers ENOSYS", ("new_namespaces",)),
    Class("joining namespaces", "seccomp; capabilities hold over the own user namespace only", ("joining_namespaces",)),
    Class("mounting", "seccomp; mounts belong to the initial user namespace", ("mounting",)),
    Class("masked paths", "covered by /dev/null and an empty directory", ("masked_paths",)),
    Class("kernel settings", "read-only binds; root inside owns none of them",
          ("kernel_settings", "everything_writable_in_proc")),
    Class("device nodes", "no CAP_MKNOD over the host; six harmless nodes", ("devices",)),
    Class("capabilities", "bounding set cut after the user namespace is entered", ("capabilities",)),
    Class("set-uid and file capabilities", "no_new_privs; bounding set", ("programs_with_privileges",)),
    Class("overlayfs's own attributes", "trusted.* belongs to the initial user namespace", ("attributes_of_overlayfs",)),
    Class("being root outside", "a range of 65,536 ids of its own", ("identity_on_the_host",)),
    Class("rare system calls", "seccomp's list: all others answer ENOSYS or EPERM", ("system_calls",)),
    Class("other ways into the kernel", "seccomp checks the architecture first", ("other_ways_into_the_kernel",)),
    Class("odd sockets", "seccomp's lists of families and protocols, on 32 bits", ("socket_families", "socket_protocols")),
    Class("terminal injection", "seccomp refuses TIOCSTI, TIOCLINUX, TIOCSETD", ("terminal_injection",)),
    Class("changing its network", "the network namespace belongs to the initial user namespace", ("network_settings",)),
    Class("the host's core handler", "RLIMIT_CORE 1, which seccomp keeps", ("core_dumps",)),
    Class("what the host has once", "seccomp, read-only /proc/pressure, limits", ("what_the_host_has_only_once",)),
    Class("addresses", "every TCP connection is redirected; only names are dialled",
          ("positive_control", "direct_addresses", "ports_of_the_gateway_by_itself"), NETWORK),
    Class("UDP, ICMP, IPv6", "the gateway rejects all but TCP and DNS; IPv6 is off",
          ("positive_control", "datagrams", "echo_requests", "ipv6"), NETWORK),
    Class("forged sources", "no CAP_NET_RAW; reverse path check on each veth", ("positive_control", "forged_sources"), NETWORK),
    Class("data in DNS", "names are answered by the filter alone, refused ones never looked up",
          ("positive_control", "questions_that_carry_data"), NETWORK[:2]),
    Class("another name than allowed", "one name in DNS, SNI, Host, target; checked again at the dial",
          ("positive_control", "other_names"), NETWORK),
)  # fmt: skip


@pytest.fixture(scope="module")
def asked(state: Path) -> dict[str, object]:
    return {"secrets": [str(state), CANARY], "net": {"addresses": elsewhere(), "allowed": [ALLOWED]}}


@pytest.fixture(scope="module")
def views(daemon: Daemon, upstream: Upstream, asked: dict[str, object]) -> Iterator[dict[str, Found]]:
    """What all attacks got, by view. Two tasks run while the tests look: one in its agent phase, one in setup."""
    alone = tuple(name for row in TABLE if not row.views for name in row.attacks)
    script = ' "$@" && echo at-work; exec sleep 600'
    agent = tasks.submit(
        daemon, "sh", "-c", script, "sh", *program(**asked), network={"agent": {"rules": [ALLOWED]}}
    )  # fmt: skip
    setup = tasks.submit(daemon, "true", setup=f"{shlex.join(program(**asked))}\necho at-work; exec sleep 600")
    try:
        tasks.wait_for_output(daemon, agent, b"at-work\n", seconds=100)
        tasks.wait_for_output(daemon, setup, b"at-work\n", "setup", seconds=100)
        yield {
            "agent": _first(tasks.output(daemon, agent)),
            "joined": attack(daemon, agent, *alone, asked=asked),
            "terminal": attack(daemon, agent, *alone, asked=asked, tty=True),
            "agent's nobody": attack(daemon, agent, user=NOBODY, asked=asked),
            "setup": _first(tasks.output(daemon, setup, "setup")),
            "setup's nobody": attack(daemon, setup, *alone, user=NOBODY, asked=asked),
        }
    finally:
        tasks.cancel(daemon, agent)
        tasks.cancel(daemon, setup)


def _first(output: bytes) -> Found:
    found: Found = json.loads(output.splitlines()[0])
    return found


@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=pytest.mark.holds(row.what, row.by), id=row.what) for row in TABLE]
)
def test_a_class_of_attacks(views: dict[str, Found], row: Class) -> None:
    broken = {view: lines for view in row.views or views if (lines := breaches(views[view], row.attacks))}
    assert not broken


def test_nothing_but_the_permitted_name_arrived(views: dict[str, Found], upstream: Upstream) -> None:
    assert views
    assert {seen.host for seen in upstream.seen} == {ALLOWED}


def test_every_attack_belongs_to_a_class(views: dict[str, Found]) -> None:
    assert {name for row in TABLE for name in row.attacks} == set(views["agent"])


def test_the_attacks_succeed_without_walls(asked: dict[str, object], tmp_path: Path) -> None:
    """The known-bad sandbox: root in new namespaces, as container tools make them, without the rest."""
    # Those that need Hutch's network, or of which even a bad container stops one, are left out.
    harmless = (
        "other_roots traces_of_the_host processes_of_the_host new_namespaces joining_namespaces mounting masked_paths"
        " kernel_settings everything_writable_in_proc devices capabilities programs_with_privileges attributes_of_overlayfs"
        " identity_on_the_host system_calls other_ways_into_the_kernel socket_families socket_protocols terminal_injection"
        " network_settings core_dumps what_the_host_has_only_once"
    ).split()
    container = ("unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--cgroup", "--fork", "--")
    inside = 'mount -t tmpfs none /tmp && cp -r "$1" /tmp/e && cd /tmp && exec "$2" -B /tmp/e/run.py "$3"'
    ran = subprocess.run(
        [*container, "sh", "-c", inside, "sh", str(INSIDE), sys.executable, encoded({"only": harmless} | asked)],
        capture_output=True, timeout=100, env={**os.environ, CANARY: "of-the-host"}, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    found = json.loads(ran.stdout)
    assert [name for name in harmless if not found[name].get("got")] == []
