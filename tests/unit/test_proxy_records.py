"""Records on their way to the daemon, and the daemon's messages. Must not start a filter."""

from __future__ import annotations

import asyncio
import json
import socket
from typing import Any

import pytest

from proxy.control import BadMessage, Control, DropMessage, HelloMessage, SetMessage, parse_message
from proxy.policy import Policy
from proxy.records import MAX_PENDING, MAX_TEXT, NetworkRecord, Records, printable
from proxy.sandboxes import Sandboxes


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


HELLO = {
    "op": "hello",
    "ca_pem": "x",
    "upstream_trust": "/x",
    "private_names": ["Git.Corp."],
    "host_addresses": ["::1"],
}


def test_messages() -> None:
    policy = {"phase": "agent", "access": "limited", "allow": ["example.com"]}
    hello = parse_message(HELLO)
    assert isinstance(hello, HelloMessage)
    assert hello.private_names == ("git.corp",)
    assert parse_message({"op": "set", "sandbox": "10.0.0.2", "policy": policy}) == SetMessage(
        "10.0.0.2", Policy("agent", "limited", ("example.com",))
    )
    assert parse_message({"op": "drop", "sandbox": "10.0.0.2"}) == DropMessage("10.0.0.2")


@pytest.mark.parametrize(
    "message",
    [
        {}, {"op": "exec"}, HELLO | {"ca_pem": None}, HELLO | {"private_names": "a"}, HELLO | {"private_names": ["10.1"]},
        HELLO | {"host_addresses": ["x"]}, {"op": "set"}, {"op": "set", "sandbox": "10.0.0.2"},
        {"op": "set", "sandbox": "x", "policy": {"phase": "a", "access": "off"}}, {"op": "drop", "sandbox": 7},
        {"op": "set", "sandbox": "10.0.0.2", "policy": {"phase": "a", "access": "on"}},
    ],
)  # fmt: skip
def test_messages_that_cannot_be_understood(message: dict[str, Any]) -> None:
    with pytest.raises(BadMessage):
        parse_message(message)


def converse(*lines: bytes) -> tuple[list[dict[str, Any]], Sandboxes, int]:
    """What a control socket answers to these lines, until its end."""
    sandboxes = Sandboxes()
    started: list[HelloMessage] = []

    async def talk() -> list[dict[str, Any]]:
        ours, theirs = socket.socketpair()
        control = Control(sandboxes, Records(lambda: 0.0), started.append)
        task = asyncio.create_task(control.run(theirs))
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.writelines(lines)
        answers = [json.loads(await asyncio.wait_for(reader.readline(), 5)) for _ in range(len(lines) + 1)]
        writer.close()
        await asyncio.wait_for(task, 5)
        return answers

    return asyncio.run(talk()), sandboxes, len(started)


def line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def test_a_conversation() -> None:
    policy = {"phase": "agent", "access": "off"}
    answers, sandboxes, started = converse(
        line(**HELLO, seq=1),
        line(op="set", sandbox="10.0.0.2", policy=policy, seq=2),
        line(op="set", sandbox="10.0.0.6", policy=policy, seq=3),
        line(op="drop", sandbox="10.0.0.2", seq=4),
        line(**HELLO, seq=5),
        b"no json\n",
        b"[1]\n",
        line(op="set", sandbox="10.0.0.6", policy={"phase": "agent", "access": "all"}, seq=6),
    )
    assert answers[:5] == [{"event": "ready"}, {"ack": 1}, {"ack": 2}, {"ack": 3}, {"ack": 4}]
    assert [answer["ack"] for answer in answers[5:]] == [5, None, None, 6]
    assert all(answer["error"] for answer in answers[5:])
    assert started == 1
    assert sandboxes.get("10.0.0.2") is None
    kept = sandboxes.get("10.0.0.6")
    assert kept is not None
    assert kept.policy.access == "off"
