"""The artifact cache behind the whole filter: what sandboxes fetch from a registry comes from it, and nothing else does.

Must not name a registry: what the package managers ask for is learned from the network record.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.host.filter import Filter, FilterConfig
from tests.support.filter_lab import UID, Lab, lab
from tests.support.tasks import wait_for

BODY = os.urandom(3_000_000)
# Each fetches something small into the working directory, as a machine that has never seen it would.
TOOLS = {
    "pip": f"PIP_CONFIG_FILE=/dev/null {sys.executable} -m pip download --retries 0 --no-cache-dir --no-deps -d got idna",
    "npm": "mkdir got && cd got && npm --fetch-retries 0 --cache ../cache pack is-number@7.0.0",
    "apt": "mkdir -p got/partial cache/archives/partial && apt-get -o Dir::State::lists=$PWD/got -o Dir::Cache=$PWD/cache"
    " -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=0 -o APT::Update::Error-Mode=any update",
}


@pytest.fixture
def net() -> Iterator[Lab]:
    """Of each test's own: the cache keeps connections to its registry, which is a thread of the test, and is killed."""
    with lab(sandboxes=2) as laboratory:
        (laboratory.directory / "files").mkdir(exist_ok=True)
        (laboratory.directory / "files" / "x-1.0.whl").write_bytes(BODY)
        wait_for(lambda: bool(laboratory.filter.caches()), "the cache, without which registries are asked directly")
        yield laboratory


def stored(net: Lab) -> dict[str, Any]:
    return net.filter.call(net.filter.host.artifacts())


def registry(net: Lab, access: str = "limited", **more: Any) -> None:
    """A fresh policy for both sandboxes under which up.test is a registry."""
    for sandbox in (0, 1):
        net.policy(access, preset="package-managers", registries=["up.test"], sandbox=sandbox, **more)


def fetch(net: Lab, *arguments: str, sandbox: int = 0) -> tuple[str, bytes]:
    """How the cache answered, and the body."""
    out = net.directory / f"out-{sandbox}"
    done = net.curl("-o", str(out), "-w", "%header{x-hutch-cache}", *arguments, sandbox=sandbox)
    assert done.returncode == 0, done.stderr
    return done.stdout, out.read_bytes() if out.exists() else b""


@pytest.mark.parametrize(("scheme", "version"), [("http", "--http1.1"), ("https", "--http1.1"), ("https", "--http2")])
def test_two_sandboxes_one_download(net: Lab, scheme: str, version: str) -> None:
    registry(net)
    url = f"{scheme}://up.test/files/x-1.0.whl"
    assert fetch(net, version, url) == ("miss", BODY)
    wait_for(lambda: stored(net)["entries"] == 1, "it to be stored", 10)
    assert fetch(net, version, url, sandbox=1) == ("hit", BODY)
    assert fetch(net, version, "-r", "100-199", url, sandbox=1) == ("hit", BODY[100:200])
    assert len(net.upstream.seen) == 1
    net.policy("off", sandbox=1)
    assert net.curl("-f", url, sandbox=1).returncode != 0


@pytest.mark.parametrize(
    "extra",
    [("-H", "Authorization: Bearer x"), ("-H", "Cookie: a=b"), ("-H", "X-Api-Key: k"), ("-u", "user:password")],
    ids=lambda extra: extra[1],
)
def test_who_shows_a_credential_is_not_served_from_it(net: Lab, extra: tuple[str, ...]) -> None:
    registry(net)
    url = "https://up.test/files/x-1.0.whl"
    assert fetch(net, *extra, url) == ("", BODY)
    assert stored(net)["entries"] == 0
    assert fetch(net, url) == ("miss", BODY)
    assert fetch(net, *extra, url) == ("", BODY)
    assert len(net.upstream.seen) == 3


def test_only_registries_are_fetched_through_it(net: Lab) -> None:
    registry(net, rules=())
    net.policy("limited", "other.test", preset="package-managers", registries=["up.test"])
    assert fetch(net, "https://other.test/files/x-1.0.whl") == ("", BODY)
    assert stored(net)["entries"] == 0


def test_what_is_denied_is_not_served_from_it(net: Lab) -> None:
    registry(net)
    url = "https://up.test/files/x-1.0.whl"
    assert fetch(net, url)[0] == "miss"
    net.policy("limited", "deny https://up.test/files/", preset="package-managers", registries=["up.test"], sandbox=1)
    done = net.curl("-i", url, sandbox=1)
    assert "403" in done.stdout.splitlines()[0], done.stdout
    net.policy("limited", "other.test", sandbox=1)
    assert net.curl("-f", url, sandbox=1).returncode != 0


def test_a_registry_at_a_private_address_is_refused(net: Lab) -> None:
    net.policy("limited", preset="package-managers", registries=["loop.test"])
    done = net.curl("-i", "https://loop.test/files/x-1.0.whl")
    assert "403" in done.stdout.splitlines()[0], done.stdout
    assert "x-hutch-denied: loop.test must not be reached: it resolves to 127.0.0.1 (loopback)" in done.stdout
    assert net.filter.record(name="loop.test")["decision"] == "deny"
    assert stored(net)["entries"] == 0


def test_it_is_killed_and_comes_back(net: Lab) -> None:
    registry(net)
    url = "https://up.test/files/x-1.0.whl"
    assert fetch(net, url)[0] == "miss"
    wait_for(lambda: stored(net)["entries"] == 1, "it to be stored", 10)
    for _ in range(3):
        [former] = net.filter.host.pids("artifacts")
        os.kill(former, signal.SIGKILL)
        wait_for(lambda former=former: net.filter.host.pids("artifacts") not in ([], [former]), "another one", 10)
        assert fetch(net, url) == ("hit", BODY)
        time.sleep(0.1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("tool", TOOLS)
def test_package_managers_get_the_same_twice(net: Lab, tool: str, tmp_path: Path) -> None:
    if shutil.which({"pip": "python3", "apt": "apt-get"}.get(tool, tool)) is None:
        pytest.skip(f"{tool} isn't installed")

    def run(directory: str, sandbox: int = 0) -> dict[str, str]:
        place = tmp_path / directory
        place.mkdir()
        done = net.run("sh", "-c", f"cd {place} && {TOOLS[tool]}", sandbox=sandbox, seconds=150)
        assert done.returncode == 0, done.stdout + done.stderr
        files = (path for path in (place / "got").rglob("*") if path.is_file() and path.name != "lock")
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    net.policy("unrestricted")
    try:
        run("host")
    except AssertionError as error:
        pytest.skip(f"no registry is reached with {tool}: {str(error)[-200:]}")
    net.filter.drop(net.address())  # after which all its records have come
    names = sorted({record["name"] for record in net.filter.messages if record["decision"] == "allow"})
    for sandbox in (0, 1):
        net.policy("limited", preset="package-managers", registries=names, sandbox=sandbox)
    first = run("first")
    assert first
    wait_for(lambda: stored(net)["entries"] > 0, "something to be stored", 10)
    assert run("second", sandbox=1) == first


def test_a_former_ones_files_are_taken_over_and_nothing_that_they_lead_to(tmp_path: Path) -> None:
    """Another filter's user had the directory before, and may have been taken over."""
    (outside := tmp_path / "outside").write_text("the host's")
    (directory := tmp_path / "artifacts").mkdir()
    (directory / "kept").touch()
    (directory / "link").symlink_to(outside)
    (directory / "other-name").hardlink_to(outside)
    os.mkfifo(directory / "pipe")

    async def start() -> None:
        tcp, dns = socket.socketpair()
        with tcp, dns:
            await Filter(FilterConfig("", UID, artifacts=directory), tcp, dns).close()

    asyncio.run(start())
    assert outside.stat().st_uid == 0
    owners = {path.name: path.lstat().st_uid for path in directory.iterdir()}
    assert owners == {"kept": UID, "link": 0, "other-name": 0, "pipe": 0}
