"""What a hostile tenant tries, one row a class, with what stops it; run as root inside, in a command and in one that joins.

Must not take "it failed" for "it was stopped": a control shows first that the sandbox works, and each row checks the reason.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.support import tasks
from tests.support.daemon import Daemon


class Attempt(NamedTuple):
    """A class of escapes, what stops it, a script that tries it, and what the script must say."""

    name: str
    stopped_by: str
    script: str
    says: str


def python(code: str) -> str:
    return f"python3 - <<'END' 2>&1\n{code}\nEND"


ATTEMPTS = [
    Attempt("new mounts", "seccomp; the mount namespace is the host's", "mount -t tmpfs x /mnt 2>&1", "permission denied"),
    Attempt("remounting", "the mount namespace is the host's", "mount -o remount,rw /proc/sys 2>&1", "permission denied"),
    Attempt("unmounting a mask", "the mount namespace is the host's", "umount /proc/kcore 2>&1", "superuser|permitted"),
    Attempt("nested namespaces", "seccomp", "unshare -Ur true 2>&1", "Operation not permitted"),
    Attempt("device nodes", "the user namespace", "mknod /tmp/sda b 8 0 2>&1", "Operation not permitted"),
    Attempt("core_pattern", "/proc/sys read-only", "echo '|/x' 2>&1 >/proc/sys/kernel/core_pattern", "Read-only file system"),
    Attempt("sysrq", "/proc/sysrq-trigger read-only", "echo b 2>&1 >/proc/sysrq-trigger", "Read-only|No such file"),
    Attempt("cgroup release_agent", "no cgroup file system inside", "ls -A /sys/fs/cgroup | wc -l", "^0$"),
    Attempt("kernel memory and symbols", "masked", "cat /proc/kallsyms /proc/kcore | wc -c", "^0$"),
    Attempt("the init's binary", "a sealed memory file", "echo x 2>&1 >/proc/1/exe", "busy|denied|permitted"),
    Attempt("leaked descriptors", "no descriptor but three", "ls /proc/1/fd | tr '\\n' ' '", r"^0 1 2( \d+)? ?$"),
    Attempt("the host's processes", "the pid namespace", "ls -d /proc/[0-9]* | wc -l", r"^\d{1,2}$"),
    Attempt("the host's name", "the uts namespace", "hostname", "^hutch$"),
    Attempt("network changes", "the network namespace is the host's", "ip link set eth0 down 2>&1", "Operation not permitted"),
    Attempt("another address", "the network namespace is the host's", "ip addr add 10.0.0.9/32 dev eth0 2>&1", "not permitted"),
    Attempt("raw sockets", "no capability over the network", python("import socket\nsocket.socket(2, 3, 1)"), "PermissionError"),
    Attempt("packet sockets", "seccomp", python("import socket\nsocket.socket(17, 3)"), "not supported by protocol"),
    Attempt("vsock", "seccomp", python("import socket\nsocket.socket(40, 1)"), "not supported by protocol"),
    Attempt("nftables", "seccomp", python("import socket\nsocket.socket(16, 3, 12)"), "not supported"),
    Attempt(
        "bpf, keyctl, perf, io_uring, userfaultfd, open_by_handle_at", "seccomp",
        python(
            "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
            "for number in (321, 250, 298, 425, 323, 304, 175, 246):\n"
            "    assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() in (1, 38), number\n"
            "print('held')"
        ), "^held$",
    ),
    Attempt(
        "terminal injection", "seccomp",
        python("import fcntl, pty\n_, slave = pty.openpty()\nfcntl.ioctl(slave, 0x5412, b'x')"), "PermissionError",
    ),
    Attempt(
        "an address without a name", "the gateway has no route; the filter only takes names",
        python("import socket\ns = socket.create_connection(('1.1.1.1', 443), 10)\ns.sendall(b'x')\ns.recv(1)"),
        "ConnectionResetError|ConnectionRefusedError",
    ),
    Attempt(
        "the metadata service", "the filter only takes names", "curl -sS -m 10 http://169.254.169.254/ 2>&1", "^Hutch: denied",
    ),
    Attempt(
        "UDP", "rejected in the gateway",
        python("import socket\ns = socket.socket(2, 2)\ns.settimeout(5)\ns.connect(('1.1.1.1', 443))\ns.send(b'x')\ns.recv(1)"),
        "ConnectionRefusedError|No route|unreachable|PermissionError|prohibited|Host is unreachable",
    ),
    Attempt(
        "names, with the network off", "each stands for the filter, which refuses",
        "getent ahostsv4 example.com | cut -d. -f1,2 | sort -u; curl -sS -m 20 https://example.com/",
        r"\A198\.1[89]\nHutch: denied: network access is off in the agent phase\Z",
    ),
    Attempt(
        "the neighbour and the gateway", "no route but to the filter",
        "for a in 10.0.0.2 10.0.0.3 10.0.0.4 10.0.0.5; do curl -sS -m 5 http://$a:22/ 2>&1; done",
        r"\A((Hutch: denied|curl: \((7|56)\)).*\n?){4}\Z",
    ),
    Attempt(
        "set-id programs", "no new privileges", "setpriv --reuid 65534 --clear-groups su -c id 2>&1 </dev/null",
        "su:|failure|Permission",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def task(daemon: Daemon) -> Iterator[str]:
    with tasks.running(daemon) as identity:
        yield identity


def test_the_sandbox_works_at_all(daemon: Daemon, task: str) -> None:
    assert tasks.execute(daemon, task, "id", "-u").text == "0"
    assert tasks.execute(daemon, task, *tasks.sh("echo x > /root/y && cat /root/y")).text == "x"


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=[attempt.name for attempt in ATTEMPTS])
def test_held_in_a_command_that_joins(daemon: Daemon, task: str, attempt: Attempt) -> None:
    said = tasks.execute(daemon, task, "bash", "-c", attempt.script)
    _judge(attempt, said.stdout + said.stderr)


def test_held_in_the_first_command(daemon: Daemon) -> None:
    """All of them in one agent phase, each between marks."""
    script = "\n".join(f"echo '@{number}'; ({attempt.script}\n) 2>&1" for number, attempt in enumerate(ATTEMPTS))
    done = tasks.submit(daemon, "bash", "-c", script)
    tasks.finish(daemon, done, 110)
    parts = tasks.output(daemon, done).split(b"@")
    said = {part.split(b"\n", 1)[0]: part.split(b"\n", 1)[1] for part in parts[1:] if b"\n" in part}
    for number, attempt in enumerate(ATTEMPTS):
        _judge(attempt, said[str(number).encode()])


def _judge(attempt: Attempt, said: bytes) -> None:
    text = said.decode(errors="replace").strip()
    assert re.search(attempt.says, text, re.MULTILINE), f"{attempt.name} ({attempt.stopped_by}) said: {text[-500:]}"
