"""A laboratory for the filter: sandbox namespaces, a gateway, a real filter process and real servers, all throw-away.

Must not touch what it didn't make: its names are unique to the process, and everything ends with its `with` block.

    sandbox (netns) ──veth── gateway (netns; nft redirect; the filter's sockets) ─ accept ─ filter ─ dial ─ servers
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxy.trust import Link, make_ca, trust_env, trust_files
from sandbox.host import network as host_network
from sandbox.host.filter import FilterConfig
from tests.support.filter_client import Filter
from tests.support.upstream import Upstream

UID = 64_123
# Two addresses of this host while a lab is up; the first one counts as public.
PUBLIC, PRIVATE = f"198.51.100.{os.getpid() % 250 + 1}", f"10.213.{os.getpid() % 250 + 1}.1"
HOST_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")
TCP_PORT, DNS_PORT = 15001, 15053
_numbers = itertools.count()

GATEWAY_RULES = f"""
table ip hutch {{
    chain redirects {{
        type nat hook prerouting priority dstnat
        meta l4proto tcp redirect to :{TCP_PORT}
        udp dport 53 redirect to :{DNS_PORT}
    }}
    chain arrivals {{
        type filter hook input priority filter; policy drop
        ct status dnat accept
        ct state established accept
        reject
    }}
}}
"""

# Those of a real gateway: they limit what one sandbox may send.
REAL_GATEWAY_RULES = Path(host_network.__file__).with_name("gateway.nft").read_text().format(tcp=TCP_PORT, dns=DNS_PORT)

MAKE_SOCKETS = f"""
import socket, sys
tcp = socket.socket(); tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
tcp.bind(("0.0.0.0", {TCP_PORT})); tcp.listen(1024)
dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); dns.bind(("0.0.0.0", {DNS_PORT}))
socket.send_fds(socket.socket(fileno=int(sys.argv[1])), [b"x"], [tcp.fileno(), dns.fileno()])
"""


def sh(*command: str, text: str | None = None) -> None:
    done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


class Network:
    """The namespaces. Sandbox n has the address 10.203.n.2 in a namespace whose name is `sandboxes[n]`."""

    def __init__(self, sandboxes: int, rules: str) -> None:
        self.rules = rules
        self.tag = f"{os.getpid() % 100_000}{next(_numbers)}"
        self.gateway = f"hgw{self.tag}"
        self.sandboxes = [f"hsb{self.tag}x{number}" for number in range(sandboxes)]
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Network:
        with contextlib.ExitStack() as stack:
            for name in (self.gateway, *self.sandboxes):
                sh("ip", "netns", "add", name)
                stack.callback(sh, "ip", "netns", "del", name)
            sh("ip", "netns", "exec", self.gateway, "nft", "-f", "-", text=self.rules)
            sh("ip", "-n", self.gateway, "link", "set", "lo", "up")
            for number, name in enumerate(self.sandboxes):
                self._join(number, name, stack)
            for address in (PUBLIC, PRIVATE):
                sh("ip", "address", "add", f"{address}/32", "dev", "lo")
                stack.callback(sh, "ip", "address", "del", f"{address}/32", "dev", "lo")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _join(self, number: int, name: str, stack: contextlib.ExitStack) -> None:
        inner, outer = f"vi{self.tag}{number}", f"vo{self.tag}{number}"
        sh("ip", "link", "add", inner, "netns", name, "type", "veth", "peer", "name", outer, "netns", self.gateway)
        sh("ip", "-n", self.gateway, "address", "add", f"10.203.{number}.1/30", "dev", outer)
        sh("ip", "-n", self.gateway, "link", "set", outer, "up")
        sh("ip", "-n", name, "address", "add", f"10.203.{number}.2/30", "dev", inner)
        sh("ip", "-n", name, "link", "set", inner, "up")
        sh("ip", "-n", name, "link", "set", "lo", "up")
        sh("ip", "-n", name, "route", "add", "default", "via", f"10.203.{number}.1")
        config = Path("/etc/netns") / name  # `ip netns exec` lays it over /etc
        made = not config.parent.exists()
        config.mkdir(parents=True)
        (config / "resolv.conf").write_text(f"nameserver 10.203.{number}.1\n")
        stack.callback(_remove_config, config, made)

    def sockets(self) -> list[socket.socket]:
        """The listening TCP socket and the DNS socket, made inside the gateway."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            subprocess.run(
                ["ip", "netns", "exec", self.gateway, sys.executable, "-c", MAKE_SOCKETS, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                check=True,
                timeout=30,
            )
            _, fds, _, _ = socket.recv_fds(ours, 1, 2)
        return [socket.socket(fileno=fd) for fd in fds]


def _remove_config(config: Path, parent_too: bool) -> None:
    shutil.rmtree(config)
    if parent_too:
        with contextlib.suppress(OSError):  # another laboratory's is in it
            config.parent.rmdir()


def lay(files: dict[str, bytes | Link], over_etc: Path) -> None:
    """Put the files of etc/ssl where `ip netns exec` lays them over the host's own /etc/ssl."""
    for name, content in files.items():
        path = over_etc / Path(name).relative_to("etc") if name.startswith("etc/ssl/") else None
        if path is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Link):
            path.symlink_to(content.target)
        else:
            path.write_bytes(content)


class Lab:
    """Network, servers and filter together; `names` are resolved by the filter's hosts file."""

    def __init__(self, directory: Path, network: Network, upstream: Upstream) -> None:
        self.network, self.upstream, self.directory = network, upstream, directory
        self.tcp, self.dns = network.sockets()
        self.ca = make_ca()
        host = HOST_BUNDLE.read_bytes() if HOST_BUNDLE.exists() else b""
        (directory / "upstream.pem").write_bytes(host + upstream.ca)
        for sandbox in network.sandboxes:
            lay(trust_files(host, upstream.ca, self.ca), Path("/etc/netns") / sandbox)
        (directory / "only-ours.pem").write_bytes(self.ca)
        self.hosts = directory / "hosts"
        self.hosts.write_text(HOSTS)
        for path in (directory, *directory.iterdir()):
            path.chmod(0o755)
        self.filter = self.start()

    def start(self, **changes: Any) -> Filter:
        """A filter; `changes` are other values of its configuration."""
        config = FilterConfig(
            self.ca.decode(), UID, ("private.test",), self.hosts, workers=2,
            upstream_trust=self.directory / "upstream.pem", own_addresses=("192.0.2.250",),
            artifacts=self.directory / "artifacts", artifact_bytes=64 << 20,
        )  # fmt: skip
        return Filter(replace(config, **changes), self.tcp, self.dns)

    def restart(self, **changes: Any) -> None:
        """Another filter on the same sockets."""
        self.filter.close()
        self.filter = self.start(**changes)

    def close(self) -> None:
        self.filter.close()
        self.tcp.close()
        self.dns.close()

    def address(self, sandbox: int = 0) -> str:
        return f"10.203.{sandbox}.2"

    def policy(self, access: str, *rules: str, sandbox: int = 0, **more: Any) -> None:
        """A fresh sandbox with this policy: nothing of what was before, no record either."""
        self.filter.drop(self.address(sandbox))
        self.filter.forget_records()
        self.upstream.forget()
        self.filter.policy(self.address(sandbox), access, *rules, **more)

    def _environment(self) -> dict[str, str]:
        """The trust that a sandbox gets, and little else."""
        base = {"PATH": os.environ["PATH"], "HOME": str(self.directory), "LANG": "C.UTF-8"}
        return base | trust_env()

    def run(self, *command: str, sandbox: int = 0, seconds: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        """A command in a sandbox's network."""
        return subprocess.run(
            ["ip", "netns", "exec", self.network.sandboxes[sandbox], *command],
            env=self._environment() | env, capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def popen(self, script: str, *arguments: str, sandbox: int = 0) -> subprocess.Popen[str]:
        """A script that runs beside the test; it has to be waited for."""
        command = ["ip", "netns", "exec", self.network.sandboxes[sandbox], sys.executable, "-c", script, *arguments]
        env, pipe = self._environment(), subprocess.PIPE
        return subprocess.Popen(command, env=env, stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def curl(self, *arguments: str, sandbox: int = 0, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return self.run("curl", "-sS", "--max-time", str(seconds - 5), *arguments, sandbox=sandbox, seconds=seconds)

    def python(self, script: str, *arguments: str, sandbox: int = 0, seconds: float = 60) -> str:
        """Run a script in a sandbox's network; it must succeed. Returns what it printed."""
        done = self.run(sys.executable, "-c", script, *arguments, sandbox=sandbox, seconds=seconds)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


HOSTS = f"""
{PUBLIC}    up.test www.up.test other.test wrong-certificate.invalid h2.test x.h2.test git.test
{PRIVATE}   private.test sub.private.test secret.test
127.0.0.1   loop.test
169.254.169.254 metadata.private.test
{PUBLIC}    mixed.test
{PRIVATE}   mixed.test
192.0.2.250 own.test
0.0.0.0     zero.test
100.64.0.1  cgnat.test
169.254.1.1 linklocal.test
168.63.129.16 agent.test
198.18.0.1  synthetic.test
224.0.0.251 multicast.test
::1         loop6.test
fd00::1     private6.test
::ffff:127.0.0.1 mapped.test
64:ff9b::7f00:1  nat64.test
"""


@contextlib.contextmanager
def lab(sandboxes: int = 2, servers: type[Upstream] = Upstream, rules: str = GATEWAY_RULES) -> Iterator[Lab]:
    # Not pytest's tmp_path: strangers can't enter that, and the filter is one.
    with tempfile.TemporaryDirectory(prefix="hutch-lab-") as name:
        directory = Path(name)
        with Network(sandboxes, rules) as network, servers(directory, (PUBLIC, PRIVATE)) as upstream:
            laboratory = Lab(directory, network, upstream)
            try:
                yield laboratory
            finally:
                laboratory.close()
