"""How a filter begins and ends: hellos that it can't use, another one on the same sockets, and nothing left of the last.

Must not share a laboratory between tests: each one's leaks are looked for.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.host.errors import HostError
from tests.support.filter_lab import PUBLIC, UID, Lab, lab
from tests.support.filter_load import kill, stopped, wait_for_the_end
from tests.support.tasks import wait_for

# The daemon's side of a filter, in a process that can be killed. Prints the filter's process ids.
DAEMON = """
import asyncio, socket, sys
from pathlib import Path
from sandbox.host.filter import Filter, FilterConfig
async def main(tcp, dns, directory):
    config = FilterConfig(
        Path(directory, "only-ours.pem").read_text(), UID, workers=2, own_addresses=(),
        upstream_trust=Path(directory, "upstream.pem"), artifacts=Path(directory, "artifacts"), artifact_bytes=1 << 20)
    it = Filter(config, socket.socket(fileno=int(tcp)), socket.socket(fileno=int(dns)))
    await it.start()
    while len(pids := [it.pid, *it.pids("worker"), *it.pids("artifacts")]) < 4:
        await asyncio.sleep(0.01)
    print(*pids, flush=True)
    await asyncio.sleep(60)
asyncio.run(main(*sys.argv[1:]))
""".replace("UID", str(UID))


@pytest.fixture
def own() -> Iterator[Lab]:
    """A laboratory of the test's own, whose filter may end. What it leaves behind is seen by the leak check."""
    with lab(sandboxes=1) as laboratory:
        wait_for(lambda: len(laboratory.filter.processes()) == 4, "a master, two workers and a cache", 20)
        yield laboratory


def test_nothing_leaves_without_a_filter_and_another_one_takes_over(own: Lab) -> None:
    own.policy("unrestricted")
    assert own.curl("https://up.test/").returncode == 0
    own.filter.close()
    own.upstream.forget()
    for url in ("http://up.test/", "https://up.test/", f"http://{PUBLIC}/"):
        assert own.curl("--max-time", "1", "--resolve", "up.test:443:198.18.0.1", url).returncode != 0
    assert own.upstream.seen == []
    own.restart()
    assert own.curl("--max-time", "5", "https://up.test/").returncode != 0, "nobody has told the new one a policy"
    own.policy("unrestricted")
    assert own.curl("https://up.test/").returncode == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [({"upstream_trust": Path("/nonexistent")}, "the trusted certificates in /nonexistent can't be read: "),
     ({"upstream_trust": Path("/etc/hostname")}, "the trusted certificates in /etc/hostname can't be read: "),
     ({"ca_pem": "x"}, "ca_pem is not a key and a certificate in PEM form: "),
     ({"private_names": ("no name",)}, "'no name', which is to be private, is neither a network nor a name: "),
     ({"hosts_file": Path("/nonexistent")}, "it ended at once")],
)  # fmt: skip
def test_a_start_that_fails_says_why(own: Lab, change: dict[str, Any], words: str) -> None:
    own.filter.close()
    began = time.monotonic()
    with pytest.raises(HostError) as raised:
        own.start(**change)
    print(f"\n{raised.value.message}; {raised.value.remedy} ({time.monotonic() - began:.1f} s)")
    assert raised.value.message.startswith("cannot start the filter: ")
    assert words in raised.value.message
    assert raised.value.remedy
    assert own.curl("--max-time", "1", "http://up.test/").returncode != 0
    assert own.upstream.seen == []


@pytest.mark.parametrize("stop", [False, True], ids=["running", "stopped"])
def test_it_ends_with_everything(own: Lab, stop: bool) -> None:
    processes = own.filter.processes()
    assert len(processes) == 4
    with stopped(*(processes if stop else ())):
        own.filter.close()
        wait_for_the_end(processes, 5)


def test_it_ends_with_a_daemon_that_is_killed(own: Lab) -> None:
    own.filter.close()
    fds = (own.tcp.fileno(), own.dns.fileno())
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, *map(str, fds), str(own.directory)],
        cwd=Path(__file__).parents[2], pass_fds=fds, stdout=subprocess.PIPE, text=True,
    ) as daemon:  # fmt: skip
        assert daemon.stdout is not None
        processes = [int(pid) for pid in daemon.stdout.readline().split()]
        assert len(processes) == 4
        kill(daemon.pid)
        wait_for_the_end(processes, 5)
