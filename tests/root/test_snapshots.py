"""Whose snapshots others use, and which are whole: what a task may leave to others, and what is noticed of damage.

Looks into the state directory, and damages it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import repos, tasks, tiny
from tests.support.daemon import Daemon
from tests.support.tasks import sh


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """On a state of its own, with the image `tiny`."""
    directory = tmp_path_factory.mktemp("snapshots")
    with Daemon(directory / "state") as daemon:
        tiny.install(daemon, tiny.archive(directory / "tiny.tar"))
        tasks.run(daemon, "true", image="tiny")  # makes the layer that lies over the image
        yield daemon


@pytest.fixture
def spec() -> dict[str, Any]:
    """A task whose environment was never there before."""
    return {"image": "tiny", "setup": f"# {secrets.token_hex(8)}\necho made >/root/made"}


def snapshots(daemon: Daemon) -> list[str]:
    return [one["id"] for one in daemon.client.snapshots()]


def layers(daemon: Daemon) -> set[str]:
    return {path.name for path in (daemon.state / "layers").iterdir()}


@pytest.fixture
def repo(tmp_path: Path) -> Path:
    """Branches main and feature, and a tag main, which is not the branch."""
    path = repos.make(tmp_path / "project")
    for branch in ("release/1", "feature"):
        repos.git(path, "checkout", "-q", "-b", branch)
        repos.commit(path, {"README": f"{branch}\n"})
    repos.git(path, "tag", "main", "feature")
    repos.git(path, "checkout", "-q", "main", "--")
    return path


def test_an_untrusted_ref_leaves_nothing_to_others(daemon: Daemon, repo: Path, spec: dict[str, Any]) -> None:
    spec |= {"repo": str(repo), "cache": {"trusted_refs": ["main", "release/*"]}}
    before = snapshots(daemon), layers(daemon)
    for ref in ("feature", "refs/tags/main", repos.git(repo, "rev-parse", "refs/heads/main")):
        done = tasks.run(daemon, *sh("cat /root/made README"), **spec, ref=ref)
        assert tasks.output(daemon, done["id"]).startswith(b"made\n")
        reason = f"first run of this environment; the ref {ref!r} is not trusted to write the cache: built for this task alone"
        assert (done["cache"]["hit"], done["cache"]["reason"]) == (False, reason)
        assert reason in tasks.notices(daemon, done["id"])
        assert (snapshots(daemon), layers(daemon)) == before
    assert not tasks.run(daemon, "true", **spec, ref="release/1")["cache"]["hit"]
    made = snapshots(daemon)
    found = tasks.run(daemon, "cat", "README", **spec, ref="feature")
    assert (found["cache"]["hit"], tasks.output(daemon, found["id"])) == (True, b"feature\n")
    fresh = tasks.run(daemon, "true", **spec, ref="feature", fresh=True)["cache"]
    assert (fresh["hit"], fresh["reason"].partition(";")[0]) == (False, "asked to start from nothing")
    assert snapshots(daemon) == made, "what others find is not replaced either"


def test_what_is_built_for_one_task_is_found_by_no_other(daemon: Daemon, spec: dict[str, Any]) -> None:
    with tasks.running(daemon, **spec, cache={"enabled": False}) as first:
        assert daemon.client.task(first)["cache"]["reason"] == "the cache is off"  # type: ignore[index]
        daemon.client.gc()
        assert tasks.execute(daemon, first, "cat", "/root/made").text == "made", "nor is it garbage"
        assert not tasks.run(daemon, "true", **spec)["cache"]["hit"]
    assert tasks.run(daemon, "true", **spec)["cache"]["hit"]
