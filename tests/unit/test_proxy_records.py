"""Records on their way to the daemon. Must not start a filter."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from proxy.records import MAX_PENDING, MAX_TEXT, NetworkRecord, Records, printable


def denied(name: str = "evil.com", sandbox: str = "10.0.0.2") -> NetworkRecord:
    return NetworkRecord(sandbox, "agent", name, 443, "deny", reason="no")


async def taken(records: Records, count: int) -> list[dict[str, Any]]:
    return [json.loads(await asyncio.wait_for(records.next(), 5)) for _ in range(count)]


def test_a_tenants_text_is_harmless() -> None:
    assert printable("a\x1b[2J\r\nb\x00\u202eü") == "a\\x1b[2J\\x0d\\x0ab\\x00\\u202e\\xfc"
    assert len(printable("a" * 10_000)) == MAX_TEXT
    event = NetworkRecord("10.0.0.2", "agent", "a\nb", 80, "allow", path="/\x1b", method="GET").event()
    assert (event["event"], event["name"], event["path"], event["bytes"]) == ("network", "a\\x0ab", "/\\x1b", 0)
    assert set(event) == {
        "event", "sandbox", "at", "phase", "name", "port", "method", "path", "bytes", "decision", "rule", "reason",
    }  # fmt: skip


def test_equal_refusals_are_recorded_once_a_second() -> None:
    now = [0.0]
    records = Records(lambda: now[0])
    for at in (0.0, 0.1, 0.9, 1.0, 1.5, 2.0):
        now[0] = at
        records.add(denied())
    records.add(denied("other.com"))
    records.add(denied(sandbox="10.0.0.6"))
    assert len(asyncio.run(taken(records, 5))) == 5
    assert not records._queue


def test_one_sandboxs_flood_leaves_anothers_records() -> None:
    records = Records(lambda: 0.0)
    for number in range(MAX_PENDING + 7):
        records.add(denied(f"n{number}.com"))
    records.add(denied(sandbox="10.0.0.6"))
    records.answer({"ack": 1})
    *_, other, ack, lost = asyncio.run(taken(records, MAX_PENDING + 3))
    assert (other["sandbox"], ack) == ("10.0.0.6", {"ack": 1})
    assert lost["reason"].startswith("7 further records were dropped")
    assert not records._pending


def test_what_was_dropped_is_told_before_the_sandbox_is_forgotten() -> None:
    records = Records(lambda: 0.0)
    for number in range(MAX_PENDING + 7):
        records.add(denied(f"n{number}.com"))
    records.forget(denied().sandbox)
    records.answer({"ack": 1})
    *_, lost, ack = asyncio.run(taken(records, MAX_PENDING + 2))
    assert lost["reason"].startswith("7 further records were dropped")
    assert ack == {"ack": 1}
    assert not records._pending
