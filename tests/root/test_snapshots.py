"""Whose snapshots others use, and which are whole: what a task may leave to others, and what is noticed of damage.

Looks into the state directory, and damages it.
"""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import repos, tasks, tiny
from tests.support.daemon import Daemon
from tests.support.faults import RUNTIME
from tests.support.tasks import sh


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """On a state of its own, with the image `tiny` and the runtime `word`."""
    directory = tmp_path_factory.mktemp("snapshots")
    (own := directory / "runtimes").mkdir()
    (own / "word.toml").write_text(RUNTIME)
    with Daemon(directory / "state", environment={"HUTCH_RUNTIMES": str(own)}) as daemon:
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
        assert daemon.client.task(first)["cache"]["reason"] == "the cache is off"
        daemon.client.gc()
        assert tasks.execute(daemon, first, "cat", "/root/made").text == "made", "nor is it garbage"
        assert not tasks.run(daemon, "true", **spec)["cache"]["hit"]
    assert tasks.run(daemon, "true", **spec)["cache"]["hit"]


SETUP = "mkdir -p '/root/a\nb' /root/empty; rm /etc/group; for n in 1 2 3; do echo $n >\"/root/a\nb/$n \"; done; ln -s 1 /root/l"
DAMAGE = {
    "whole": lambda _: None,
    "deleted": lambda file: file.unlink(),
    "cut": lambda file: file.write_bytes(b""),
    "a link": lambda file: (file.unlink(), file.symlink_to("3 ")),
    "new": lambda file: file.with_name("new").write_bytes(b""),
}


def layer(daemon: Daemon, task: dict[str, Any]) -> Path:
    """The layer of the snapshot that a task has found or made."""
    found = next(one["id"] for one in daemon.client.snapshots() if one["key"] == task["cache"]["key"])
    return next((daemon.state / "layers").glob(f"{found}*"))


def test_damaged_files_are_noticed_after_a_start(daemon: Daemon) -> None:
    def spec(kind: str) -> dict[str, Any]:
        return {"image": "tiny", "setup": f"# damage: {kind}\n{SETUP}", "runtimes": {"word": "1.1"}}

    for kind, damage in DAMAGE.items():
        made = layer(daemon, tasks.run(daemon, "true", **spec(kind)))
        damage(made / "root" / "a\nb" / "2 ")
    daemon.restart()
    for kind in DAMAGE:
        found = tasks.run(daemon, *sh("cat /root/a*/* && test ! -e /etc/group"), **spec(kind))
        assert tasks.output(daemon, found["id"]) == b"1\n2\n3\n", kind
        assert found["cache"]["hit"] == (kind == "whole"), (kind, found["cache"])
        assert kind == "whole" or found["cache"]["reason"] == "the files of its snapshot are damaged"
        assert tasks.run(daemon, "true", **spec(kind))["cache"]["hit"], kind
    assert daemon.log.count("are damaged: it is dropped") == len(DAMAGE) - 1
    daemon.stop()
    runtime = next((daemon.state / "layers").glob("*/opt/hutch/word-*/version"))
    runtime.write_text("")
    daemon.start()
    found = tasks.run(daemon, *sh("cat /opt/hutch/word-*/version"), **spec("whole"))
    assert (found["cache"]["hit"], tasks.output(daemon, found["id"])) == (True, b"1.1\n")
    assert "runtime word 1.1: the files of its snapshot are damaged; it is built again" in tasks.notices(
        daemon, found["id"]
    )


def test_a_copy_of_the_state_is_whole(daemon: Daemon, spec: dict[str, Any], tmp_path: Path) -> None:
    spec["setup"] += f"\n{SETUP}"
    tasks.run(daemon, "true", **spec)
    daemon.stop()
    subprocess.run(["cp", "-a", str(daemon.state), str(tmp_path / "copy")], check=True, timeout=60)
    with Daemon(tmp_path / "copy", environment=daemon.environment) as other:
        assert tasks.run(other, "true", **spec)["cache"]["hit"]
        assert "damaged" not in other.log
        layer(other, tasks.run(other, "true", **spec)).rename(tmp_path / "gone")
        assert tasks.run(other, "true", **spec)["cache"]["reason"] == "the files of its snapshot are gone"
    daemon.start()
