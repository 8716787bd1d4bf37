"""The daemon's side of the filter: tells its processes policies, hears their records, tells all anew to one that is new.

It decides nothing (proxy/ does). A process serves only after it has been told every policy, so none ever decides by less
than what holds; while all are dead nothing leaves, and connections wait on the sockets in the gateway for the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.launch import filter_command
from proxy.lines import MAX_LINE
from sandbox.host.errors import HostError
from sandbox.host.filter_process import Master, Message, Peer, PeerEnded, Refused
from sandbox.host.trusted import host_addresses, host_bundle

_log = logging.getLogger("hutch")
type Record = Message
_ACK_TIMEOUT: Final = 30.0  # seconds: long enough for another filter to start
_START_TIMEOUT: Final = 180.0  # seconds: on an emulated processor Python alone takes a minute


@dataclass(frozen=True)
class FilterConfig:
    """What the filter is started with. `ca_pem`: key and certificate. `uid`: the host id that it runs as.

    `private_names`: names and networks that may be private. `artifacts`: a directory of its own for its cache, at most so
    many bytes. `upstream_trust`, `own_addresses`: whom to trust and whom to protect, where it isn't what the host says.
    """

    ca_pem: str
    uid: int
    private_names: tuple[str, ...] = ()
    hosts_file: Path | None = None
    artifacts: Path | None = None
    artifact_bytes: int = 0
    workers: int | None = None
    upstream_trust: Path | None = None
    own_addresses: tuple[str, ...] | None = None


class Filter:
    """The filter's processes and the policies that they have to enforce."""

    def __init__(self, config: FilterConfig, tcp: socket.socket, dns: socket.socket) -> None:
        self._config = config
        self._sockets = (tcp, dns)
        self._artifacts = _open_directory(config.artifacts, config.uid) if config.artifacts else None
        fds = (tcp.fileno(), dns.fileno(), *([self._artifacts] if self._artifacts is not None else []))
        self._master = Master(self._command, fds, config.uid)
        self._names_key = secrets.token_hex(16)
        self._policies: dict[str, Record] = {}
        self._listeners: dict[str, Callable[[Record], None]] = {}
        self._peers: dict[Peer, asyncio.Task[None]] = {}
        self._serving: set[Peer] = set()
        self._running = asyncio.Event()
        # Done once a worker has served, or it is clear that none will.
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id of the master that runs now, or 0."""
        return self._master.pid

    def pids(self, kind: str = "worker") -> list[int]:
        """The process ids of those of a kind that serve now."""
        return [peer.pid for peer in self._serving if peer.kind == kind]

    async def start(self) -> None:
        """Start the processes and wait until a worker serves. Raises HostError when none will, and leaves nothing."""
        self._keeper = asyncio.create_task(self._keep_running())
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                await self._started
        except TimeoutError as error:
            await self.close()
            reason = f"it did not become ready within {_START_TIMEOUT:g} s"
            raise HostError(f"cannot start the filter: {reason}", "see its messages in the daemon's log") from error
        except BaseException:
            await self.close()
            raise

    def _cannot_start(self, reason: HostError) -> bool:
        """Have start() raise that; False if it doesn't wait: what has served once is started again, whatever happens."""
        if self._started.done():
            return False
        self._started.set_exception(reason)
        return True

    # ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def register(self, address: str, policy: Record, listener: Callable[[Record], None]) -> None:
        """Put `policy` in force for a sandbox's address; its records go to `listener` from now on."""
        _check_size(policy)
        self._policies[address] = policy
        self._listeners[address] = listener
        try:
            await self._tell_all(address, policy)
        except BaseException:
            self._policies.pop(address, None)
            self._listeners.pop(address, None)
            raise

    async def change(self, address: str, policy: Record) -> None:
        """Put another policy in force for a running sandbox; what it no longer allows is closed when this returns."""
        _check_size(policy)
        before = self._policies.get(address)
        if before is None:
            raise HostError("cannot change the network: the sandbox has just ended", "run the task again")
        self._policies[address] = policy
        try:
            await self._tell_all(address, policy)
        except HostError:  # refused, or nobody is there to obey: not where only the one who asked has gone
            if self._policies.get(address) is policy:
                self._policies[address] = before
            raise

    async def drop(self, address: str) -> None:
        """Refuse everything from `address` again and close its connections. Never raises: no filter means refused."""
        self._policies.pop(address, None)
        with contextlib.suppress(HostError, TimeoutError, OSError):
            await self._tell_each({"op": "drop", "sandbox": address})
        self._listeners.pop(address, None)

    async def _tell_all(self, address: str, policy: Record) -> None:
        """Have a policy obeyed by every process that serves. Others are told before they do."""
        message = {"op": "set", "sandbox": address, "policy": policy}
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                while self._policies.get(address) is policy:  # else it is over, and the address may be another's
                    await self._running.wait()
                    if await self._tell_each(message):
                        return
        except TimeoutError as error:
            raise HostError(
                f"cannot tell the filter a policy: it did not answer for {_ACK_TIMEOUT:g} s", "see the daemon's log"
            ) from error

    async def _tell_each(self, message: Record) -> bool:
        """Whether at least one that serves has obeyed; who died over it doesn't count. Raises Refused."""
        peers = [peer for peer in self._serving if peer.kind == "worker"]
        answers = await asyncio.gather(*(peer.ask(message) for peer in peers), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, PeerEnded):
                raise answer
        return any(not isinstance(answer, BaseException) for answer in answers)

    # ── artifacts ────────────────────────────────────────────────────────────────────────────────────────────────

    async def artifacts(self) -> Record:
        """What the artifact cache holds: {"entries", "bytes", "limit", "items": [{"url", "bytes", "validated"}]}."""
        return dict((await self._ask_artifacts({"op": "artifacts-list"}))["result"])

    async def clear_artifacts(self) -> Record:
        """Drop all that the artifact cache holds; what that freed."""
        return dict((await self._ask_artifacts({"op": "artifacts-clear"}))["result"])

    async def _ask_artifacts(self, message: Record) -> Record:
        peer = next((peer for peer in self._serving if peer.kind == "artifacts"), None)
        if peer is None:
            raise HostError("cannot ask the artifact cache: it does not run", "try again, or see the daemon's log")
        return await peer.ask(message)

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _keep_running(self) -> None:
        pause = 0.1
        while True:
            started = asyncio.get_running_loop().time()
            fault = HostError("cannot start the filter: it ended at once", "see its messages in the daemon's log")
            try:
                await self._master.run(self._appeared)
            except HostError as error:
                fault = error
                _log.error("the filter is started again: %s", error)
            except Exception:  # without another filter no task would ever run again
                _log.exception("the filter ended by a fault; another is started")
            if self._cannot_start(fault):
                return
            await self._end_peers()
            # One that dies at once is started ever more slowly, one that lived long at once.
            lived = asyncio.get_running_loop().time() - started
            pause = 0.1 if lived > 10 else min(pause * 2, 10.0)
            await asyncio.sleep(pause)

    def _appeared(self, kind: str, pid: int, pidfd: int, stream: socket.socket) -> None:
        """The master has forked a process."""
        peer = Peer(kind, pid, pidfd, stream, self._heard)
        self._peers[peer] = task = asyncio.create_task(peer.listen(self._greet))
        task.add_done_callback(lambda _: self._gone(peer))  # also of a task that is cancelled before its first step

    def _gone(self, peer: Peer) -> None:
        peer.close()
        del self._peers[peer]
        self._serving.discard(peer)
        if not any(each.kind == "worker" for each in self._serving):
            self._running.clear()

    async def _greet(self, peer: Peer) -> None:
        try:
            await peer.ask(await self._hello())
        except PeerEnded:
            raise
        except Exception as error:
            if peer.kind == "worker":  # the next one couldn't use it either; without the cache it goes on
                self._cannot_start(_why_not(error))
            raise
        if peer.kind == "worker":
            await self._tell_what_holds(peer)
            await peer.ask({"op": "serve"})
            self._running.set()
            if not self._started.done():
                self._started.set_result(None)
        else:
            self._serving.add(peer)

    async def _hello(self) -> Record:
        config = self._config
        own = config.own_addresses
        return {
            "op": "hello",
            "ca_pem": config.ca_pem,
            "upstream_trust": str(config.upstream_trust or host_bundle()),
            "private_names": list(config.private_names),
            "host_addresses": await asyncio.to_thread(host_addresses) if own is None else list(own),
            "names_key": self._names_key,
            "artifact_bytes": config.artifact_bytes,
        }

    async def _tell_what_holds(self, peer: Peer) -> None:
        """Every policy, in the form that holds when the last one has been told: from then on it is told like the others."""
        told: dict[str, Record] = {}
        while True:
            if gone := [address for address in told if address not in self._policies]:
                await peer.ask({"op": "drop", "sandbox": gone[0]})
                del told[gone[0]]
                continue
            pending = [(a, policy) for a, policy in self._policies.items() if told.get(a) is not policy]
            if not pending:
                self._serving.add(peer)
                return
            for address, policy in pending:
                with contextlib.suppress(Refused):  # register() has told it who gave that policy
                    await peer.ask({"op": "set", "sandbox": address, "policy": policy})
                told[address] = policy

    def _command(self, control: int) -> list[str]:
        tcp, dns = self._sockets
        return filter_command(
            uid=self._config.uid,
            gid=self._config.uid,
            control=control,
            tcp=tcp.fileno(),
            dns=dns.fileno(),
            artifacts=self._artifacts,
            workers=self._config.workers,
            hosts=self._config.hosts_file,
        )

    def _heard(self, message: Record) -> None:
        if message.get("event") == "network":
            listener = self._listeners.get(message.get("sandbox", ""))
            if listener is not None:
                listener({key: value for key, value in message.items() if key not in ("event", "sandbox")})

    async def _end_peers(self) -> None:
        """All processes of a master that has ended."""
        for peer, task in list(self._peers.items()):
            peer.kill()
            task.cancel()
        if self._peers:
            await asyncio.wait(list(self._peers.values()), timeout=10)

    async def close(self) -> None:
        """End the processes."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        self._master.end()
        await self._end_peers()
        if self._artifacts is not None:
            os.close(self._artifacts)
            self._artifacts = None


def _check_size(policy: Record) -> None:
    """Raise HostError for a policy that no process of the filter would read: each would end, and so would the next."""
    if len(json.dumps(policy)) > MAX_LINE - 1024:  # the rest of the message
        raise HostError(
            f"cannot put a network policy in force: it is longer than {MAX_LINE >> 20} MiB", "give it fewer rules"
        )


def _why_not(error: Exception) -> HostError:
    """A hello that can't be made, or used, for who starts the daemon."""
    match error:
        case Refused():
            reason, remedy = error.reason, "correct that, and start the daemon again"
        case HostError():
            reason, remedy = error.message, error.remedy
        case _:
            reason, remedy = str(error), "see the daemon's log"
    return HostError(f"cannot start the filter: {reason}", remedy)


def _open_directory(path: Path, uid: int) -> int:
    """The artifact cache's directory, owned by the filter with all that is in it: another daemon's may have been before."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.fchown(directory, uid, uid)
    for name in os.listdir(directory):
        # Of a file that has another name elsewhere, that other name would be given away with it.
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
            os.chown(name, uid, uid, dir_fd=directory, follow_symlinks=False)
    return directory
