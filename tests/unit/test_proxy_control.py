"""What the daemon tells a worker, and what the worker answers. Must not start a filter."""

from __future__ import annotations

import asyncio
import json
import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from proxy import lines
from proxy.control import Control, DropMessage, HelloMessage, ServeMessage, SetMessage, parse_message
from proxy.policy import Policy, parse
from proxy.records import NetworkRecord, Records
from proxy.sandboxes import Sandboxes

POLICY = {"phase": "agent", "access": "limited", "rules": ["example.com", "deny a.example.com"]}
HELLO = {
    "op": "hello", "ca_pem": "x", "upstream_trust": "/x", "private_names": ["Git.Corp.", "10.1.0.0/16"],
    "host_addresses": ["::1", "fe80::1%eth0"], "names_key": "00ff", "artifact_bytes": 0,
}  # fmt: skip


def test_messages() -> None:
    assert parse_message(HELLO) == HelloMessage(
        "x", "/x", ("git.corp", ip_network("10.1.0.0/16")), (ip_address("::1"), ip_address("fe80::1")), b"\0\xff"
    )
    assert parse_message({"op": "set", "sandbox": "10.0.0.2", "policy": POLICY}) == SetMessage(
        "10.0.0.2", parse(POLICY)
    )
    assert parse_message({"op": "drop", "sandbox": "10.0.0.2"}) == DropMessage("10.0.0.2")
    assert parse_message({"op": "serve"}) == ServeMessage()


@pytest.mark.parametrize(
    "message",
    [
        {}, {"op": "exec"}, {"op": ["set"]}, HELLO | {"ca_pem": None}, HELLO | {"private_names": "a"},
        HELLO | {"private_names": ["10.1"]}, HELLO | {"private_names": ["10.1.2.3/8"]}, HELLO | {"host_addresses": ["x"]},
        HELLO | {"names_key": "xyz"}, HELLO | {"names_key": ""}, {"op": "set"}, {"op": "set", "sandbox": "10.0.0.2"},
        {"op": "set", "sandbox": "x", "policy": POLICY}, {"op": "set", "sandbox": "10.0.0.02", "policy": POLICY},
        {"op": "set", "sandbox": "::1", "policy": POLICY}, {"op": "drop", "sandbox": 7}, {"op": "drop"},
        {"op": "set", "sandbox": "10.0.0.2", "policy": POLICY | {"access": "on"}},
        {"op": "set", "sandbox": "10.0.0.2", "policy": POLICY | {"allow": ["old.example"]}},
        {"op": "set", "sandbox": "10.0.0.2", "policy": POLICY | {"rules": ["http://"]}},
    ],
)  # fmt: skip
def test_messages_that_cannot_be_understood(message: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_message(message)


class Worker:
    """A worker's control without the rest; `did` is what it was told to do."""

    def __init__(self) -> None:
        self.sandboxes, self.records, self.did = Sandboxes(), Records(lambda: 0.0), list[str]()
        self.control = Control(self.sandboxes, self.records, self._configure)

    def _configure(self, hello: HelloMessage) -> Any:
        self.did.append(f"hello {hello.upstream_trust}")
        return lambda: self.did.append("serve")

    def converse(self, *told: bytes) -> list[dict[str, Any]]:
        """What the control socket answers to these lines, until its end."""

        async def talk() -> list[dict[str, Any]]:
            ours, theirs = socket.socketpair()
            task = asyncio.create_task(lines.serve(theirs, self.control.apply, self.records))
            reader, writer = await asyncio.open_connection(sock=ours)
            writer.writelines(told)
            answers = [json.loads(await asyncio.wait_for(reader.readline(), 5)) for _ in range(len(told))]
            writer.close()
            await asyncio.wait_for(task, 5)
            return answers

        return asyncio.run(talk())


def line(**message: Any) -> bytes:
    return json.dumps(message).encode() + b"\n"


def test_a_conversation() -> None:
    worker = Worker()
    off = POLICY | {"access": "off"}
    answers = worker.converse(
        line(**HELLO, seq=1),
        line(op="set", sandbox="10.0.0.2", policy=POLICY, seq=2),
        line(op="set", sandbox="10.0.0.6", policy=off, seq=3),
        line(op="serve", seq=4),
        line(op="drop", sandbox="10.0.0.2", seq=5),
        line(**HELLO, seq=6),
        b"no json\n",
        b"[1]\n",
        line(op="set", sandbox="10.0.0.6", policy=POLICY | {"access": "all"}, seq=7),
        line(op="serve", seq=8),
    )
    assert answers[:5] == [{"ack": number} for number in range(1, 6)]
    assert [answer["ack"] for answer in answers[5:]] == [6, None, None, 7, 8]
    assert all(answer["error"] for answer in answers[5:])
    assert worker.did == ["hello /x", "serve"]
    assert worker.sandboxes.get("10.0.0.2") is None
    kept = worker.sandboxes.get("10.0.0.6")
    assert kept is not None
    assert kept.policy == parse(off)


class Closing:
    """A connection that is recorded some time after it was closed."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._closed = worker, asyncio.Event()
        self.task: asyncio.Task[None] | None = asyncio.create_task(self._run())

    async def _run(self) -> None:
        await self._closed.wait()
        await asyncio.sleep(0.1)
        self._worker.records.add(NetworkRecord("10.0.0.2", "agent", "up.test", 443, "allow", bytes=7))

    def permitted(self, _: Policy) -> bool:
        return True

    def abort(self) -> None:
        self._closed.set()


def test_a_drop_is_acknowledged_after_the_last_record() -> None:
    async def talk() -> list[dict[str, Any]]:
        worker, (ours, theirs) = Worker(), socket.socketpair()
        worker.sandboxes.set("10.0.0.2", parse(POLICY))
        sandbox = worker.sandboxes.get("10.0.0.2")
        assert sandbox is not None
        sandbox.connections.add(Closing(worker))
        task = asyncio.create_task(lines.serve(theirs, worker.control.apply, worker.records))
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(line(op="drop", sandbox="10.0.0.2", seq=1))
        heard = [json.loads(await asyncio.wait_for(reader.readline(), 5)) for _ in range(2)]
        writer.close()
        await asyncio.wait_for(task, 5)
        return heard

    record, answer = asyncio.run(talk())
    assert (record["event"], record["bytes"]) == ("network", 7)
    assert answer == {"ack": 1}


def test_it_serves_only_after_hello() -> None:
    worker = Worker()
    assert "after hello" in worker.converse(line(op="serve", seq=1))[0]["error"]
    assert worker.did == []


def test_a_line_without_end_ends_the_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MAX_LINE", 1_000)

    async def talk() -> bytes:
        ours, theirs = socket.socketpair()
        worker = Worker()
        task = asyncio.create_task(lines.serve(theirs, worker.control.apply, worker.records))
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(b"x" * 10_000)
        await asyncio.wait_for(task, 5)
        rest = await reader.read()
        writer.close()
        return rest

    assert asyncio.run(talk()) == b""
