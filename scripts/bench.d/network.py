"""Measures and prints one table: traffic through Hutch's filter beside a plain mitmdump and no proxy at all, in turns.

Must not send anything to another machine but what `pip install` asks for: all else stays in a network namespace of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import network_far  # noqa: E402  # beside this file, which is not a package
import network_memory  # noqa: E402
import network_pip  # noqa: E402
from network_upstream import LARGE, LARGE_BYTES, Nginx  # noqa: E402
from network_ways import Way, direct, hutch, mitmdump, own_network  # noqa: E402

from tests.support.filter_lab import Lab, lab  # noqa: E402

CLIENTS = 16
REQUESTS, P50, P99 = (
    f"requests on kept connections, {CLIENTS} clients: {what}" for what in ("per second", "p50, ms", "p99, ms")
)
CONNECTIONS = f"a new TLS connection each, {CLIENTS} clients: requests/s"
CONNECTING = "a new TLS connection each, one client: p50, ms"
DOWNLOAD = "1 GiB downloaded: MB/s"
MEMORY = f"{network_memory.CONNECTIONS:,} connections open: memory, MB"
PIP = "cold pip install of 40 packages: seconds"
PIP_FAR = f"{PIP}, the index {network_far.DISTANCE} away"
FIRST, SECOND = "first", "second"
DIRECT, MITMDUMP, INSPECT, SPLICE = "direct", "mitmdump", "hutch inspect", "hutch splice"

Results = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Target:
    """What issue 3 asks for on two cores: a number made of the results, and its limit."""

    text: str
    limit: float
    number: Callable[[Results], float]
    most: bool = False  # the limit is the highest good number, else the lowest

    def missed(self, results: Results) -> str | None:
        """Why, or None; a number that could not be measured is missed."""
        try:
            number = self.number(results)
        except (KeyError, ZeroDivisionError):
            return f"{self.text}: not measured"
        good = number <= self.limit if self.most else number >= self.limit
        return None if good else f"{self.text}: {number:.2f}, not {self.limit:g}"


TARGETS = (
    Target("inspected requests, × mitmdump", 1.5, lambda r: r[INSPECT][REQUESTS] / r[MITMDUMP][REQUESTS]),
    Target("inspected requests' p99, × p50", 3, lambda r: r[INSPECT][P99] / r[INSPECT][P50], most=True),
    Target("new inspected connections, × mitmdump", 1.5, lambda r: r[INSPECT][CONNECTIONS] / r[MITMDUMP][CONNECTIONS]),
    Target(
        "new spliced connections, × mitmdump's inspected",
        8,
        lambda r: r[SPLICE][CONNECTIONS] / r[MITMDUMP][CONNECTIONS],
    ),
    Target("a spliced connection's added ms", 1, lambda r: r[SPLICE][CONNECTING] - r[DIRECT][CONNECTING], most=True),
    Target("spliced download, × direct", 0.5, lambda r: r[SPLICE][DOWNLOAD] / r[DIRECT][DOWNLOAD]),
    Target("memory, MB", 300, lambda r: r[INSPECT][MEMORY], most=True),
    # What is next door is fetched in no time, and the rest of an install is pip's own work.
    Target("second pip install, × faster", 2, lambda r: r[FIRST][PIP_FAR] / r[SECOND][PIP_FAR]),
)


def main() -> int:
    """Measure what was asked for; 1 if a target was missed and --check was given."""
    options = arguments()
    needed = [program for program in ("nginx", "gcc") if shutil.which(program) is None]
    if needed or not Path("/usr/include/gnutls/gnutls.h").exists():
        raise SystemExit("error: nginx, gcc and GnuTLS's headers are needed: scripts/bench --network --install-peers")
    results: Results = {}
    with tempfile.TemporaryDirectory(prefix="hutch-bench-", dir="/var/tmp") as directory:
        program = compiled(Path(directory))
        with own_network(), lab(2, Nginx) as laboratory, ExitStack() as stack:
            proxied, pid = mitmdump(stack, laboratory)
            inspected, spliced = hutch(laboratory)
            ways = [direct(stack, laboratory), proxied, inspected, spliced]
            measure(laboratory, ways, program, options, results)
            say("memory")
            results[INSPECT][MEMORY] = network_memory.of_hutch(laboratory, inspected, spliced) / 1e6
            results[MITMDUMP][MEMORY] = network_memory.of_mitmdump(proxied, pid) / 1e6
    notes = [f"{way.name + ':':15}{way.note}" for way in ways]
    if options.pip:
        say("cold pip installs")
        try:
            near, far = network_pip.measure()
            results |= {name: {PIP: near[n], PIP_FAR: far[n]} for n, name in enumerate((FIRST, SECOND))}
        except network_pip.NoIndex as error:
            notes.append(f"NOT MEASURED   {error}")
    report(results, notes)
    missed = [why for target in TARGETS if (why := target.missed(results))]
    if options.json:
        found = {"host": host(), "results": results, "missed": missed, "notes": notes}
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    print("\nTargets missed: " + ("; ".join(missed) or "none"))
    return 1 if missed and options.check else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench --network", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each thing is measured, all in turns (3)")
    parser.add_argument("--seconds", type=float, default=4, help="how long each measurement of a rate lasts (4)")
    parser.add_argument("--no-pip", dest="pip", action="store_false", help="leave out what needs a package index")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target was missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    parser.add_argument("--install-peers", action="store_true", help="first install nginx and what the clients need")
    return parser.parse_args()


def compiled(directory: Path) -> Path:
    """The program that makes the load."""
    program, source = directory / "load", Path(__file__).with_name("network_load.c")
    subprocess.run(["gcc", "-O2", "-pthread", "-o", program, source, "-lgnutls"], check=True, timeout=120)
    directory.chmod(0o755)
    return program


def measure(laboratory: Lab, ways: list[Way], program: Path, options: argparse.Namespace, results: Results) -> None:
    """Everything once for each way in each round, so that whatever else the machine does meets all of them: medians."""
    numbers: dict[str, dict[str, list[float]]] = {way.name: {} for way in ways}
    for way in ways:
        way.load(program, "get", path=LARGE)  # fills the page cache, and whatever else fills at first
    for turn in range(options.rounds):
        say(f"round {turn + 1} of {options.rounds}")
        for one in (kept, connections, connecting, download):
            for way in ways:
                for row, number in one(way, program, options.seconds).items():
                    numbers[way.name].setdefault(row, []).append(number)
                laboratory.filter.forget_records()
    results |= {name: {row: statistics.median(found) for row, found in rows.items()} for name, rows in numbers.items()}


def kept(way: Way, program: Path, seconds: float) -> dict[str, float]:
    """Small requests one after the other on connections that stay open."""
    found = way.load(program, "keep", CLIENTS, seconds)
    return {REQUESTS: found["per_second"], P50: found["p50"] / 1000, P99: found["p99"] / 1000}


def connections(way: Way, program: Path, seconds: float) -> dict[str, float]:
    """A full handshake for each request."""
    return {CONNECTIONS: way.load(program, "new", CLIENTS, seconds)["per_second"]}


def connecting(way: Way, program: Path, seconds: float) -> dict[str, float]:
    """The same without anybody else, so that it is the way's own time and not that of a queue."""
    return {CONNECTING: way.load(program, "new", 1, seconds / 2)["p50"] / 1000}


def download(way: Way, program: Path, _: float) -> dict[str, float]:
    """One large file."""
    return {DOWNLOAD: LARGE_BYTES / 1e6 / way.load(program, "get", path=LARGE)["seconds"]}


def report(results: Results, notes: list[str]) -> None:
    """The table, with ratios to mitmdump and to no proxy."""
    print(f"\n{host()}; medians of all rounds\n")
    names = [DIRECT, MITMDUMP, INSPECT, SPLICE]
    rows = list(dict.fromkeys(row for name in names for row in results[name]))
    table = [["", *names]]
    table += [[row, *(cell(results[name].get(row)) for name in names)] for row in rows]
    for base in (MITMDUMP, DIRECT):
        table += [
            [f"  × {base}: {row}", *(cell(results[name].get(row), results[base][row]) for name in names)]
            for row in rows
            if row in results[base]
        ]
    widths = [max(len(line[i]) for line in table) for i in range(len(names) + 1)]
    for line in table:
        print("  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]))
    for row in results.get(FIRST, ()):
        first, second = results[FIRST][row], results[SECOND][row]
        print(f"\n{row}: first {first:.1f}, second {second:.1f}: {first / second:.2f} × faster")
    print("\n" + "\n".join(notes))


def cell(value: float | None, base: float = 1.0) -> str:
    """One number of the table."""
    if value is None:
        return "-"
    return f"{value / base:.2f}" if value / base < 100 else f"{value / base:,.0f}"


def host() -> str:
    """The machine in one line, with the versions of what is compared."""
    found = [f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"]
    for command in (["nginx", "-v"], [str(Path(sys.executable).with_name("mitmdump")), "--version"]):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        found.append((done.stdout + done.stderr).split("\n")[0].strip())
    return ", ".join(found)


def say(text: str) -> None:
    """What is going on, on stderr: the table alone is on stdout."""
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
