"""The daemon's view of the filter's processes, without a filter: what is left when one has ended, or can't be started."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.host import filter as egress
from sandbox.host.errors import HostError
from sandbox.host.filter_process import Master, Peer, PeerEnded


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


async def _greeted(_: Peer) -> None:
    pass


def test_one_that_has_ended_is_not_killed_by_its_number() -> None:
    async def test() -> None:
        victim = subprocess.Popen(["sleep", "60"])
        pidfd = os.pidfd_open(victim.pid)
        ours, theirs = socket.socketpair()
        peer = Peer("worker", victim.pid, pidfd, ours, lambda _: None)
        listening = asyncio.create_task(peer.listen(_greeted))
        listening.add_done_callback(lambda _: peer.close())
        asking = asyncio.create_task(peer.ask({"op": "set"}))
        await asyncio.sleep(0.05)
        theirs.close()
        with pytest.raises(PeerEnded):
            await asking
        await listening
        victim.wait(10)
        bystander = subprocess.Popen(["sleep", "60"])
        again = os.pidfd_open(bystander.pid)
        try:
            assert again == pidfd, "the kernel gives the lowest number that is free"
            peer.kill()
            with pytest.raises(subprocess.TimeoutExpired):
                bystander.wait(0.2)
        finally:
            bystander.kill()
            bystander.wait()
            os.close(again)

    asyncio.run(test())


def test_questions_that_overlap_get_their_own_answers(stranger: subprocess.Popen[bytes]) -> None:
    async def test() -> None:
        ours, theirs = socket.socketpair()
        peer = Peer("worker", stranger.pid, os.pidfd_open(stranger.pid), ours, lambda _: None)
        listening = asyncio.create_task(peer.listen(_greeted))
        await asyncio.sleep(0.05)
        asking = [asyncio.create_task(peer.ask({"op": op})) for op in ("first", "second", "third")]
        await asyncio.sleep(0.05)
        theirs.setblocking(False)
        asked = [json.loads(line) for line in theirs.recv(4096).splitlines()]
        for question in asked:  # one after the other: each is over before the next one is answered
            theirs.send(json.dumps({"ack": question["seq"], "result": question["op"]}).encode() + b"\n")
            await asyncio.sleep(0.05)
        async with asyncio.timeout(5):
            assert [answer["result"] for answer in await asyncio.gather(*asking)] == ["first", "second", "third"]
        theirs.close()
        await listening
        peer.close()

    asyncio.run(test())


# In place of a master: says that the process of a number, or no process at all, is a worker of its own.
LIAR = """
import json, os, socket, sys
control, pid = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
ours, theirs = socket.socketpair()
about = os.pidfd_open(pid) if pid else os.open("/dev/null", os.O_RDONLY)
told = json.dumps({"event": "process", "kind": "worker", "number": 0, "pid": pid})
socket.send_fds(control, [told.encode()], [ours.fileno(), about])
"""


def _told_by_a_liar(pid: int, uid: int) -> list[int]:
    """The pids of the processes that are believed in."""
    believed = []

    def appeared(_kind: str, pid: int, pidfd: int, stream: socket.socket) -> None:
        believed.append(pid)
        os.close(pidfd)
        stream.close()

    master = Master(lambda control: [sys.executable, "-c", LIAR, str(control), str(pid)], (), uid)
    asyncio.run(asyncio.wait_for(master.run(appeared), 20))
    return believed


def test_only_the_filters_own_processes_are_taken_for_such(stranger: subprocess.Popen[bytes]) -> None:
    before = os.listdir("/proc/self/fd")
    assert _told_by_a_liar(stranger.pid, os.getuid()) == [stranger.pid]
    with pytest.raises(HostError, match="isn't of a process of the filter"):
        _told_by_a_liar(stranger.pid, os.getuid() + 1)
    with pytest.raises(HostError, match="isn't of a process of the filter"):
        _told_by_a_liar(0, os.getuid())
    assert os.listdir("/proc/self/fd") == before
    assert stranger.poll() is None


def test_nothing_is_left_of_one_that_is_ended_at_once(stranger: subprocess.Popen[bytes]) -> None:
    async def test() -> None:
        with socket.socket() as tcp, socket.socket() as dns:
            filter_ = egress.Filter(egress.FilterConfig("", os.getuid()), tcp, dns)
            ours, theirs = socket.socketpair()
            before = os.listdir("/proc/self/fd")
            filter_._appeared("worker", stranger.pid, os.pidfd_open(stranger.pid), ours.dup())
            await filter_.close()  # before the task of its own has taken its first step
            assert os.listdir("/proc/self/fd") == before
            ours.close()
            assert theirs.recv(1) == b""
            theirs.close()

    asyncio.run(test())
    assert stranger.wait(10) < 0


def test_why_a_filter_cant_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def command(**_: object) -> list[str]:
        return [str(tmp_path / "missing")]

    async def test() -> None:
        config = egress.FilterConfig("", os.getuid(), artifacts=tmp_path / "artifacts")
        with socket.socket() as tcp, socket.socket() as dns:
            started = egress.Filter(config, tcp, dns)
            with pytest.raises(HostError, match="No such file"):
                await started.start()
            assert not _holds(tmp_path / "artifacts")

    monkeypatch.setattr(egress, "filter_command", command)
    asyncio.run(test())


def _holds(directory: Path) -> bool:
    links = [Path("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return any(os.path.lexists(link) and link.readlink() == directory for link in links)


def test_a_policy_that_no_process_could_read_is_refused_by_the_daemon() -> None:
    async def test() -> None:
        tcp, dns = socket.socketpair()
        with tcp, dns:
            it = egress.Filter(egress.FilterConfig("", os.getuid()), tcp, dns)
            long = {"rules": ["example.com"] * 400_000}
            for refused in (it.register("10.0.0.2", long, lambda _: None), it.change("10.0.0.2", long)):
                with pytest.raises(HostError, match="longer than 4 MiB"):
                    await refused

    asyncio.run(test())
