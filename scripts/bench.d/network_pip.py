"""The second cold `pip install` of a project against the first, in setups of real tasks that have no snapshot to begin with.

Must not name a registry, nor keep anything: pip's own cache is off, both environments are new, and the artifact cache is empty
before the first.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

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


def measure() -> tuple[list[float], str]:
    """Seconds of the first and of the second one; or none and why not."""
    state = Path(os.environ.get("HUTCH_TEST_STATE", "/var/tmp/hutch-test"))
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Daemon(state) as daemon:
        if daemon.hutch("image", "show", "base").returncode:
            daemon.hutch("image", "build", "base", timeout=BUILD_SECONDS)
        daemon.client.clear_artifacts()
        found: list[float] = []
        for _ in range(2):
            done = _setup(daemon)
            if isinstance(done, str):
                return [], done
            found.append(done)
        daemon.client.gc()
    return found, ""


def _setup(daemon: Daemon) -> float | str:
    """Seconds that pip took in a new environment's setup, or why it failed."""
    script = SETUP.format(requirements=REQUIREMENTS.read_text(), nonce=secrets.token_hex(8))
    task = tasks.run(daemon, "true", setup=script, seconds=SECONDS)
    try:
        if task["state"] != "succeeded":
            why = tasks.output(daemon, task["id"], "setup", "stderr").decode(errors="replace").strip()
            return f"pip install: {why[-300:] or task['error']}"
        return float(tasks.output(daemon, task["id"], "setup").split()[-1]) / 1e9
    finally:
        daemon.client.remove_task(task["id"])
