"""`hutch net` as a process: what it sends, what it prints, and that what tenants chose to be called commands no terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from collections.abc import Iterator

import pytest

from tests.unit.cli.conftest import HUTCH, LIMIT, Server, wait_until


@pytest.fixture
def limited_task(server: Server) -> Iterator[str]:
    """A running task that may reach example.com, and was refused two names."""
    client = server.client
    env = {"DENIED": "a.example b\x1b]0;title.example"}
    spec = {"image": "base", "command": ["sleep", "600"], "env": env, "network": {"agent": {"rules": ["example.com"]}}}
    task = client.create_task(spec)["id"]  # type: ignore[arg-type]
    wait_until(lambda: len(client.events(task, follow=False, only="network").read().splitlines()) == 4)
    yield task
    client.cancel(task)
    wait_until(lambda: client.task(task)["ended"] is not None)


def lines(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout.decode().splitlines()


def test_allow_and_deny_say_what_holds_now(server: Server, limited_task: str) -> None:
    words = ("*.other.example", "methods=GET", "tcp://db.example:22")
    assert lines(server.hutch("net", "allow", limited_task, *words)) == [
        "in force now: limited; allow example.com; allow *.other.example methods=GET; allow tcp://db.example:22"
    ]
    assert lines(server.hutch("net", "deny", limited_task, "Example.com")) == [
        "took back: allow example.com",
        "in force now: limited; allow *.other.example methods=GET; allow tcp://db.example:22; deny example.com",
    ]


def test_set_replaces_what_it_names(server: Server, limited_task: str) -> None:
    options = ("--methods", "GET,HEAD", "--preset", "common-dependencies", "--deny", "bad.example")
    assert lines(server.hutch("net", "set", limited_task, *options)) == [
        "no longer: allow example.com",
        "in force now: limited; preset common-dependencies; methods GET, HEAD; deny bad.example",
    ]
    assert lines(server.hutch("net", "set", limited_task, "--methods", "any", "--preset", "none")) == [
        "in force now: limited; deny bad.example"
    ]
    done = server.hutch("net", "set", limited_task, "--access", "off", "--json")
    found = json.loads(done.stdout)
    assert found["agent"] == {"access": "off", "preset": "none", "rules": [], "methods": None}
    assert (found["task"], found["in_force"], found["notices"]) == (limited_task, True, ["no longer: deny bad.example"])


def test_allowing_something_where_nothing_was(server: Server, running_task: str) -> None:
    assert lines(server.hutch("net", "allow", running_task[:6], "example.com")) == [
        "access was off and is limited now: what no rule allows stays out of reach",
        "in force now: limited; allow example.com",
    ]


def test_show(server: Server, limited_task: str) -> None:
    assert lines(server.hutch("net", "show", limited_task)) == [
        f"task         {limited_task}, running",
        "agent        limited",
        "             allow example.com",
        "setup        unrestricted",
        "maintenance  unrestricted",
        "ceiling      /ceiling.toml; agents have at most: limited",
        "             deny evil.example",
        "private      10.1.0.0/16",
    ]
    server.client.change_network(limited_task, {"preset": "package-managers"})
    assert "registries   index.example" in lines(server.hutch("net", "show", limited_task))
    assert json.loads(server.hutch("net", "show", "--json", limited_task).stdout)["policy"]["agent"]["rules"] == [
        "example.com"
    ]


def test_explain(server: Server, limited_task: str) -> None:
    url = "https://example.com/a?b=c&d#e"
    allowed = f"allowed: GET {url} in the agent phase, by: example.com"
    assert lines(server.hutch("net", "explain", limited_task, url)) == [allowed]
    assert lines(server.hutch("net", "explain", limited_task, url, "--method", "POST")) == [
        f"denied: POST {url} in the agent phase: POST is barred",
        f"to allow it now: hutch net allow {limited_task} 'example.com methods=POST'",
        "to allow it in the next run: --allow 'example.com methods=POST'",
    ]
    setup = lines(server.hutch("net", "explain", limited_task, url, "--method", "POST", "--phase", "setup"))
    assert setup[1:] == ["to allow it in the next run: --setup-allow 'example.com methods=POST'"]
    tcp = lines(server.hutch("net", "explain", limited_task, "tcp://db.example:22"))
    assert tcp == ["allowed: tcp://db.example:22 in the agent phase, by: example.com"]
    found = json.loads(server.hutch("net", "explain", limited_task, url, "--json").stdout)
    assert (found["url"], found["allowed"]) == (url, True)


def test_the_log_is_one_line_for_each_record(server: Server, limited_task: str) -> None:
    told = lines(server.hutch("net", "log", limited_task))
    assert len(told) == 4
    assert told[0].split("  ", 1)[1].split() == "agent deny - a.example:443 no rule allows it".split()
    # An escape would set the terminal's title; nothing of it must be left, on a terminal or in a pipe.
    assert "b?]0;title.example:443" in told[2]
    records = server.hutch("net", "log", "--json", "--denied", limited_task).stdout.splitlines()
    assert [json.loads(record)["name"] for record in records] == ["a.example"] * 2 + ["b\x1b]0;title.example"] * 2


def test_the_log_of_a_running_task_is_followed_to_its_end(server: Server, limited_task: str) -> None:
    process = server.start("net", "log", "-f", limited_task)
    assert process.stdout
    assert b"a.example" in process.stdout.readline()
    server.client.cancel(limited_task)
    process.communicate(timeout=LIMIT)
    assert process.returncode == 0


def test_on_a_terminal_refusals_are_red_and_harmless(server: Server, limited_task: str) -> None:
    master, terminal = pty.openpty()
    try:
        command = [*HUTCH, "net", "log", limited_task]
        subprocess.run(command, check=True, stdout=terminal, env=server.environ(), timeout=LIMIT)
        shown = os.read(master, 65536)
    finally:
        os.close(terminal)
        os.close(master)
    assert shown.count(b"\x1b[31m") == 4
    assert b"\x1b]" not in shown


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["allow", "TASK", "ex ample.com"], 1, "rule 'ex ample.com'"),
        (["allow", "TASK", "deny example.com"], 2, "behind --deny"),
        (["allow", "TASK"], 2, "Missing argument 'RULE...'"),
        (["set", "TASK"], 2, "say what to set"),
        (["set", "TASK", "--access", "unrestricted", "--preset", "common-dependencies"], 1, "includes the preset"),
        (["explain", "TASK"], 2, "Missing argument 'URL'"),
        (["show", "nonsense"], 1, "no task has the id nonsense"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    server: Server, limited_task: str, arguments: list[str], code: int, sentence: str
) -> None:
    done = server.hutch("net", *(limited_task if word == "TASK" else word for word in arguments))
    assert (done.returncode, done.stdout) == (code, b"")
    error = done.stderr.decode()
    assert error.startswith("hutch: ")
    assert sentence in error
    assert error.count("\n") == 1


def test_a_task_that_has_ended_is_not_changed(server: Server) -> None:
    task = json.loads(server.hutch("run", "--json", "--", "true").stdout)["id"]
    done = server.hutch("net", "allow", task, "example.com")
    assert (done.returncode, done.stderr) == (
        1, f"hutch: task {task} has ended (only a running or queued task can be changed)\n".encode(),
    )  # fmt: skip


def test_words_are_completed(server: Server) -> None:
    environ = {
        **server.environ(),
        "_HUTCH_COMPLETE": "bash_complete",
        "COMP_WORDS": "hutch net set --preset ",
        "COMP_CWORD": "4",
    }
    done = server.hutch(env=environ)
    assert b"plain,common-dependencies" in done.stdout


def test_presets_show_what_they_let_through(server: Server) -> None:
    assert b"common-dependencies" in server.hutch("net", "presets").stdout
    listed = server.hutch("net", "presets", "package-managers").stdout.split()
    assert b"=crates.io" in listed or b"crates.io" in listed
    told = json.loads(server.hutch("net", "presets", "none", "--json").stdout)
    assert told == {"presets": {"none": []}}
    wrong = server.hutch("net", "presets", "everything")
    assert (wrong.returncode, b"use one of none, common-dependencies" in wrong.stderr) == (2, True)
