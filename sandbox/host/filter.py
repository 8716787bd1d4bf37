"""The daemon's side of the filter process: starts it, tells it policies, hears its records, starts it again when it dies.

It decides nothing (proxy/ does). While the filter is dead nothing leaves: connections wait on the sockets in the gateway until
the next filter, which is told every policy anew, accepts and decides them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.launch import LaunchError, filter_command
from sandbox.host.errors import HostError

_log = logging.getLogger("hutch")
type Record = dict[str, Any]
_ACK_TIMEOUT = 30.0  # seconds: long enough for another filter to start
_START_TIMEOUT = 180.0  # seconds: on an emulated processor Python alone takes a minute
_MAX_LINE = 1 << 20
_HOST_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")


class _FilterEnded(HostError):
    """It died before it answered."""


@dataclass(frozen=True)
class FilterConfig:
    """What a filter process is started with. `ca_pem`: key and certificate. `uid`: the host id that it runs as."""

    ca_pem: str
    uid: int
    private_names: tuple[str, ...] = ()
    hosts_file: Path | None = None


def host_bundle() -> Path:
    """The host's own bundle of trusted certificates. Raises HostError when there is none."""
    for candidate in _HOST_BUNDLES:
        if Path(candidate).is_file():
            return Path(candidate)
    raise HostError("cannot find the host's trusted certificates", "apt-get install ca-certificates")


class Filter:
    """The filter process and the policies that it has to enforce."""

    def __init__(self, config: FilterConfig, tcp: socket.socket, dns: socket.socket) -> None:
        self._config = config
        self._sockets = (tcp, dns)
        self._policies: dict[str, Record] = {}
        self._listeners: dict[str, Callable[[Record], None]] = {}
        self._acks: dict[int, asyncio.Future[str | None]] = {}
        self._sequence = 0
        self._writer: asyncio.StreamWriter | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._running = asyncio.Event()
        self._has_served = False
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int:
        """The process id of the filter that runs now, or 0."""
        return self._process.pid if self._process else 0

    async def start(self) -> None:
        """Start the process and wait until it serves."""
        self._keeper = asyncio.get_running_loop().create_task(self._keep_running())
        waiting = asyncio.create_task(self._running.wait())
        done, _ = await asyncio.wait(
            (self._keeper, waiting), timeout=_START_TIMEOUT, return_when=asyncio.FIRST_COMPLETED
        )
        if waiting not in done:
            waiting.cancel()
            await self.close()
            raise HostError("cannot start the filter: it did not become ready", "see its messages in the daemon's log")

    async def register(self, address: str, policy: Record, listener: Callable[[Record], None]) -> None:
        """Put `policy` in force for a sandbox's address; its records go to `listener` from now on."""
        self._policies[address] = policy
        self._listeners[address] = listener
        try:
            await self._ask({"op": "set", "sandbox": address, "policy": policy})
        except BaseException:
            self._policies.pop(address, None)
            self._listeners.pop(address, None)
            raise

    async def drop(self, address: str) -> None:
        """Refuse everything from `address` again and close its connections. Never raises: no filter means refused."""
        self._policies.pop(address, None)
        with contextlib.suppress(HostError, TimeoutError, OSError):
            async with asyncio.timeout(_ACK_TIMEOUT):
                await self._send({"op": "drop", "sandbox": address})
        self._listeners.pop(address, None)

    async def _ask(self, message: Record) -> None:
        """Have `message` obeyed by the filter that runs, or by the next one if that dies."""
        try:
            async with asyncio.timeout(_ACK_TIMEOUT):
                while True:
                    await self._running.wait()
                    with contextlib.suppress(_FilterEnded):
                        return await self._send(message)
        except TimeoutError as error:
            raise HostError(
                f"cannot tell the filter a policy: it did not answer for {_ACK_TIMEOUT:g} s", "see the daemon's log"
            ) from error

    async def _send(self, message: Record) -> None:
        if self._writer is None or self._writer.is_closing():
            self._running.clear()
            raise _FilterEnded("cannot reach the filter: it has just ended", "try again")
        self._sequence += 1
        sequence = self._sequence
        ack = self._acks[sequence] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(json.dumps({**message, "seq": sequence}).encode() + b"\n")
            error = await ack
        finally:
            self._acks.pop(sequence, None)
        if error is not None:
            raise HostError(f"the filter refused a policy: {error}", "check the task's --allow rules")

    async def _keep_running(self) -> None:
        pause = 0.1
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await self._run_once()
            except Exception:  # without another filter no task would ever run again
                if not self._has_served:
                    raise  # start() tells it
                _log.exception("the filter ended by a fault; another is started")
            # One that dies at once is started ever more slowly, one that lived long at once.
            lived = asyncio.get_running_loop().time() - started
            pause = 0.1 if lived > 10 else min(pause * 2, 10.0)
            await asyncio.sleep(pause)

    async def _run_once(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    self._command(theirs), pass_fds=[theirs.fileno(), *(s.fileno() for s in self._sockets)],
                    stdin=subprocess.DEVNULL, env=_filter_environment(), start_new_session=True, cwd="/",
                )  # fmt: skip
            except (OSError, LaunchError) as error:
                ours.close()
                raise HostError(f"cannot start the filter: {error}", "hutch doctor") from error
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=_MAX_LINE)
        greeting = asyncio.create_task(self._greet())
        greeting.add_done_callback(self._greeted)
        try:
            while line := await reader.readline():
                self._heard(json.loads(line))
        except (ConnectionError, ValueError, asyncio.LimitOverrunError):
            pass  # a filter that talks nonsense is ended and started again, like one that died
        finally:
            self._running.clear()
            greeting.cancel()
            for ack in self._acks.values():
                if not ack.done():
                    ack.set_exception(_FilterEnded("cannot reach the filter: it ended", "try again"))
            self._writer.close()
            self._writer = None
            self._end_process()

    async def _greet(self) -> None:
        hello = {
            "op": "hello",
            "ca_pem": self._config.ca_pem,
            "upstream_trust": str(host_bundle()),
            "private_names": list(self._config.private_names),
            "host_addresses": await asyncio.to_thread(_host_addresses),
        }
        await self._send(hello)
        for address, policy in list(self._policies.items()):
            if self._policies.get(address) is policy:  # not dropped while others were told
                await self._send({"op": "set", "sandbox": address, "policy": policy})
        self._has_served = True
        self._running.set()

    def _greeted(self, greeting: asyncio.Task[None]) -> None:
        """Hang up on a filter that couldn't be greeted: it ends, and another is tried."""
        if greeting.cancelled() or (error := greeting.exception()) is None:
            return
        _log.error("the filter could not be told what holds: %s", error)
        if self._writer is not None:
            self._writer.close()

    def _command(self, control: socket.socket) -> list[str]:
        tcp, dns = self._sockets
        return filter_command(
            uid=self._config.uid,
            gid=self._config.uid,
            control=control.fileno(),
            tcp=tcp.fileno(),
            dns=dns.fileno(),
            hosts=self._config.hosts_file,
        )

    def _heard(self, message: Record) -> None:
        if "ack" in message:
            ack = self._acks.get(message["ack"])
            if ack is not None and not ack.done():
                ack.set_result(message.get("error"))
        elif message.get("event") == "network":
            listener = self._listeners.get(message.get("sandbox", ""))
            if listener is not None:
                listener({key: value for key, value in message.items() if key not in ("event", "sandbox")})

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(10)

    async def close(self) -> None:
        """End the process."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._end_process()


def _filter_environment() -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}


def _host_addresses() -> list[str]:
    """This host's own addresses: nothing inside may reach the host's services through the filter."""
    listed = subprocess.run(["ip", "-json", "address"], capture_output=True, timeout=10, check=True).stdout
    return [entry["local"] for link in json.loads(listed) for entry in link.get("addr_info", []) if "local" in entry]


def read_ca(path: Path) -> str | None:
    """The installation's CA (key and certificate, PEM), or None when it has not been made."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def write_ca(path: Path, pem: str) -> None:
    """Store a new CA, readable by root alone from its first byte."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(pem)
        file.flush()
        os.fsync(fd)
    temporary.rename(path)
