"""Environments as a user has them: a checkout with a hutch.toml, an environment for its origin, validate, reset."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import repos
from tests.support.daemon import HUTCH, Daemon


def hutch(daemon: Daemon, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[bytes]:
    environ = {**os.environ, "HUTCH_SOCKET": str(daemon.socket)}
    return subprocess.run([HUTCH, *arguments], cwd=cwd, env=environ, capture_output=True, timeout=120, check=False)


@pytest.fixture
def checkout(repo: Path, unique: str) -> Path:
    """The repository with a hutch.toml that isn't committed: the user's own."""
    (repo / "hutch.toml").write_text(
        f"setup = '''\n{unique}echo made >/root/made'''\n[env]\nWHO = 'file'\n[cache]\nlifetime = '1h'\n"
    )
    return repo


def run(daemon: Daemon, *arguments: str, cwd: Path) -> dict[str, Any]:
    done = hutch(daemon, "run", "--json", *arguments, cwd=cwd)
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "said": done.stderr}


def test_a_checkout_needs_no_option(daemon: Daemon, checkout: Path) -> None:
    words = ("--", "sh", "-c", "cat /root/made file.txt; echo $WHO")
    first = run(daemon, *words, cwd=checkout)
    assert b"made\nmain\nfile\n" in first["said"]
    assert not first["cache"]["hit"]
    second = run(daemon, *words, cwd=checkout)
    assert second["cache"]["hit"]
    fresh = run(daemon, "--fresh", *words, cwd=checkout)
    assert fresh["cache"] == {**second["cache"], "hit": False, "reason": "asked to start from nothing"}


def test_a_checkout_without_origin_is_one_of_its_own_environment(daemon: Daemon, repo: Path) -> None:
    words = ("sh", "-c", 'echo "[$WHO]"; ls')
    alone = run(daemon, "--", *words, cwd=repo)
    assert b"[]\n" in alone["said"]
    assert b"runs on this checkout's commits" in alone["said"]
    daemon.client.create_environment("local", {"repo": str(repo), "setup": "", "env": {"WHO": "environment"}})
    try:
        found = run(daemon, "--", *words, cwd=repo)
        assert b"[environment]\nfile.txt\n" in found["said"]
        typed = run(daemon, "--no-env", "--repo", ".", "--no-setup", "--", *words, cwd=repo)
        assert b"[]\nfile.txt\n" in typed["said"]
        assert daemon.client.task(typed["id"])["environment"] is None
        assert hutch(daemon, "run", "--no-env", "--env", "local", "--", "true", cwd=repo).returncode == 2
    finally:
        daemon.client.remove_environment("local")


def test_an_environment_is_found_by_the_origin_and_lies_below_the_file(daemon: Daemon, checkout: Path) -> None:
    repos.git(checkout, "remote", "add", "origin", "https://git.example/team/web.git")
    daemon.client.create_environment(
        "origin", {"repo": "ssh://git@git.example/team/web", "env": {"WHO": "environment", "MORE": "yes"}}
    )
    try:
        words = ("--", "sh", "-c", 'echo "[$WHO $MORE]"')
        found = run(daemon, *words, cwd=checkout)
        assert b"[file yes]" in found["said"]
        assert daemon.client.task(found["id"])["environment"] == "origin"
        typed = run(daemon, "--var", "WHO=typed", *words, cwd=checkout)
        assert b"[typed yes]" in typed["said"]
        assert typed["cache"]["hit"] is False
        assert "variables" in typed["cache"]["reason"]
        snapshots = [one for one in daemon.client.snapshots() if one["environment"] == "origin"]
        assert {one["tasks"] for one in snapshots} == {1}
        assert daemon.client.reset_cache("origin")["snapshots"] == len(snapshots) == 2
        assert run(daemon, *words, cwd=checkout)["cache"]["reason"] == "first run of this environment"
    finally:
        daemon.client.remove_environment("origin")
    assert not [one for one in daemon.client.snapshots() if one["environment"] == "origin"]


def test_validate_sets_up_from_nothing_and_lists_tools(daemon: Daemon, checkout: Path) -> None:
    done = hutch(daemon, "env", "validate", "--json", cwd=checkout)
    found = json.loads(done.stdout)
    assert done.returncode == 0, done.stderr
    assert found["tools"]["python3" if "python3" in found["tools"] else "python"].startswith("Python 3.")
    assert found["tools"]["git"].startswith("git version")
    assert [phase["name"] for phase in found["phases"]][:3] == ["fetch", "checkout", "setup"]
    assert found["snapshot"]["bytes"] > 0
    assert run(daemon, "--", "true", cwd=checkout)["cache"]["hit"]
    failing = hutch(daemon, "env", "validate", "--setup", "echo why; exit 3", cwd=checkout)
    assert failing.returncode == 1
    assert b"why\n" in failing.stderr
    assert b"setup failed with exit code 3" in failing.stderr


def test_without_a_cache_nothing_is_kept(daemon: Daemon, checkout: Path, state: Path) -> None:
    before = len(daemon.client.snapshots()), len(list((state / "layers").iterdir()))
    found = run(daemon, "--cache-lifetime", "off", "--", "cat", "/root/made", cwd=checkout)
    assert (found["state"], found["cache"]["reason"]) == ("succeeded", "the cache is off")
    assert (len(daemon.client.snapshots()), len(list((state / "layers").iterdir()))) == before
