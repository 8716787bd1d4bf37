"""What tasks may reach, on a stand-in for the internet: set for each phase, changed while the agent runs, told and explained.

Real daemons, sandboxes and curl. Must not test how the filter decides (tests/root does): here it is who is told what, and when.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.client import ApiError
from tests.support import leaks, tasks
from tests.support.daemon import Daemon
from tests.support.internet import Internet, internet
from tests.support.tasks import sh

CEILING = """
deny = ["new.up.test"]
agent_access = "limited"
"""
CURL = ("curl", "--silent", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{http_code}")
# Its connection stays open for as long as it may: it takes in a day what it asks for.
ENDLESS = "curl --silent --limit-rate 100k -o /dev/null https://up.test/bytes/9000000000; echo ended $?"


@pytest.fixture(scope="module")
def servers() -> Iterator[Internet]:
    with internet() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(
    state: Path, base_image: str, servers: Internet, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Daemon]:
    """A daemon with a ceiling, to which the stand-in is the internet."""
    ceiling = tmp_path_factory.mktemp("ceiling") / "ceiling.toml"
    ceiling.write_text(CEILING)
    before = leaks.look()
    with Daemon(state, servers.environment, (*servers.options, "--ceiling", str(ceiling))) as daemon:
        yield daemon
    left = leaks.settled_difference(before)
    assert not left, "the daemon left behind:\n  " + "\n  ".join(left)


@pytest.fixture
def task(daemon: Daemon) -> Iterator[str]:
    """A task whose agent runs and may reach up.test."""
    with tasks.running(daemon, network={"agent": {"rules": ["up.test"]}}) as found:
        yield found


def status(daemon: Daemon, task: str, url: str, *options: str) -> str:
    """The HTTP status that curl gets for a URL; 403 where it is refused."""
    return tasks.execute(daemon, task, *CURL, *options, url).text


def hutch(daemon: Daemon, *words: str) -> str:
    done = daemon.hutch(*words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def records(daemon: Daemon, task: str, *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in hutch(daemon, "net", "log", "--json", *options, task).splitlines()]


def refused(daemon: Daemon, *command: str, **spec: Any) -> str:
    with pytest.raises(ApiError) as caught:
        tasks.submit(daemon, *command, **spec)
    assert caught.value.status == 400
    return caught.value.message


def test_a_rule_lets_through_what_it_says_and_nothing_else(daemon: Daemon, task: str) -> None:
    assert status(daemon, task, "https://up.test/") == "200"
    assert status(daemon, task, "https://www.up.test/") == "200"
    assert status(daemon, task, "https://other.test/") == "403"


def test_what_is_allowed_now_is_let_through_at_once(daemon: Daemon, task: str) -> None:
    assert status(daemon, task, "https://other.test/") == "403"
    began = time.monotonic()
    change = daemon.client.add_rules(task, ["other.test"])
    took = time.monotonic() - began
    assert change["in_force"]
    assert change["agent"]["rules"] == ["up.test", "other.test"]
    assert status(daemon, task, "https://other.test/") == "200"
    assert took < 0.1, "in force within 100 ms"


def test_what_is_denied_now_is_closed_at_once(daemon: Daemon) -> None:
    with tasks.running(daemon, f"({ENDLESS}) &\nsleep 1", network={"agent": {"rules": ["up.test"]}}) as task:
        assert b"ended" not in tasks.output(daemon, task)
        hutch(daemon, "net", "deny", task, "up.test")
        tasks.wait_for(lambda: re.search(rb"ended [1-9]", tasks.output(daemon, task)), "the end of curl", 5)
        assert status(daemon, task, "https://up.test/") == "403"
        hutch(daemon, "net", "allow", task, "up.test")
        assert status(daemon, task, "https://up.test/") == "200"


def test_methods_are_restricted_and_refusals_explain_themselves(daemon: Daemon, task: str) -> None:
    hutch(daemon, "net", "set", task, "--methods", "GET,HEAD")
    assert status(daemon, task, "https://up.test/") == "200"
    sent = ("curl", "--silent", "--include", "--max-time", "20", "--data", "x", "https://up.test/")
    answer = tasks.execute(daemon, task, *sent).text
    explained = daemon.client.explain(task, "https://up.test/", method="POST")
    assert not explained["allowed"]
    assert " 403 " in answer.splitlines()[0]
    assert f"x-hutch-denied: {explained['reason']}" in answer
    assert explained["rule"] == "up.test methods=POST"
    hutch(daemon, "net", "allow", task, explained["rule"])
    assert status(daemon, task, "https://up.test/", "--data", "x") == "200"
    [denied] = [one for one in records(daemon, task, "--denied") if one["method"] == "POST"]
    assert (denied["rule"], denied["reason"]) == (explained["rule"], explained["reason"])


def test_access_goes_off_and_on(daemon: Daemon, task: str) -> None:
    hutch(daemon, "net", "set", task, "--access", "off")
    assert status(daemon, task, "https://up.test/") == "403"
    assert "access was off and is limited now" in hutch(daemon, "net", "allow", task, "up.test")
    assert status(daemon, task, "https://up.test/") == "200"


def test_a_change_before_the_agent_starts_holds_from_its_start(daemon: Daemon, unique: str) -> None:
    url = "https://up.test/"
    task = tasks.submit(daemon, *CURL, url, setup=f"{unique}echo at-work; sleep 2")
    tasks.wait_for_output(daemon, task, b"at-work\n", "setup")
    assert not daemon.client.add_rules(task, ["up.test"])["in_force"]
    assert tasks.finish(daemon, task)["state"] == "succeeded"
    assert tasks.output(daemon, task) == b"200"
    assert "the agent's network is now: limited; allow up.test" in tasks.notices(daemon, task)
    with pytest.raises(ApiError) as caught:
        daemon.client.add_rules(task, ["other.test"])
    assert caught.value.status == 409


def test_setup_has_a_network_of_its_own(daemon: Daemon, unique: str) -> None:
    ask = f"{' '.join(CURL)} https://up.test/ || true; echo"
    setup = f"{unique}{ask}\n{ask.replace('up', 'other')}"
    network = {"setup": {"rules": ["=up.test"]}}
    done = tasks.run(daemon, "sh", "-c", ask, setup=setup, network=network)
    assert tasks.output(daemon, done["id"], "setup") == b"200\n403\n"
    assert tasks.output(daemon, done["id"]) == b"403\n"
    names = {(denied["phase"], denied["name"]) for denied in done["network"]["denied"]}
    assert names == {("setup", "other.test"), ("agent", "up.test")}


def test_the_end_of_a_run_lists_each_name_once(daemon: Daemon) -> None:
    script = "for i in 1 2 3; do curl -s https://other.test/; curl -s http://other.test/; done; true"
    done = daemon.hutch("run", "--allow", "up.test", "--", "sh", "-c", script)
    assert done.returncode == 0
    told = [line for line in done.stderr.decode().splitlines() if "denied: other.test" in line]
    assert len(told) == 2, "once when it happens, and once at the end"
    assert told[1].startswith("   denied: other.test")
    assert told[1].endswith("; to allow it: --allow other.test")


def test_nobody_exceeds_the_ceiling(daemon: Daemon, task: str, unique: str) -> None:
    assert "more than the ceiling" in refused(daemon, "true", network={"agent": {"access": "unrestricted"}})
    assert "the ceiling" in refused(daemon, "true", network={"agent": {"rules": ["new.up.test"]}})
    done = daemon.hutch("net", "set", task, "--access", "unrestricted")
    assert done.returncode == 1
    assert b"more than the ceiling" in done.stderr
    assert status(daemon, task, "https://new.up.test/") == "403", "although up.test covers it"
    assert status(daemon, task, "https://up.test/") == "200", "what was refused has changed nothing"
    setup = f"{unique}{' '.join(CURL)} https://new.up.test/ || true"
    ended = tasks.run(daemon, "true", setup=setup)
    assert tasks.output(daemon, ended["id"], "setup") == b"403"
    assert "administrator" in ended["network"]["denied"][0]["reason"]


def test_what_the_log_says(daemon: Daemon, task: str) -> None:
    status(daemon, task, "https://up.test/bytes/5000")
    status(daemon, task, "https://other.test/")
    [allowed] = tasks.wait_for(
        lambda: [one for one in records(daemon, task) if one["decision"] == "allow"] or None, "it"
    )
    wanted = {
        "phase": "agent",
        "name": "up.test",
        "port": 443,
        "method": "GET",
        "path": "/bytes/5000",
        "rule": "up.test",
    }
    assert wanted.items() <= allowed.items()
    assert allowed["bytes"] >= 5000
    denied = records(daemon, task, "--denied")  # for an IPv4 and an IPv6 address, which two workers may have heard
    assert {(one["name"], one["rule"]) for one in denied} == {("other.test", "other.test")}
    lines = hutch(daemon, "net", "log", task).splitlines()
    assert any("up.test:443/bytes/5000" in line for line in lines)


def test_a_setting_that_was_changed_is_stored(other_daemon: Daemon) -> None:
    with tasks.running(other_daemon, image="tiny") as task:
        hutch(other_daemon, "net", "allow", task, "up.test", "methods=GET")
    other_daemon.restart()
    assert other_daemon.client.task(task)["policy"]["agent"]["rules"] == ["up.test methods=GET"]
    assert "agent: limited; allow up.test methods=GET" in hutch(other_daemon, "task", "show", task)


def test_a_ceiling_that_is_not_understood_stops_the_start(new_daemon: Daemon, tmp_path: Path) -> None:
    wrong = tmp_path / "ceiling.toml"
    wrong.write_text('denny = ["evil.example"]\n')
    new_daemon.environment["HUTCH_CEILING"] = str(wrong)
    with pytest.raises(AssertionError, match="did not come up"):
        new_daemon.start()
    assert f"the ceiling {wrong} can't be used: there is no key 'denny'" in new_daemon.log


@pytest.mark.parametrize("network", [{}, {"agent": {"access": "limited", "rules": ["a.example"]}}])
def test_who_asks_for_what_is_denied_hears_it_at_once_and_why(daemon: Daemon, network: dict[str, Any]) -> None:
    """A name that doesn't resolve is a fault of the network to package managers: they would try again for minutes."""
    tools = (
        "npm view is-number version",
        "pip download idna",
        "git ls-remote https://git.example/x",
        "curl -sS https://b.example/",
    )
    for tool in tools:
        task = tasks.run(daemon, *sh(f"{tool} 2>&1"), network=network, setup="")
        agent = next(phase for phase in task["phases"] if phase["name"] == "agent")
        said = tasks.output(daemon, task["id"]).decode()
        assert agent["seconds"] < 15, (tool, said)
        assert "403" in said or "Hutch: denied" in said or tool.startswith("pip"), (tool, said)
        assert task["network"]["denied"], tool
