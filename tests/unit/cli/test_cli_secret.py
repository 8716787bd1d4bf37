"""`hutch secret …` and `hutch cache …` as processes, against the daemon's own routes: a value goes in and never comes out."""

from __future__ import annotations

import json
import os
import pty
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from conftest import Server

VALUE, OTHER = "ghp_Zk3vR8qLm2Xw7TbN", "ghp_Qq9wErTy5uIoP1aS"


@pytest.fixture
def put(server: Server) -> Iterator[Any]:
    """Run a line of `hutch secret` with a value on standard input; afterwards no secret is left."""
    yield lambda *arguments, value=VALUE: server.hutch("secret", *arguments, input=value.encode())
    for one in server.client.secrets():
        server.client.remove_secret(one["name"])


def test_a_secret_is_set_listed_rotated_and_removed(server: Server, put: Any) -> None:
    made = put("set", "TOKEN", "--for", "API.example.com", "--for", "git.example.com/team/", "--phase", "agent")
    assert made.stdout == b"secret TOKEN, for api.example.com, git.example.com/team/ in headers; phases: agent\n"
    listed = server.hutch("secret", "ls")
    assert listed.stdout.split() == [
        *(b"NAME", b"FOR", b"IN", b"PHASES", b"CHANGED"),
        *(b"TOKEN", b"api.example.com,", b"git.example.com/team/", b"headers", b"agent"),
        server.client.secrets()[0]["changed"].encode(),
    ]
    rotated = put("rotate", "TOKEN", value=OTHER)
    assert rotated.stdout == made.stdout
    removed = server.hutch("secret", "rm", "TOKEN", "--json")
    assert json.loads(removed.stdout) == {"removed": ["TOKEN"]}
    assert server.client.secrets() == []
    for one in (made, listed, rotated, removed):
        assert one.returncode == 0
        assert VALUE.encode() not in one.stdout + one.stderr
        assert OTHER.encode() not in one.stdout + one.stderr


def test_where_it_may_be_used_is_told(put: Any) -> None:
    made = put("set", "KEY", "--for", "a.example", "--header", "X-Key: {}", "--query", "--body", "--json")
    shown = json.loads(made.stdout)
    assert (shown["header"], shown["places"]) == ("X-Key: {}", ["header", "query", "body"])
    assert shown["phases"] == ["setup", "maintenance", "agent"]
    assert b"in X-Key: {}, query, body;" in put("rotate", "KEY").stdout


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_one_line_end_is_not_part_of_the_value(put: Any, end: str) -> None:
    shown = json.loads(put("set", "TOKEN", "--for", "a.example", "--json", value=VALUE + end).stdout)
    assert len(shown["placeholder"]) == len(VALUE)


@pytest.mark.parametrize(
    ("arguments", "value", "code", "said"),
    [
        (["set", "TOKEN"], "short", 1, "8 characters"),
        (["set", "TOKEN", "--phase", "agent"], VALUE, 1, "cannot give the plain secret TOKEN to the agent"),
        (["set", "TOKEN", "--for", "a.example", VALUE], VALUE, 2, "unexpected extra argument"),
        (["set", "TOKEN", "--for", "a.example", "--phase", "checkout"], VALUE, 2, "is not one of"),
        (["set", "A-B", "--for", "a.example"], VALUE, 1, "name of a variable"),
        (["set", "TOKEN", "--for", "10.0.0.1"], VALUE, 1, "it is an address"),
        (["set", "TOKEN", "--for", "a.example"], "short", 1, "less than 12 characters"),
        (["set", "TOKEN", "--for", "a.example"], "two\nlines of it", 1, "line ends"),
        (["set", "TOKEN", "--for", "a.example"], "two line ends\n\n", 1, "line ends"),
        (["set", "TOKEN", "--for", "a.example"], "", 1, "less than 12 characters"),
        (["set", "TOKEN", "--for", "a.example"], "x" * 10_000, 1, "more than 8192 characters"),
        (["rotate", "NOTHING"], VALUE, 1, "there is no secret 'NOTHING'"),
        (["rm", "NOTHING"], "", 1, "there is no secret 'NOTHING'"),
        (["rm", "A/B"], "", 1, "Not Found"),
    ],
)
def test_what_is_wrong_is_told_without_the_value(
    put: Any, arguments: list[str], value: str, code: int, said: str
) -> None:
    found = put(*arguments, value=value)
    assert found.returncode == code
    assert said in found.stderr.decode()
    assert len(found.stderr) < 400
    if len(value) > 8 and value not in arguments:
        assert value.encode() not in found.stderr + found.stdout


def test_a_value_that_is_no_text_is_refused(server: Server) -> None:
    found = server.hutch("secret", "set", "TOKEN", "--for", "a.example", input=b"\xff" * 20)
    assert found.returncode == 1
    assert b"not UTF-8 text" in found.stderr


def test_a_terminal_is_asked_and_does_not_show_the_answer(server: Server, put: Any) -> None:
    master, slave = pty.openpty()
    try:
        process = server.start("secret", "set", "TOKEN", "--for", "a.example", stdin=slave, stdout=slave, stderr=slave)
        seen = b""
        while b"Value of TOKEN" not in seen:
            seen += os.read(master, 4096)
        os.write(master, VALUE.encode() + b"\n")
        while b"secret TOKEN" not in seen:
            seen += os.read(master, 4096)
        assert process.wait(30) == 0
        assert VALUE.encode() not in seen
    finally:
        os.close(master)
        os.close(slave)
    assert len(server.client.secrets()[0]["placeholder"]) == len(VALUE)


def test_a_task_is_given_secrets_by_name(server: Server) -> None:
    task = server.hutch("run", "-d", "--secret", "A", "--secret", "B", "--", "true").stdout.decode().strip()
    assert server.client.task(task)["secrets"] == ["A", "B"]


def test_downloads_are_listed_and_cleared(server: Server) -> None:
    listed = server.hutch("cache", "ls").stdout.decode()
    assert "5.0 MiB" in listed
    assert "https://files.example/packages/one-1.0.whl" in listed
    assert listed.endswith("2 downloads, 6.0 MiB of 10.0 GiB; 1 not listed\n")
    assert json.loads(server.hutch("cache", "ls", "--json").stdout)["entries"] == 2
    assert server.hutch("cache", "clear").stdout == b"freed 6.0 MiB: 2 downloads\n"
    assert json.loads(server.hutch("cache", "clear", "--json").stdout) == {"entries": 0, "bytes": 0}
