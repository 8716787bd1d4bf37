"""Memory of the proxies with many connections open: half of them spliced, half inspected, spread over many sandboxes.

Must not count anything twice: PSS, so that what processes share counts once.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from network_upstream import HOST, PORT
from network_ways import Way

from tests.support.filter_lab import Lab, sh

SANDBOXES, CONNECTIONS = 200, 1_000
HOLD = Path(__file__).with_name("network_hold.py")


def of_hutch(lab: Lab, inspected: Way, spliced: Way) -> float:
    """Bytes of all processes of the filter."""
    each = CONNECTIONS // SANDBOXES
    resolver = "10.203.{}.1"  # the gateway's addresses in the laboratory
    with ExitStack() as stack:
        for number, (way, access) in enumerate(((inspected, "limited"), (spliced, "unrestricted"))):
            sources = [f"10.205.{number}.{host}" for host in range(1, SANDBOXES // 2 + 1)]
            sh("ip", "-n", lab.network.gateway, "route", "add", f"10.205.{number}.0/24", "via", lab.address(number))
            for source in sources:
                sh("ip", "-n", way.namespace, "address", "add", f"{source}/32", "dev", "lo")
                lab.filter.policy(source, access, *([HOST] if access == "limited" else []))
                stack.callback(lab.filter.drop, source)
            stack.enter_context(_held(way, each, resolver.format(number), sources))
        return lab.filter.memory()


def of_mitmdump(way: Way, pid: int) -> float:
    """Bytes of mitmdump, with all of them inspected."""
    with _held(way, CONNECTIONS, "-", ["0.0.0.0"]):
        return sum(map(_pss, _with_children(pid)))


@contextmanager
def _held(way: Way, each: int, resolver: str, sources: list[str]) -> Iterator[None]:
    """Connections that are open, and shown at the end to have been."""
    arguments = [HOST, str(PORT), str(way.trust), str(each), resolver, way.address or "-", *sources]
    command = ["ip", "netns", "exec", way.namespace, sys.executable, "-I", str(HOLD), *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            _expect(process.stdout.readline, "open")
            yield
            process.stdin.write("\n")
            process.stdin.flush()
            _expect(process.stdout.readline, "answered")
        finally:
            process.kill()


def _expect(read: Callable[[], str], word: str) -> None:
    if (line := read()) != word + "\n":
        raise RuntimeError(f"the client of many connections ended with {line!r} before {word!r}; its message is above")


def _with_children(pid: int) -> list[int]:
    found = [pid]
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in path.read_text().split():
            found += _with_children(int(child))
    return found


def _pss(pid: int) -> int:
    """What a process has of memory, its share of what is shared; `ip netns exec` is the same process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
