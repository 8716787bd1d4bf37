"""The main job on a real project: a source distribution of the package index, made into a repository.

Its dependencies are installed by setup through the filter, its own tests run with the network off, its diff is applied to a
checkout. Must not name a registry: what the programs inside ask for is learned from the network record.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support import repos, tasks
from tests.support.daemon import Daemon

PROJECT = "itsdangerous==2.2.0"
NAME = PROJECT.partition("=")[0]

SETUP = """
env | grep -i proxy && exit 9
python3 -m venv /opt/venv
/opt/venv/bin/pip install --quiet --disable-pip-version-check pytest freezegun
/opt/venv/bin/pip install --quiet --disable-pip-version-check --editable .
echo 'export PATH=/opt/venv/bin:$PATH' >>~/.bashrc
"""
CHANGES = """
echo '# edited' >>src/itsdangerous/encoding.py
sed -i '1,3d' README.md
rm CHANGES.rst
rm -r docs/_static
chmod +x tox.ini
ln -s src/itsdangerous/encoding.py link
ln -s /etc/passwd outside
mkdir -p 'a space/deep'
printf 'no newline' >'a space/deep/h\u00e9llo.txt'
printf '\\0\\1\\2\\377' >binary
mv LICENSE.txt LICENSE
rm -r requirements
echo 'a file now' >requirements
rm tests/test_itsdangerous/__init__.py
mkdir tests/test_itsdangerous/__init__.py
echo x >tests/test_itsdangerous/__init__.py/x
"""
AGENT = f"""
set -e
pytest -q -p no:cacheprovider
pip download --quiet --retries 0 --timeout 5 --no-deps -d /tmp/x six && exit 9
curl --silent --fail --max-time 5 http://198.51.100.1/ && exit 9
{CHANGES}
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's source distribution as a repository with one commit."""
    directory = tmp_path_factory.mktemp("sdist")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command = [*pip, "--no-binary", NAME, "-d", str(directory), PROJECT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    if done.returncode:
        pytest.skip(f"no package index can be reached from here: {done.stderr.strip()[-300:]}")
    [archive] = directory.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(directory, filter="data")
    [path] = (child for child in directory.glob("*") if child.is_dir())
    (path / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    repos.git(path, "init", "-q")
    repos.commit(path, {}, "import")
    return path


@pytest.fixture(scope="module")
def setup() -> str:
    return f"# {secrets.token_hex(8)}{SETUP}"


@pytest.fixture(scope="module")
def first(daemon: Daemon, project: Path, setup: str) -> dict[str, Any]:
    """What `hutch run --json` said, and its stderr and seconds."""
    return run(daemon, project, setup, "bash", "-c", AGENT)


def run(daemon: Daemon, project: Path, setup: str, *command: str) -> dict[str, Any]:
    began = time.monotonic()
    done = daemon.hutch("run", "--json", "--repo", str(project), "--setup", setup, "--", *command, timeout=280)
    assert done.stdout.count(b"\n") >= 1, done.stderr.decode(errors="replace")
    found: dict[str, Any] = json.loads(done.stdout)
    return {**found, "returncode": done.returncode, "stderr": done.stderr.decode(), "took": time.monotonic() - began}


@pytest.mark.timeout(400)
def test_its_own_tests_ran_with_the_network_off(first: dict[str, Any]) -> None:
    assert (first["state"], first["exit_code"], first["returncode"]) == ("succeeded", 0, 0), first["stderr"]
    assert " passed" in first["stderr"]
    assert [phase["name"] for phase in first["phases"]] == ["fetch", "checkout", "setup", "checkout", "agent", "result"]


def test_the_answer_has_the_promised_shape(first: dict[str, Any], project: Path) -> None:
    assert first["commit"] == repos.git(project, "rev-parse", "HEAD")
    assert set(first["cache"]) == {"hit", "key", "reason"}
    assert (first["cache"]["hit"], first["cache"]["reason"]) == (False, "first run of this environment")
    assert len(first["cache"]["key"]) == 64
    for phase in first["phases"]:
        assert set(phase) == {"name", "seconds", "exit_code"}
        assert phase["exit_code"] == 0
        assert phase["seconds"] >= 0
    assert set(first["diff"]) == {"files", "insertions", "deletions"}
    assert set(first["network"]) == {"allowed", "denied"}


def test_the_network_record_tells_what_was_reached_and_refused(first: dict[str, Any], daemon: Daemon) -> None:
    records = [event for event in tasks.events(daemon, first["id"]) if event["type"] == "network"]
    allowed = {(record["phase"], record["name"]) for record in records if record["decision"] == "allow"}
    denied = {(record["phase"], record["name"]) for record in records if record["decision"] == "deny"}
    assert {phase for phase, _ in allowed} == {"setup"}
    assert {phase for phase, _ in denied} == {"agent"}
    index = {name for _, name in allowed} & {name for _, name in denied}
    assert index, "the agent asked for what setup had reached, in vain"
    assert first["network"]["allowed"] == sum(record["decision"] == "allow" for record in records) > 0
    assert index <= {entry["name"] for entry in first["network"]["denied"]}
    for entry in first["network"]["denied"]:
        assert entry["count"] > 0
        assert entry["rule"] or entry["reason"]
    assert "198.51.100.1" in {entry["name"] for entry in first["network"]["denied"]}


def test_its_diff_makes_the_same_tree_of_a_checkout(
    first: dict[str, Any], daemon: Daemon, project: Path, tmp_path: Path
) -> None:
    patch = daemon.hutch("task", "diff", first["id"])
    assert patch.returncode == 0
    trees = []
    for name in ("patched", "changed"):
        repos.git(tmp_path, "clone", "-q", str(project), name)
        if name == "patched":
            repos.git(tmp_path / name, "apply", "--index", "-", stdin=patch.stdout)
        else:
            subprocess.run(["bash", "-ec", CHANGES], cwd=tmp_path / name, check=True, timeout=60)
            repos.git(tmp_path / name, "add", "-A")
        trees.append(repos.git(tmp_path / name, "write-tree"))
    changed = repos.git(tmp_path / "changed", "diff", "--cached", "--no-renames", "--numstat").splitlines()
    assert trees[0] == trees[1], repos.git(tmp_path / "patched", "diff", trees[1])
    assert (tmp_path / "patched" / "tox.ini").stat().st_mode & 0o111
    assert (tmp_path / "patched" / "outside").readlink() == Path("/etc/passwd")
    counts = [line.split("\t") for line in changed]
    insertions, deletions = (sum(int(line[column]) for line in counts if line[column] != "-") for column in (0, 1))
    assert first["diff"] == {"files": len(changed), "insertions": insertions, "deletions": deletions}


@pytest.mark.timeout(300)
def test_the_second_run_hits_the_cache_and_takes_seconds(
    first: dict[str, Any], daemon: Daemon, project: Path, setup: str
) -> None:
    second = run(daemon, project, setup, "pytest", "-q", "-p", "no:cacheprovider")
    assert (second["state"], second["cache"]["hit"]) == ("succeeded", True), second["stderr"]
    assert second["cache"]["key"] == first["cache"]["key"]
    assert [phase["name"] for phase in second["phases"]] == ["fetch", "agent", "result"]
    assert second["diff"] == {"files": 0, "insertions": 0, "deletions": 0}
    seconds = {phase["name"]: phase["seconds"] for phase in second["phases"]}
    assert second["took"] - seconds["agent"] < 10, seconds
    assert second["took"] < first["took"]


@pytest.mark.timeout(300)
def test_a_failing_test_suite_is_the_exit_code(
    first: dict[str, Any], daemon: Daemon, project: Path, setup: str
) -> None:
    third = run(
        daemon, project, setup, "sh", "-c", "echo 'def test_x(): assert 0' >tests/test_x.py; pytest -q tests/test_x.py"
    )
    assert (third["state"], third["exit_code"], third["returncode"]) == ("failed", 1, 1)
    assert third["diff"]["files"] == 1, "what a failed command did is kept"


PACKAGES = """
env | grep -i proxy && exit 9
apt-get update -qq
apt-get install -qq -y --no-install-recommends hello >/dev/null
mkdir -p /opt/node && cd /opt/node && npm install --no-audit --no-fund --silent is-number@7.0.0
"""


@pytest.mark.timeout(400)
def test_apt_and_npm_in_setup(daemon: Daemon) -> None:
    setup = f"# {secrets.token_hex(8)}{PACKAGES}"
    command = ("sh", "-c", "hello -t; node -e 'console.log(require(\"/opt/node/node_modules/is-number\")(42))'")
    done = tasks.run(daemon, *command, setup=setup, seconds=300)
    log = tasks.output(daemon, done["id"], "setup", "stderr").decode()
    assert done["state"] == "succeeded", (done["error"], log)
    assert tasks.output(daemon, done["id"]) == b"hello, world\ntrue\n"
