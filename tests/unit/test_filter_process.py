"""The daemon's view of the filter's processes, without a filter: what is left when one has ended, or can't be started."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from pathlib import Path

import pytest

from sandbox.host import filter as egress
from sandbox.host.errors import HostError
from sandbox.host.filter_process import Peer, PeerEnded


async def _greeted(_: Peer) -> None:
    pass


def test_one_that_has_ended_is_not_killed_by_its_number() -> None:
    async def test() -> None:
        victim = subprocess.Popen(["sleep", "60"])
        pidfd = os.pidfd_open(victim.pid)
        ours, theirs = socket.socketpair()
        peer = Peer("worker", victim.pid, pidfd, lambda _: None)
        listening = asyncio.create_task(peer.listen(ours, _greeted))
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
