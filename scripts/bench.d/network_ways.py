"""The ways from a client to the server, side by side: none between, a plain mitmdump, and Hutch's filter.

Must not reach beyond this machine: everything is made in namespaces of the bench's own, and goes with the `with` block.

    direct     client ──veth── bench's namespace: nginx
    mitmdump   client ──veth── gateway with nft redirect and mitmdump ──veth── bench's namespace: nginx
    hutch      client ──veth── gateway with nft redirect ─ accept ─ filter in the bench's namespace: nginx
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from network_upstream import HOST, PORT, SMALL

from tests.support.filter_lab import PUBLIC, Lab, sh

LIMIT = 120.0
PROXY_PORT = 8080
REDIRECT = f"""
table ip bench {{
    chain redirects {{
        type nat hook prerouting priority dstnat
        meta l4proto tcp redirect to :{PROXY_PORT}
    }}
}}
"""
# A client that closes tens of thousands of connections in a minute must not run out of ports.
MANY_PORTS = "echo 1024 65535 >/proc/sys/net/ipv4/ip_local_port_range; echo 1 >/proc/sys/net/ipv4/tcp_tw_reuse"


@dataclass
class Way:
    """One way: where its client runs, what it takes the server's name for (empty: what its DNS says), whom it trusts."""

    name: str
    note: str
    namespace: str
    address: str
    trust: Path
    results: dict[str, float] = field(default_factory=dict)

    def load(
        self, program: Path, mode: str, clients: int = 1, seconds: float = 0, path: str = SMALL
    ) -> dict[str, float]:
        """Run the load program on this way's client; raises RuntimeError with its message."""
        what = [mode, str(clients), str(seconds), str(self.trust), HOST, self.address or "-", str(PORT), path]
        command = ["ip", "netns", "exec", self.namespace, str(program), *what]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + LIMIT, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"{self.name}: {mode} {path}: {done.stderr.strip()}")
        found: dict[str, float] = json.loads(done.stdout)
        return found


@contextmanager
def own_network() -> Iterator[None]:
    """This thread, and what it starts, in a network namespace that nothing leads out of."""
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.unshare(os.CLONE_NEWNET)
        sh("ip", "link", "set", "lo", "up")
        sh("sh", "-c", MANY_PORTS)
        yield
    finally:
        os.setns(before, os.CLONE_NEWNET)
        os.close(before)


def direct(stack: ExitStack, lab: Lab) -> Way:
    """No proxy at all."""
    client = _namespace(stack, f"hbd{lab.network.tag}")
    _wire(stack, client, None, 1)
    return Way("direct", "no proxy: a veth pair", client, PUBLIC, lab.directory / "upstream.pem")


def mitmdump(stack: ExitStack, lab: Lab) -> tuple[Way, int]:
    """One mitmdump in transparent mode, and its process. It gets the same elliptic CA as Hutch: its own RSA one is slower."""
    client, gateway = (_namespace(stack, f"hb{letter}{lab.network.tag}") for letter in "mg")
    _wire(stack, client, gateway, 2)
    _wire(stack, gateway, None, 3)
    sh("ip", "netns", "exec", gateway, "nft", "-f", "-", text=REDIRECT)
    home = lab.directory / "mitmdump"
    home.mkdir()
    (home / "mitmproxy-ca.pem").write_bytes(lab.ca)
    settings = [f"confdir={home}", f"ssl_verify_upstream_trusted_ca={lab.directory / 'upstream.pem'}"]
    settings.append("stream_large_bodies=1m")  # else it would hold the large download in memory
    command = [str(Path(sys.executable).with_name("mitmdump")), "-q", "--mode", "transparent", "-p", str(PROXY_PORT)]
    for setting in settings:
        command += ["--set", setting]
    process = subprocess.Popen(["ip", "netns", "exec", gateway, *command], stdin=subprocess.DEVNULL)
    stack.callback(_end, process)
    way = Way("mitmdump", "transparent, no addons, Hutch's CA", client, PUBLIC, lab.directory / "only-ours.pem")
    _wait_for(process, client)
    return way, process.pid


def hutch(lab: Lab) -> tuple[Way, Way]:
    """Hutch's filter: sandbox 0 is inspected, sandbox 1 spliced."""
    lab.policy("limited", HOST, sandbox=0)
    lab.policy("unrestricted", sandbox=1)
    clients = lab.network.sandboxes
    for namespace in clients:
        sh("ip", "netns", "exec", namespace, "sh", "-c", MANY_PORTS)
    inspected = Way("hutch inspect", "limited: all TLS opened", clients[0], "", lab.directory / "only-ours.pem")
    return inspected, Way("hutch splice", "unrestricted", clients[1], "", lab.directory / "upstream.pem")


def _namespace(stack: ExitStack, name: str) -> str:
    sh("ip", "netns", "add", name)
    stack.callback(sh, "ip", "netns", "del", name)
    sh("ip", "-n", name, "link", "set", "lo", "up")
    sh("ip", "netns", "exec", name, "sh", "-c", MANY_PORTS)
    return name


def _wire(stack: ExitStack, inner: str, outer: str | None, number: int) -> None:
    """A veth pair between a namespace and another (None: the bench's own), which becomes its way to everywhere."""
    near, far = f"hbi{number}", f"hbo{number}"
    there = ["-n", outer] if outer else []
    sh("ip", *there, "link", "add", far, "type", "veth", "peer", "name", near, "netns", inner)
    if not outer:
        stack.callback(sh, "ip", "link", "del", far)
    sh("ip", *there, "address", "add", f"10.204.{number}.1/30", "dev", far)
    sh("ip", *there, "link", "set", far, "up")
    sh("ip", "-n", inner, "address", "add", f"10.204.{number}.2/30", "dev", near)
    sh("ip", "-n", inner, "link", "set", near, "up")
    sh("ip", "-n", inner, "route", "add", "default", "via", f"10.204.{number}.1")


def _wait_for(process: subprocess.Popen[bytes], client: str) -> None:
    """Until mitmdump accepts connections."""
    script = f"import socket; socket.create_connection(({PUBLIC!r}, {PORT}), 2)"
    deadline = time.monotonic() + LIMIT
    while True:
        command = ["ip", "netns", "exec", client, sys.executable, "-c", script]
        if subprocess.run(command, capture_output=True, timeout=LIMIT, check=False).returncode == 0:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("mitmdump did not start; its message is above")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)
