"""What the escape tests share: a daemon with names to reach, the tenant's program as one archive, the table at the end.

Must not judge: attacks tell what they got, tests decide what that means.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import leaks, tasks
from tests.support.daemon import Daemon
from tests.support.upstream import Upstream

INSIDE = Path(__file__).with_name("inside")
CANARY = "HUTCH_ESCAPE_CANARY"
SERVER = "127.88.0.1"
ALLOWED, EVIL = "up.test", "evil.example"
UNPACK = 'cd "$(mktemp -d)" && printf %s "$1" | base64 -d | tar xz --no-same-owner && exec python3 -B run.py "$2"'
NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")

ROWS: dict[str, tuple[str, list[str]]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "holds(what, by): an attack that must fail, and what stops it; a row of the table"
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    marker = item.get_closest_marker("holds")
    if marker is not None and (report.when == "call" or not report.passed):
        what, by = marker.args
        ROWS.setdefault(what, (by, []))[1].append(report.outcome)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not ROWS:
        return
    terminalreporter.section("what a tenant tried")
    width = max(map(len, ROWS))
    for what, (by, outcomes) in ROWS.items():
        result = next((outcome for outcome in ("failed", "skipped") if outcome in outcomes), "held")
        terminalreporter.write_line(f"{what:{width}} | {by} | {'BROKEN' if result == 'failed' else result}")


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Upstream]:
    """Servers on an address of the host's that only the filter can dial; they remember what reached them."""
    with Upstream(tmp_path_factory.mktemp("upstream"), [SERVER]) as servers:
        yield servers


@pytest.fixture(scope="module")
def daemon(state: Path, base_image: str, upstream: Upstream) -> Iterator[Daemon]:
    """A daemon whose filter finds the servers: the permitted name may be private, the others may not."""
    before = leaks.look()
    with tempfile.NamedTemporaryFile("w", prefix="hutch-hosts-") as hosts:
        hosts.write(f"{SERVER} {ALLOWED} x{ALLOWED} {EVIL}\n")
        hosts.flush()
        Path(hosts.name).chmod(0o644)  # the filter reads it, without any privilege
        options = ("--hosts", hosts.name, "--private-name", ALLOWED)
        with Daemon(state, environment={CANARY: "of-the-host"}, options=options) as daemon:
            yield daemon
            log = daemon.log
    left = leaks.settled_difference(before)
    assert not left, "the daemon left behind:\n  " + "\n  ".join(left) + f"\nits log:\n{log}"


def archive() -> str:
    """The tenant's program, for the command line."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for path in sorted(INSIDE.glob("*.py")):
            tar.add(path, path.name)
    return base64.b64encode(packed.getvalue()).decode()


def program(*only: str, **asked: Any) -> tuple[str, ...]:
    """The command that unpacks the tenant's program and runs the attacks named (all, if none is)."""
    return ("sh", "-c", UNPACK, "sh", archive(), encoded({"only": only, "secrets": [], "net": {}} | asked))


def encoded(asked: dict[str, Any]) -> str:
    return base64.b64encode(json.dumps(asked).encode()).decode()


def attack(
    daemon: Daemon, task: str, *only: str, user: tuple[str, ...] = (), **options: Any
) -> dict[str, dict[str, str]]:
    """Run attacks as a command that joins the task; what each of them got."""
    done = tasks.execute(daemon, task, *user, *program(*only, **options.pop("asked", {})), **options)
    assert done.code == 0, done
    found: dict[str, dict[str, str]] = json.loads(done.stdout)
    return found


def breaches(found: dict[str, dict[str, str]], names: tuple[str, ...]) -> list[str]:
    """What these attacks got, one line each; an attack that broke proves nothing, so that is a line too."""
    return [f"{name}: {text}" for name in names for text in found[name].values() if text]


def host_addresses() -> list[str]:
    """Addresses that lead to this host, in its own network."""
    said = subprocess.run(["ip", "-json", "-4", "address"], capture_output=True, check=True, timeout=10).stdout
    return [entry["local"] for link in json.loads(said) for entry in link["addr_info"]]


def elsewhere() -> list[str]:
    """Addresses that no sandbox may reach directly: the host's, metadata, the internet's, synthetic ones of nobody."""
    host = [address for address in host_addresses() if not address.startswith("127.")]
    return [*host, SERVER, "169.254.169.254", "198.18.0.1", "198.18.255.254", "1.1.1.1"]
