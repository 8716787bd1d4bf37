"""The last decision, and the only place from which anything leaves: a permitted name is resolved, checked and dialled.

The address that was checked is the one that is dialled; there is no second look-up in between. Decides nothing about
names: the caller has asked the policy.
"""

import asyncio
import os
import socket
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proxy.addresses import Address, Network, Refused, permitted
from proxy.destination import is_address
from proxy.names import BadName, canonical, covering
from proxy.sandboxes import Turns

RESOLVE_SECONDS, CONNECT_SECONDS = 15.0, 10.0
CACHE_SECONDS, CACHE_NAMES = 20.0, 4_096
RESOLVER_THREADS = 32
KEEPALIVE_SECONDS = 120
MAX_ADDRESSES = 4  # of one name, tried one after another


class DialError(Exception):
    """The server can't be reached (it is not refused). One sentence: what was tried, and why it failed."""


def read_hosts(text: str) -> dict[str, list[str]]:
    """A file in the format of /etc/hosts: name → addresses. Lines that name no host are passed over."""
    table: dict[str, list[str]] = {}
    for line in text.splitlines():
        address, *names = line.partition("#")[0].split() or [""]
        for name in names:
            try:
                table.setdefault(canonical(name), []).append(address)
            except BadName:
                continue
    return table


class Dialler:
    """`hosts`: names resolved by a file. `private`: names and networks that may be private. `own`: the host's addresses."""

    def __init__(
        self, hosts: Mapping[str, list[str]], private: Iterable[str | Network], own: Iterable[Address]
    ) -> None:
        self._hosts, self._own = hosts, frozenset(own)
        names_and_networks = tuple(private)
        self._private_names = tuple(each for each in names_and_networks if isinstance(each, str))
        self._private_networks = tuple(each for each in names_and_networks if not isinstance(each, str))
        self._cache: OrderedDict[str, tuple[float, list[Address]]] = OrderedDict()
        # By who asks, too: nobody waits in another's queue.
        self._under_way: dict[tuple[str, Turns], asyncio.Task[list[Address]]] = {}
        # getaddrinfo blocks; its own threads keep slow names of one sandbox from starving everything else.
        self._threads = ThreadPoolExecutor(RESOLVER_THREADS, thread_name_prefix="resolve")

    async def resolve(self, host: str, turns: Turns, denied: Iterable[Network] = ()) -> list[Address]:
        """The addresses that may be dialled for this host, IPv4 first; raises Refused or DialError.

        `turns` belongs to who asks: a look-up takes one of them for as long as it lasts, wanted or not. `denied` are
        networks that nothing of who asks may lead to.
        """
        addresses = self._permitted(host, [host]) if is_address(host) else await self._resolve(host, turns)
        for address in addresses:
            if any(address in network for network in denied):
                raise Refused(f"it resolves to {address}, which a rule denies")
        return addresses

    async def _resolve(self, name: str, turns: Turns) -> list[Address]:
        until, addresses = self._cache.get(name, (0.0, []))
        if time.monotonic() < until:
            return addresses
        asked = name, turns
        if (task := self._under_way.get(asked)) is None:
            task = self._under_way[asked] = asyncio.create_task(self._look_up(name, turns))
            task.add_done_callback(lambda task: self._looked_up(asked, task))
        # Shielded: other connections may be waiting for the same answer.
        return await asyncio.shield(task)

    def _looked_up(self, asked: tuple[str, Turns], task: asyncio.Task[list[Address]]) -> None:
        del self._under_way[asked]
        if not task.cancelled():
            task.exception()  # seen, even if nobody waits for it any more

    async def _look_up(self, name: str, turns: Turns) -> list[Address]:
        async with turns.take() as my_turn:
            if not my_turn:
                raise DialError(f"resolving {name} was not tried: too many names are being resolved at once")
            answers = self._hosts.get(name) or await self._ask_system(name)
        addresses = self._permitted(name, answers)
        addresses.sort(key=lambda address: address.version)
        self._cache[name] = (time.monotonic() + CACHE_SECONDS, addresses)
        if len(self._cache) > CACHE_NAMES:
            self._cache.popitem(last=False)
        return addresses

    def _permitted(self, host: str, answers: Iterable[str]) -> list[Address]:
        by_name = covering(host, self._private_names) is not None
        return permitted(answers, self._own, may_be_private=by_name, private_networks=self._private_networks)

    async def _ask_system(self, name: str) -> list[str]:
        # The dot keeps the host's search domains out of it: evil.test must not become evil.test.corp.example.
        asked = asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(name + ".", None, type=socket.SOCK_STREAM)
        )
        try:
            return [str(info[4][0]) for info in await asyncio.wait_for(asked, RESOLVE_SECONDS)]
        except TimeoutError as error:
            raise DialError(f"resolving {name} took longer than {RESOLVE_SECONDS:.0f} s") from error
        except OSError as error:
            raise DialError(f"{name} can't be resolved: {error.strerror or error}") from error

    async def connect(self, host: str, port: int, turns: Turns, denied: Iterable[Network] = ()) -> socket.socket:
        """A connected, non-blocking socket to a permitted address of the host; raises Refused or DialError."""
        failure = "no address was tried"
        for address in (await self.resolve(host, turns, denied))[:MAX_ADDRESSES]:
            try:
                return await self._connect_to(address, port)
            except TimeoutError:
                failure = f"{address} didn't answer within {CONNECT_SECONDS:.0f} s"
            except OSError as error:
                failure = f"{address}: {os.strerror(error.errno) if error.errno else error}"
        raise DialError(f"connecting to {host} port {port} failed: {failure}")

    async def _connect_to(self, address: Address, port: int) -> socket.socket:
        outgoing = socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_STREAM)
        try:
            outgoing.setblocking(False)
            outgoing.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # For connections that say nothing for hours: what translates addresses on the way forgets them otherwise,
            # some after 350 s, and a server that went away is noticed.
            outgoing.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            outgoing.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_SECONDS)
            outgoing.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_SECONDS)
            async with asyncio.timeout(CONNECT_SECONDS):
                await asyncio.get_running_loop().sock_connect(outgoing, (str(address), port))
        except BaseException:
            outgoing.close()
            raise
        return outgoing


def hosts_file(path: str | None) -> dict[str, list[str]]:
    """The names that the administrator resolves by a file, or none."""
    return read_hosts(Path(path).read_text(encoding="utf-8", errors="replace")) if path else {}


__all__ = ["DialError", "Dialler", "Refused", "hosts_file", "read_hosts"]
