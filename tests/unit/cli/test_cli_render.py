"""A task's end as exit code, JSON and summary: pure functions of the task."""

from __future__ import annotations

from typing import Any, cast

import pytest

from sandbox.cli.codes import process_code
from sandbox.cli.gc import freed_text
from sandbox.cli.output import seconds_text
from sandbox.cli.render import exit_code, phase_line, result, summary_lines
from sandbox.shapes import Task
from sandbox.units import bytes_text


def task(**fields: Any) -> Task:
    base = {"id": "3f2a", "state": "succeeded", "exit_code": 0, "commit": "c0ffee", "phases": [], "cache": None}
    return cast(Task, {**base, "diff": None, "network": None, "error": None, "extra": 1, **fields})


def phase(name: str, code: int | None) -> dict[str, Any]:
    return {"name": name, "seconds": 1.25, "exit_code": code}


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, 0),
        ({"phases": [phase("agent", 0)]}, 0),
        ({"state": "failed", "exit_code": 3, "phases": [phase("setup", 0), phase("agent", 3)]}, 3),
        ({"state": "failed", "exit_code": -9, "phases": [phase("agent", -9)]}, 137),
        ({"state": "failed", "exit_code": 7, "phases": [phase("setup", 7)]}, 1),
        ({"state": "failed", "exit_code": None, "phases": []}, 1),
        ({"state": "failed", "exit_code": 0, "phases": [phase("agent", 0)]}, 1),
        ({"state": "cancelled", "phases": [phase("agent", 143)]}, 130),
        ({"state": "timed_out"}, 124),
        ({"state": "lost"}, 1),
    ],
)
def test_exit_codes(fields: dict[str, Any], code: int) -> None:
    assert exit_code(task(**fields)) == code


@pytest.mark.parametrize(("code", "status"), [(0, 0), (255, 255), (256, 0), (-1, 129), (-15, 143)])
def test_deaths_by_signal_are_told_as_a_shell_does(code: int, status: int) -> None:
    assert process_code(code) == status


def test_the_json_result_has_exactly_the_promised_fields() -> None:
    found = result(task(network={"allowed": 2, "denied": []}))
    assert list(found) == ["id", "state", "exit_code", "commit", "cache", "phases", "diff", "network", "error"]
    assert found["network"] == {"allowed": 2, "denied": []}
    assert result(task())["network"] == {"allowed": 0, "denied": []}


def test_summary_says_what_happened_and_what_to_do() -> None:
    denied = [{"name": "example.com", "port": 443, "count": 3, "rule": "example.com"}]
    lines = summary_lines(
        task(
            state="failed",
            exit_code=2,
            phases=[phase("setup", 0), phase("agent", 2)],
            cache={"hit": False, "key": "k", "reason": "the setup script changed"},
            diff={"files": 1, "insertions": 4, "deletions": 2},
            network={"allowed": 0, "denied": denied},
        )
    )
    assert lines == [
        "== task 3f2a failed with exit code 2 (setup 1.2 s, agent 1.2 s)",
        "   cache: miss, the setup script changed",
        "   diff: 1 file changed, +4 -2",
        "   denied: example.com:443, 3 times; to allow it: --allow example.com",
        "   next: hutch task diff 3f2a",
    ]


def test_summary_of_failures_has_the_reason_and_the_remedy() -> None:
    lines = summary_lines(task(state="failed", error={"message": "no ref v9", "remedy": "see: git branch -r"}))
    assert lines == ["== task 3f2a failed", "   error: no ref v9 (see: git branch -r)"]
    assert summary_lines(task(state="cancelled"))[0] == "== task 3f2a was cancelled"
    assert summary_lines(task(state="lost"))[0] == "== task 3f2a is lost"
    assert summary_lines(task(diff={"files": 0, "insertions": 0, "deletions": 0}))[1:] == ["   diff: no changes"]


def test_phase_lines() -> None:
    ended = {"phase": "setup", "state": "ended", "seconds": 65.4}
    assert phase_line({"phase": "setup", "state": "started"}) == "== setup"
    assert phase_line({**ended, "exit_code": 0}) == "== setup: done in 1 min 5 s"
    assert phase_line({**ended, "exit_code": 3}) == "== setup: exit code 3 after 1 min 5 s"
    assert phase_line({**ended, "exit_code": None}) == "== setup: ended after 1 min 5 s"


def test_amounts_read_well() -> None:
    assert [seconds_text(n) for n in (0.04, 3.14, 59.94, 61, 7800)] == [
        "0.04 s",
        "3.1 s",
        "59.9 s",
        "1 min 1 s",
        "2 h 10 min",
    ]
    assert [bytes_text(n) for n in (0, 1023, 1536, 200 << 20, 5 << 40)] == [
        "0 B",
        "1023 B",
        "1.5 KiB",
        "200 MiB",
        "5.0 TiB",
    ]
    assert freed_text({"snapshots": 1, "layers": 0, "tasks": 2, "bytes": 2048}) == "freed 2.0 KiB: 1 snapshot, 2 tasks"
    assert freed_text({"snapshots": 0, "layers": 0, "tasks": 0, "bytes": 0}) == "nothing to drop"
