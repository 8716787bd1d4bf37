"""Package managers and git through the filter, as a setup script uses them: no proxy variable, only the trust.

Must not name a registry: what they ask for is learned from the network record. A host without one skips loudly.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filter_lab import Lab, lab
from tests.support.tasks import wait_for

# Each fetches something small and fresh, into the working directory.
COMMANDS = {
    "pip": f"PIP_CONFIG_FILE=/dev/null {sys.executable} -m pip download --retries 0 --no-cache-dir --no-deps -d . idna",
    "npm": "npm --fetch-retries 0 --cache ./cache pack is-number@7.0.0",
    "apt": "mkdir -p lists/partial cache/archives/partial && apt-get -o Dir::State::lists=$PWD/lists -o Dir::Cache=$PWD/cache"
    " -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=0 -o APT::Update::Error-Mode=any update",
}


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(sandboxes=1) as laboratory:
        yield laboratory


def fetch(net: Lab, tool: str, directory: Path) -> subprocess.CompletedProcess[str]:
    directory.mkdir()
    return net.run("sh", "-c", f"cd {directory} && {COMMANDS[tool]}", seconds=150)


def names(net: Lab) -> set[str]:
    """What the sandbox was allowed to reach, by the record."""
    net.filter.policy(net.address(), "off")
    return {
        record["name"] for record in net.filter.messages if record.get("decision") == "allow" and not record["reason"]
    }


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tool", COMMANDS)
def test_packages(net: Lab, tool: str, tmp_path: Path) -> None:
    if shutil.which({"pip": "python3", "apt": "apt-get"}.get(tool, tool)) is None:
        pytest.skip(f"{tool} isn't installed")
    (tmp_path / "host").mkdir()
    direct = subprocess.run(
        ["sh", "-c", f"cd {tmp_path}/host && {COMMANDS[tool]}"],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    if direct.returncode:
        pytest.skip(f"this host itself reaches no registry with {tool}: {direct.stderr.strip()[-200:]}")
    net.policy("unrestricted")
    spliced = fetch(net, tool, tmp_path / "unrestricted")
    assert spliced.returncode == 0, spliced.stderr
    needed = wait_for(lambda: names(net), "the records of its connections", 20)  # they come when a connection ends
    assert needed
    net.policy("limited", *needed)
    inspected = fetch(net, tool, tmp_path / "limited")
    assert inspected.returncode == 0, inspected.stderr
    assert names(net) == needed
    methods = {record["method"] for record in net.filter.messages if record.get("decision") == "allow"}
    assert "GET" in methods
    net.policy("limited", "up.test")
    assert fetch(net, tool, tmp_path / "denied").returncode != 0
    assert {record["name"] for record in net.filter.messages if record.get("decision") == "deny"} & needed


@pytest.mark.parametrize("access", ["limited", "unrestricted"])
def test_git(net: Lab, access: str, tmp_path: Path) -> None:
    files = net.directory / "files"
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t.test"]
    shutil.rmtree(files, ignore_errors=True)
    subprocess.run([*git, "init", "-q", tmp_path / "work"], check=True, timeout=20)
    subprocess.run(
        [*git, "commit", "-q", "--allow-empty", "-m", "first"], cwd=tmp_path / "work", check=True, timeout=20
    )
    subprocess.run([*git, "clone", "-q", "--bare", tmp_path / "work", files / "r.git"], check=True, timeout=20)
    subprocess.run([*git, "update-server-info"], cwd=files / "r.git", check=True, timeout=20)
    net.policy(access, "up.test")
    done = net.run("git", "clone", "-q", "https://up.test/files/r.git", str(tmp_path / "clone"))
    assert done.returncode == 0, done.stderr
    assert "first" in net.run("git", "-C", str(tmp_path / "clone"), "log", "--oneline").stdout
    net.policy("limited", "other.test")
    assert net.run("git", "clone", "-q", "https://up.test/files/r.git", str(tmp_path / "second")).returncode != 0
