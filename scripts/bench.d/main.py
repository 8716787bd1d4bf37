"""Measures and prints one table: Hutch beside the peers that run here, in one run, in turns.

Must not leave anything behind but the base image in its state directory (HUTCH_TEST_STATE, default /var/tmp/hutch-test).
"""

from __future__ import annotations

import argparse
import base64
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import peers  # noqa: E402  # beside this file, which is not a package
from systems import IMAGE, PROBE, HutchApi, HutchCli, Process, System  # noqa: E402

from tests.support.daemon import Daemon  # noqa: E402

Results = dict[str, dict[str, float]]
# What issue 2 asks for on two cores, in seconds.
TARGETS = {
    ("hutch API", "start: first instruction, p50"): 0.015,
    ("hutch API", "start: first instruction, p95"): 0.030,
    ("hutch API", "exec: first instruction, p50"): 0.006,
    ("hutch CLI", "exec: all in all, p50"): 0.100,
}
BUILD_SECONDS = 1200.0
PAUSE = (
    0.15  # seconds, until what a system does after a command's end has been done, and doesn't disturb the next system
)
SOURCE = r"""
#include <stdio.h>
#include <time.h>
#include <unistd.h>
int main(int argc, char **argv) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    printf("%ld.%06ld\n", (long)now.tv_sec, now.tv_nsec / 1000);
    fflush(stdout);
    if (argc > 1) sleep(900);
    return 0;
}
"""


def main() -> int:
    """Measure what was asked for; 1 if a target was missed and --check was given."""
    options = arguments()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hutch-bench-", dir="/var/tmp")))
        state = Path(os.environ.get("HUTCH_TEST_STATE", "/var/tmp/hutch-test"))
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        daemon = stack.enter_context(Daemon(state, options=("--max-tasks", str(max(64, options.many)))))
        tree, archive = probe_image(stack, daemon, directory)
        api = HutchApi(daemon.client)
        stack.callback(api.forget)
        systems: list[System] = [Process(tree), api, HutchCli(str(daemon.socket), api)]
        skipped: list[str] = []
        if not options.alone:
            found, skipped = peers.set_up(stack, tree, archive, directory)
            systems += found
        results: Results = {system.name: {} for system in systems}
        say(f"measuring {', '.join(results)}")
        measure_starts(systems, options.rounds, results)
        measure_execs(systems, options.rounds, results)
        for system in systems:
            say(f"{options.many} at once: {system.name}")
            measure_many(system, options.many, results)
    report(systems, results, skipped, options.many)
    if options.json:
        options.json.write_text(json.dumps({"host": host(), "results": results, "skipped": skipped}, indent=1) + "\n")
    missed = [f"{name}: {row}" for (name, row), target in TARGETS.items() if results[name].get(row, math.inf) > target]
    print("\nTargets missed: " + ("; ".join(missed) or "none"))
    return 1 if missed and options.check else 0


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40, help="how often each start and exec is measured (40)")
    parser.add_argument("--many", type=int, default=50, help="how many sandboxes at once (50)")
    parser.add_argument("--alone", action="store_true", help="measure Hutch only")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a target was missed")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    parser.add_argument("--install-peers", action="store_true", help="first install the peers from Debian's packages")
    return parser.parse_args()


def probe_image(stack: ExitStack, daemon: Daemon, directory: Path) -> tuple[Path, Path]:
    """The image that every system gets: its root file system as a directory and as a tar file."""
    run(daemon, "the base image: some minutes, once", "image", "build", "base", unless=("image", "show", "base"))
    tree, archive = tree_of(daemon, "base"), directory / "tree.tar"
    say("making an image of the base image and the probe")
    subprocess.run(["tar", "-C", str(tree), "-cf", str(archive), "."], check=True, timeout=BUILD_SECONDS)
    probe = directory / "probe" / PROBE.lstrip("/")
    probe.parent.mkdir(parents=True)
    probe.write_bytes(compiled(daemon))
    probe.chmod(0o755)
    subprocess.run(
        ["tar", "-C", str(directory / "probe"), "-rf", str(archive), f".{PROBE}"], check=True, timeout=BUILD_SECONDS
    )
    stack.callback(daemon.client.gc)
    run(daemon, "importing it", "image", "import", str(archive), "--name", IMAGE)
    stack.callback(daemon.client.remove_image, IMAGE)
    return tree_of(daemon, IMAGE), archive


def run(daemon: Daemon, what: str, *arguments: str, unless: tuple[str, ...] | None = None) -> None:
    """Run a `hutch` command, or end with its message; not if the command `unless` succeeds."""
    if unless and daemon.hutch(*unless).returncode == 0:
        return
    say(what)
    done = daemon.hutch(*arguments, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise SystemExit(done.stderr.decode(errors="replace"))


def tree_of(daemon: Daemon, image: str) -> Path:
    """The layer of an image that has the files."""
    trees = (daemon.state / "layers" / layer for layer in daemon.client.image(image)["layers"])
    return next(tree for tree in trees if (tree / "usr/bin/bash").exists())


def compiled(daemon: Daemon) -> bytes:
    """The probe, made by the base image's compiler."""
    script = f"gcc -x c -O2 -static -o /tmp/probe - <<'EOF'\n{SOURCE}\nEOF\nbase64 /tmp/probe"
    done = daemon.hutch("run", "--", "bash", "-ec", script, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise SystemExit(done.stderr.decode(errors="replace"))
    return base64.b64decode(done.stdout)


def measure_starts(systems: list[System], rounds: int, results: Results) -> None:
    """One start of each in turn, so that whatever else the machine does meets all of them."""
    firsts: dict[str, list[float]] = {system.name: [] for system in systems}
    totals: dict[str, list[float]] = {system.name: [] for system in systems}
    for turn in range(rounds + 2):
        for system in systems:
            first, total = system.start()
            if turn >= 2:  # the first ones fill caches
                firsts[system.name].append(first)
                totals[system.name].append(total)
            time.sleep(PAUSE)
    for name in firsts:
        summarise(results[name], "start", firsts[name], totals[name])


def measure_execs(systems: list[System], rounds: int, results: Results) -> None:
    """The same for a command in a running sandbox."""
    with ExitStack() as stack:
        held = {system.name: stack.enter_context(system.hold(1))[0][0] for system in systems}
        firsts: dict[str, list[float]] = {}
        totals: dict[str, list[float]] = {}
        for turn in range(rounds + 2):
            for system in systems:
                times = system.run_inside(held[system.name])
                time.sleep(PAUSE)
                if times and turn >= 2:
                    firsts.setdefault(system.name, []).append(times[0])
                    totals.setdefault(system.name, []).append(times[1])
    for name in firsts:
        summarise(results[name], "exec", firsts[name], totals[name])


def measure_many(system: System, count: int, results: Results) -> None:
    """Many idle ones at once: until all of them run, and the memory that each takes while they idle."""
    time.sleep(2)
    before = available_memory()
    with system.hold(count) as (_, firsts):
        time.sleep(3)
        taken = before - available_memory()
    row = results[system.name]
    row["many at once: the last one's first instruction"] = max(firsts)
    row["many at once: memory per idle one, MiB"] = taken / count / (1 << 20)


def summarise(row: dict[str, float], what: str, firsts: list[float], totals: list[float]) -> None:
    """Medians and 95th percentiles of one measurement."""
    row[f"{what}: first instruction, p50"] = statistics.median(firsts)
    row[f"{what}: first instruction, p95"] = percentile(firsts, 0.95)
    row[f"{what}: all in all, p50"] = statistics.median(totals)
    row[f"{what}: all in all, p95"] = percentile(totals, 0.95)


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values don't exceed."""
    return sorted(values)[math.ceil(share * len(values)) - 1]


def available_memory() -> int:
    """Bytes that the kernel says it could give away."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/meminfo has no MemAvailable")


def report(systems: list[System], results: Results, skipped: list[str], many: int) -> None:
    """The table, the ratios to bwrap and docker, and what the columns mean."""
    names = [system.name for system in systems]
    rows = list(dict.fromkeys(row for name in names for row in results[name]))
    print(f"\n{host()}; times in ms, medians (p50) and 95th percentiles; many = {many}\n")
    table = [["", *names]]
    table += [[row, *(cell(results[name].get(row), row) for name in names)] for row in rows]
    for peer in ("process", "bwrap", "docker"):
        if peer in results:
            table += [
                [f"  × {peer}: {row}", *(ratio(results[name].get(row), results[peer].get(row)) for name in names)]
                for row in rows
                if row.endswith("p50") and row in results[peer]
            ]
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    for line in table:
        print("  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))]))
    print()
    for system in systems:
        print(f"{system.name + ':':14} {system.note}")
    for reason in skipped:
        print(f"NOT MEASURED   {reason}")


def cell(value: float | None, row: str) -> str:
    """One number of the table."""
    if value is None:
        return "-"
    return f"{value:.2f}" if row.endswith("MiB") else f"{value * 1000:.1f}"


def ratio(value: float | None, base: float | None) -> str:
    """How many times the peer's time."""
    return f"{value / base:.2f}" if value and base else "-"


def host() -> str:
    """The machine in one line, with the versions of what is compared."""
    found = [f"Linux {platform.release()}, {os.cpu_count()} CPUs, Python {platform.python_version()}"]
    for command in (["bwrap", "--version"], ["runc", "--version"], ["podman", "--version"], ["dockerd", "--version"]):
        if shutil.which(command[0]):
            text = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
            found.append(text.split("\n")[0].split(",")[0].strip())
    return ", ".join(found)


def say(text: str) -> None:
    """What is going on, on stderr: the table alone is on stdout."""
    print(f"==> {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
