"""pip, npm and apt in a real sandbox with the preset of package managers: what they need is found, and nothing else is let out.

Must not name a registry: what the programs ask for is learned from the network record, and from what they say of themselves.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.support import tasks
from tests.support.daemon import Daemon

FETCH = {
    "pip": "pip download --quiet --retries 0 --no-cache-dir --no-deps -d /tmp/p idna",
    "npm": "cd /tmp && npm --fetch-retries 0 pack is-number@7.0.0",
    "apt": "apt-get -o Acquire::Retries=0 -o APT::Update::Error-Mode=any update",
}
THEMSELVES = """
python -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url, "https://" + PyPI.file_storage_domain)'
npm config get registry
apt-get indextargets --format '$(REPO_URI)'
"""
LIMITED = {"access": "limited", "preset": "package-managers"}


def agent(daemon: Daemon, script: str, **network: Any) -> tuple[dict[str, Any], set[str]]:
    """A task that was let run to its end, and the names that it reached."""
    task = tasks.run(daemon, "bash", "-c", script, seconds=200, network={"agent": network})
    records = [event for event in tasks.events(daemon, task["id"]) if event["type"] == "network"]
    return task, {record["name"] for record in records if record["decision"] == "allow"}


@pytest.mark.timeout(700)
@pytest.mark.parametrize("tool", FETCH)
def test_each_reaches_its_registry_by_the_preset(daemon: Daemon, tool: str) -> None:
    free, needed = agent(daemon, FETCH[tool], access="unrestricted")
    if free["exit_code"] != 0:
        pytest.skip(f"no registry of {tool} can be reached from here")
    assert needed
    limited, reached = agent(daemon, FETCH[tool], **LIMITED)
    assert limited["exit_code"] == 0, tasks.output(daemon, limited["id"], stream="stderr")
    assert reached == needed
    barred, reached = agent(daemon, FETCH[tool], access="limited", rules=["up.test"])
    assert barred["exit_code"] != 0
    assert reached == set()


@pytest.mark.timeout(300)
def test_what_they_say_of_themselves_is_allowed_and_what_nobody_configured_is_not(daemon: Daemon) -> None:
    said, _ = agent(daemon, THEMSELVES, access="off")
    assert said["exit_code"] == 0
    places = set(re.findall(r"https?://[^/\s]+", tasks.output(daemon, said["id"]).decode()))
    assert len(places) >= 3
    denied = "denied() { curl -sS -m 20 -o /dev/null -D - $1/ | grep -qi ^x-hutch-denied; }\n"
    asks = "\n".join(f"! denied {place} || {{ echo {place} is denied; exit 9; }}" for place in sorted(places))
    found, _ = agent(daemon, f"{denied}{asks}\ndenied https://www.up.test", **LIMITED)
    assert found["exit_code"] == 0
    barred, _ = agent(daemon, denied + asks, access="limited", rules=["up.test"])
    assert barred["exit_code"] == 9
