"""A stand-in for the internet: a network namespace of this host in which real servers run, for real daemons and sandboxes.

Must leave the host as it was. To the filter its addresses are public ones that aren't the host's own.

    sandbox ── gateway ── filter ─(host)─ veth ─ namespace: internet_servers.py at 198.51.100.251 and following
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support import registries, repos
from tests.support.certificates import Authority
from tests.support.internet_servers import NETWORK

NAMES = {
    "up.test": 251, "www.up.test": 251, "other.test": 251, "grpc.up.test": 252, "git.up.test": 253, "old.up.test": 254,
    "new.up.test": 255,
}  # fmt: skip
LARGE = 5_000_000  # bytes of /files/large
HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Internet:
    """`hosts` and `bundle` are what a daemon has to know of it: its names, and whom to trust."""

    directory: Path
    hosts: Path
    bundle: Path

    @property
    def options(self) -> tuple[str, ...]:
        """For `hutch serve`."""
        return ("--hosts", str(self.hosts))

    @property
    def environment(self) -> dict[str, str]:
        """For `hutch serve`."""
        return {"SSL_CERT_FILE": str(self.bundle)}


@contextlib.contextmanager
def internet() -> Iterator[Internet]:
    with contextlib.ExitStack() as stack:
        # Not pytest's tmp_path: strangers can't enter that, and the filter is one.
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hutch-internet-")))
        made = _files(directory)
        namespace = _network(stack)
        command = [
            "ip",
            "netns",
            "exec",
            namespace,
            sys.executable,
            "-m",
            "tests.support.internet_servers",
            str(directory),
        ]
        top = Path(__file__).parents[2]
        servers = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=top))
        stack.callback(servers.terminate)
        assert servers.stdout is not None
        assert servers.stdout.readline() == "ready\n", "the servers did not start"
        yield made


def _files(directory: Path) -> Internet:
    authority = Authority("The internet of Hutch's tests")
    (directory / "server.pem").write_bytes(authority.server(["up.test", "*.up.test", "other.test"]))
    hosts, bundle = directory / "hosts", directory / "bundle.pem"
    hosts.write_text("".join(f"{NETWORK}.{number} {name}\n" for name, number in NAMES.items()))
    bundle.write_bytes(HOST_BUNDLE.read_bytes() + authority.pem)
    registries.write_all(directory / "files")
    (directory / "files/large").write_bytes(os.urandom(LARGE))
    work = repos.make(directory / "work", {"file.txt": "from git\n"})
    (directory / "git").mkdir()
    repos.git(directory, "clone", "-q", "--bare", str(work), "git/project.git")
    shutil.rmtree(work)
    for path in (directory, hosts, bundle):
        path.chmod(0o755)
    return Internet(directory, hosts, bundle)


def _network(stack: contextlib.ExitStack) -> str:
    namespace = f"hin{os.getpid() % 100_000}"
    ip("netns", "add", namespace)
    stack.callback(ip, "netns", "del", namespace)
    ip("link", "add", namespace, "type", "veth", "peer", "name", "eth0", "netns", namespace)
    ip("link", "set", namespace, "up")
    for link in ("lo", "eth0"):
        ip("-n", namespace, "link", "set", link, "up")
    ip("-n", namespace, "route", "add", "default", "dev", "eth0")
    for number in sorted(set(NAMES.values())):  # one by one: the rest of this network may be in use here
        ip("-n", namespace, "address", "add", f"{NETWORK}.{number}/32", "dev", "eth0")
        ip("route", "add", f"{NETWORK}.{number}/32", "dev", namespace)
    return namespace


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"ip {' '.join(arguments)}: {done.stderr}"
