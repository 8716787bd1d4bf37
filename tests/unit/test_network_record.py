"""The summary of what a task was refused: from the filter's records to the line at a run's end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.cli import net_text
from sandbox.core.journal import Journal, of_type, read_events
from sandbox.core.network_record import NetworkRecord


def record(name: str, port: int, decision: str = "deny", **more: Any) -> dict[str, Any]:
    return {"phase": "agent", "name": name, "port": port, "decision": decision, "rule": "", "reason": "", **more}


@pytest.fixture
def network(tmp_path: Path) -> Iterator[NetworkRecord]:
    journal = Journal(tmp_path / "events.ndjson")
    yield NetworkRecord(journal)
    journal.close()


def test_refusals_are_counted_by_phase_name_and_port(network: NetworkRecord) -> None:
    for port in (53, 443, 443):
        network.add(record("a.example", port, rule="a.example", reason="why"))
    network.add(record("a.example", 443, phase="setup"))
    network.add(record("b.example", 443, "allow"))
    network.add(record("c.example", 443))
    summary = network.summary()
    assert summary["allowed"] == 1
    counted = [(one["phase"], one["name"], one["port"], one["count"]) for one in summary["denied"]]
    assert counted == [
        ("agent", "a.example", 53, 1),
        ("agent", "a.example", 443, 2),
        ("setup", "a.example", 443, 1),
        ("agent", "c.example", 443, 1),
    ]
    assert (summary["denied"][1]["rule"], summary["denied"][1]["reason"]) == ("a.example", "why")


def test_a_refusal_that_a_rule_would_have_prevented_tells_more(network: NetworkRecord) -> None:
    network.add(record("a.example", 443, reason="odd path"))
    network.add(record("a.example", 443, rule="a.example methods=POST", reason="POST"))
    network.add(record("a.example", 443, rule="other", reason="other"))
    [denied] = network.summary()["denied"]
    assert (denied["count"], denied["rule"], denied["reason"]) == (3, "a.example methods=POST", "POST")


def denied(name: str, port: int, count: int = 1, rule: str = "", **more: str) -> Any:
    return {"phase": "agent", "name": name, "port": port, "count": count, "rule": rule, "reason": "r", **more}


@pytest.mark.parametrize(
    ("entries", "lines"),
    [
        ([denied("a.example", 53, 2, "a.example")], ["a.example, 2 times; to allow it: --allow a.example"]),
        (
            [denied("a.example", 53, 1, "a.example"), denied("a.example", 443, 2, "a.example")],
            ["a.example:443, 3 times; to allow it: --allow a.example"],
        ),
        (
            [denied("a.example", 8443, 1, "a.example:8443"), denied("a.example", 443, 1, "a.example methods=POST")],
            [
                "a.example (ports 443, 8443), 2 times; to allow it: --allow a.example:8443 --allow 'a.example methods=POST'"
            ],
        ),
        (
            [denied("a.example", 443, rule="*.example", phase="setup"), denied("a.example", 443, rule="a.example")],
            [
                "a.example:443 in setup; to allow it: --setup-allow '*.example'",
                "a.example:443; to allow it: --allow a.example",
            ],
        ),
        ([denied("a.example", 443)], ["a.example:443; r"]),
        ([denied("a.example", 443, reason="")], ["a.example:443; no rule allows it"]),
        ([{"name": "a.example", "port": 443, "count": 1, "rule": ""}], ["a.example:443; no rule allows it"]),
    ],
)
def test_people_are_told_of_a_name_once(entries: list[Any], lines: list[str]) -> None:
    assert list(net_text.denied_lines(entries, "3f2a")) == lines


def test_a_long_list_ends_with_where_the_rest_is() -> None:
    lines = list(net_text.denied_lines([denied(f"{number}.example", 443) for number in range(25)], "3f2a"))
    assert len(lines) == 21
    assert lines[-1] == "5 names more: hutch net log --denied 3f2a"


def test_records_are_lines() -> None:
    allowed = record("a.example", 443, "allow", rule="a.example", method="GET", path="/x", bytes=2048, at="nonsense")
    assert net_text.record_line(allowed).split()[1:] == "agent allow GET a.example:443/x 2.0 KiB (a.example)".split()
    asked = record("a.example", 53, rule="a.example", reason="why", method="DNS", at="2026-01-02T03:04:05.678Z")
    line = net_text.record_line(asked)
    assert line.endswith("  deny   DNS      a.example  why; this would: a.example")
    assert len(line.split("  ")[0]) == 19
    assert net_text.record_line({}).startswith("-" * 19)


async def _only(path: Path, size: int) -> bytes:
    async def pieces() -> Any:
        content = b"".join([piece async for piece in read_events(path, None)])
        for start in range(0, len(content), size):
            yield content[start : start + size]

    return b"".join([piece async for piece in of_type("network", pieces())])


def test_the_records_alone_are_read_from_a_journal_cut_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    journal = Journal(path)
    journal.notice('{"type": "network"')
    journal.network(record("a.example", 443))
    journal.output("agent", "stdout", b'\n{"type": "network"}\n')
    journal.network(record("b.example", 443))
    journal.close()
    wanted = [line for line in path.read_bytes().splitlines() if line.startswith(b'{"type": "network"')]
    assert len(wanted) == 2
    for size in (1, 7, 100, 10_000):
        assert asyncio.run(_only(path, size)).splitlines() == wanted
