"""Language runtimes: versions side by side on one image, built once, the same for everybody, free from then on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import ApiError
from tests.support import tasks
from tests.support.daemon import Daemon
from tests.support.tasks import sh

BOTH = {"node": "22", "python": "3.11"}
SECONDS = 300.0


def built(task: dict[str, Any]) -> list[str]:
    return [name for name in tasks.phases(task) if name.startswith("runtime")]


@pytest.fixture
def clean(daemon: Daemon) -> None:
    """No layer of a runtime is there yet."""
    for one in daemon.client.snapshots():
        if one["runtime"]:
            daemon.client.remove_snapshot(one["id"])


@pytest.mark.timeout(SECONDS)
@pytest.mark.usefixtures("clean")
def test_two_that_ask_at_once_build_each_once_and_find_them_first(daemon: Daemon) -> None:
    command = sh(
        'node --version; python --version; python -c "import ssl, sqlite3, lzma, ctypes"; pip --version; npm --version'
    )
    pair = [tasks.submit(daemon, *command, runtimes=BOTH, setup="") for _ in range(2)]
    done = [tasks.finish(daemon, task, SECONDS) for task in pair]
    assert sorted(name for task in done for name in built(task)) == ["runtime node 22", "runtime python 3.11"]
    for task in done:
        assert task["state"] == "succeeded", task["error"]
        said = tasks.output(daemon, task["id"]).decode().splitlines()
        assert said[0].startswith("v22.")
        assert said[1].startswith("Python 3.11.")
        assert "/opt/hutch/python-3.11/" in said[2]
    shown = {one["name"]: one["built"] for one in daemon.client.runtimes()}
    assert (shown["node"], shown["python"], shown["java"]) == (["22"], ["3.11"], [])
    assert sorted(one["runtime"] for one in daemon.client.snapshots() if one["runtime"]) == ["node 22", "python 3.11"]


@pytest.mark.timeout(SECONDS)
def test_setup_has_them_and_another_version_is_another_environment(daemon: Daemon, unique: str) -> None:
    spec: dict[str, Any] = {
        "setup": f"{unique}npm install --silent --global is-number@7; node --version >/root/version"
    }
    look = sh("cat /root/version; ls $(dirname $(command -v node))/../lib/node_modules; node --version")
    first = tasks.run(daemon, *look, seconds=SECONDS, runtimes={"node": "22"}, **spec)
    again = tasks.run(
        daemon, *look, seconds=SECONDS, env={"CODEX_ENV_NODE_VERSION": "22"}, runtimes={"node": "22"}, **spec
    )
    version, *modules, same = tasks.output(daemon, first["id"]).decode().split()
    assert (modules, same) == (["corepack", "is-number", "npm"], version)
    assert again["cache"]["reason"].endswith("variables")
    other = tasks.run(daemon, *look, seconds=SECONDS, **spec)
    assert "runtimes" in other["cache"]["reason"]
    assert tasks.run(daemon, *look, seconds=SECONDS, runtimes={"node": "22"}, **spec)["cache"]["hit"]
    assert built(first) in ([], ["runtime node 22"])
    assert built(again) == built(other) == []


@pytest.mark.timeout(SECONDS)
@pytest.mark.usefixtures("clean")
def test_nothing_of_a_task_gets_into_what_others_share(daemon: Daemon) -> None:
    """A variable could lead npm to another registry, and who joins could change any file."""
    where = {"for": ["api.example"], "header": None, "places": ["header"], "phases": None}
    daemon.client.set_secret("OF_THE_TASK", "0123456789abcdef", where)
    env = {"NPM_CONFIG_REGISTRY": "http://127.0.0.1:1/", "NODE_OPTIONS": "--require /nowhere.js", "MARK": "of the task"}
    task = tasks.submit(daemon, "true", runtimes={"node": "22"}, env=env, secrets=["OF_THE_TASK"], setup="")
    tasks.wait_for(lambda: "runtime node 22" in [one.get("phase") for one in tasks.events(daemon, task)], "the build")
    with pytest.raises(ApiError, match="no running phase to join"), daemon.client.exec(task, ["true"]) as stream:
        list(stream)
    daemon.client.rotate_secret("OF_THE_TASK", "fedcba9876543210")  # which gives the phase that runs another policy
    done = tasks.finish(daemon, task, SECONDS)
    daemon.client.remove_secret("OF_THE_TASK")
    assert done["state"] == "succeeded", done["error"]


def test_a_build_that_fails_leaves_nothing(daemon: Daemon, state: Path) -> None:
    before = sorted(path.name for path in (state / "layers").iterdir())
    task = tasks.run(daemon, "true", runtimes={"node": "22.99.99"}, setup="")
    assert (task["state"], tasks.phases(task)) == ("failed", ["runtime node 22.99.99"])
    assert "runtime node 22.99.99 failed with exit code 1" in task["error"]["message"]
    assert b"22.99.99" in tasks.output(daemon, task["id"], "runtime node 22.99.99", "stderr"), "npm says why"
    assert sorted(path.name for path in (state / "layers").iterdir()) == before
    assert not (state / "tasks" / task["id"] / "runtime").exists()


@pytest.mark.parametrize(
    "settings",
    [
        {"runtimes": {"node": "23"}},
        {"env": {"CODEX_ENV_NODE_VERSION": "23"}},
        {"runtimes": {"cobol": "1"}},
        {"runtimes": {"node": 22}},
    ],
)
def test_what_can_not_be_had_is_refused_at_once(daemon: Daemon, settings: dict[str, Any]) -> None:
    with pytest.raises(ApiError, match=r"use one of|valid string"):
        tasks.submit(daemon, "true", **settings)


@pytest.mark.timeout(SECONDS)
def test_an_image_is_verified(daemon: Daemon) -> None:
    done = daemon.hutch("image", "verify", "base", "--runtime", "node=22", "--json", timeout=SECONDS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tools"]["git"].startswith("git version")
    assert [(one["name"], one["version"], one["state"]) for one in found["runtimes"]] == [("node", "22", "succeeded")]
    assert found["runtimes"][0]["says"].startswith("v22.")
    failed = daemon.hutch("image", "verify", "base", "--runtime", "node=22.99.99", timeout=SECONDS)
    assert failed.returncode == 1
    assert b"failed" in failed.stdout
