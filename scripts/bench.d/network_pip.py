"""The second cold `pip install` of a project against the first, in setups of real tasks that have no snapshot to begin with.

Must not name a registry, nor keep anything: pip's own cache is off, both environments are new, and the artifact cache is empty
before the first. Where the index is next door there is little to win: it is measured as it is, and as if it were far away.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from contextlib import suppress
from pathlib import Path

from network_far import away

from sandbox.client import HutchError
from tests.support import tasks
from tests.support.daemon import Daemon

REQUIREMENTS = Path(__file__).with_name("network_requirements.txt")
SECONDS = 600.0
BUILD_SECONDS = 1200.0
SETUP = """
python3 -m venv /opt/venv
cat >/tmp/requirements.txt <<'EOF'
{requirements}EOF
began=$(date +%s%N)
/opt/venv/bin/pip install --quiet --no-cache-dir --disable-pip-version-check --requirement /tmp/requirements.txt
echo "took $(($(date +%s%N) - began))"
# {nonce}
"""

Pair = tuple[float, float]


class NoIndex(Exception):
    """The packages can't be installed. The text says why."""


def measure() -> tuple[Pair, Pair]:
    """Seconds of the first and the second one: with the index where it is, and with it far away; raises NoIndex."""
    state = Path(os.environ.get("HUTCH_TEST_STATE", "/var/tmp/hutch-test"))
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    names: set[tuple[str, int]] = set()
    near = _two(state, names)
    with away(names) as text, tempfile.TemporaryDirectory(prefix="hutch-bench-") as directory:
        hosts = Path(directory) / "hosts"
        hosts.write_text(text)
        hosts.parent.chmod(0o755)  # the filter is a stranger here
        # The relays are on this host, which no name may lead to but by leave.
        leave = [text for name in sorted({name for name, _ in names}) for text in ("--private-name", name)]
        return near, _two(state, names, "--hosts", str(hosts), *leave)


def _two(state: Path, names: set[tuple[str, int]], *options: str) -> Pair:
    """Two setups after each other by a daemon with these options; adds to `names` whom they asked."""
    with Daemon(state, options=options) as daemon:
        if daemon.hutch("image", "show", "base").returncode:
            daemon.hutch("image", "build", "base", timeout=BUILD_SECONDS)
        tasks.wait_for(lambda: _cleared(daemon), "the artifact cache")
        times = _setup(daemon, names), _setup(daemon, names)
        daemon.client.gc()
    return times


def _cleared(daemon: Daemon) -> bool:
    with suppress(HutchError):  # it may not run yet
        daemon.client.clear_artifacts()
        return True
    return False


def _setup(daemon: Daemon, names: set[tuple[str, int]]) -> float:
    """Seconds that pip took in a new environment's setup."""
    script = SETUP.format(requirements=REQUIREMENTS.read_text(), nonce=secrets.token_hex(8))
    task = tasks.run(daemon, "true", setup=script, seconds=SECONDS)
    try:
        if task["state"] != "succeeded":
            why = tasks.output(daemon, task["id"], "setup", "stderr").decode(errors="replace").strip()
            raise NoIndex(f"pip install: {why[-300:] or task['error']}")
        records = [event for event in tasks.events(daemon, task["id"]) if event["type"] == "network"]
        names.update((record["name"], record["port"]) for record in records if record["decision"] == "allow")
        return float(tasks.output(daemon, task["id"], "setup").split()[-1]) / 1e9
    finally:
        with suppress(HutchError):
            daemon.client.remove_task(task["id"])
