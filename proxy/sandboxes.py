"""What the filter knows of its sandboxes: policy, synthetic addresses and open connections, by source address.

State without I/O, with one writer (control.py for policies). An unknown source address has no entry and gets nothing.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol

from proxy.policy import Decision, Policy, Way, decide, way

SYNTHETIC = IPv4Network("198.18.0.0/15")
MAX_NAMES = 2_048
MAX_CONNECTIONS = 512


class Connection(Protocol):
    """An open way from a sandbox to a server."""

    name: str
    port: int

    def permitted(self, policy: Policy) -> bool: ...
    def abort(self) -> None:
        """No byte passes any more in either direction once this has returned."""


class Turns:
    """One sandbox's look-ups of names on the host: some at a time, some more waiting, and no others.

    They are slow, and share a number of threads with those of all sandboxes.
    """

    AT_ONCE, WAITING = 8, 64

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(self.AT_ONCE)
        self._taken = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[bool]:
        """Wait for a turn; gives False at once if too many wait already."""
        if self._taken >= self.AT_ONCE + self.WAITING:
            yield False
            return
        self._taken += 1
        try:
            async with self._slots:
                yield True
        finally:
            self._taken -= 1


class Names:
    """The synthetic addresses of one sandbox: a table of bounded size, the least recently used name goes first.

    Addresses are dealt out in a circle over all 131,070, so that a stale one is hardly ever another name; and if it
    is, the name in TLS or HTTP differs and the connection is refused.
    """

    def __init__(self) -> None:
        self._address_of: OrderedDict[str, IPv4Address] = OrderedDict()
        self._name_of: dict[IPv4Address, str] = {}
        self._last = 0

    def address(self, name: str, in_use: Counter[str]) -> IPv4Address | None:
        """The address that stands for the name; None if the table is full of names with open connections."""
        if (known := self._address_of.get(name)) is not None:
            self._address_of.move_to_end(name)
            return known
        if len(self._address_of) >= MAX_NAMES and not self._forget_one(in_use):
            return None
        address = self._free_address()
        self._address_of[name], self._name_of[address] = address, name
        return address

    def name(self, address: IPv4Address) -> str | None:
        if (name := self._name_of.get(address)) is not None:
            self._address_of.move_to_end(name)
        return name

    def _forget_one(self, in_use: Counter[str]) -> bool:
        oldest = next((name for name in self._address_of if not in_use[name]), None)
        if oldest is not None:
            del self._name_of[self._address_of.pop(oldest)]
        return oldest is not None

    def _free_address(self) -> IPv4Address:
        while True:
            self._last = self._last % (SYNTHETIC.num_addresses - 2) + 1  # neither the first nor the last one
            if (address := SYNTHETIC[self._last]) not in self._name_of:
                return address


@dataclass(slots=True)
class Sandbox:
    address: str
    policy: Policy
    names: Names = field(default_factory=Names)
    connections: set[Connection] = field(default_factory=set)
    accepted: int = 0  # connections that hold a place, including those that have no name yet
    look_ups: Turns = field(default_factory=Turns)
    in_use: Counter[str] = field(default_factory=Counter)  # names with open connections

    def decide(self, name: str, port: int | None) -> Decision:
        return decide(self.policy, name, port)

    def synthetic(self, name: str) -> IPv4Address | None:
        return self.names.address(name, self.in_use)

    def opened(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.in_use[connection.name] += 1

    def closed(self, connection: Connection) -> None:
        if connection in self.connections:
            self.connections.discard(connection)
            self.in_use -= Counter([connection.name])


class Sandboxes:
    def __init__(self) -> None:
        self._by_address: dict[str, Sandbox] = {}

    def get(self, address: str) -> Sandbox | None:
        return self._by_address.get(address)

    def __iter__(self) -> Iterator[Sandbox]:
        return iter(self._by_address.values())

    def set(self, address: str, policy: Policy) -> None:
        """From here on the policy is in force: for what is new, and for what is open."""
        sandbox = self._by_address.get(address)
        if sandbox is None:
            self._by_address[address] = Sandbox(address, policy)
            return
        sandbox.policy = policy
        for connection in [open_ for open_ in sandbox.connections if not open_.permitted(policy)]:
            connection.abort()

    def drop(self, address: str) -> None:
        """Forget the sandbox and its names. The next one with this address starts from nothing."""
        if (sandbox := self._by_address.pop(address, None)) is None:
            return
        # A connection that is still before its decision holds this object: it must find nothing allowed in it.
        sandbox.policy = replace(sandbox.policy, access="off")
        for connection in list(sandbox.connections):
            connection.abort()


def may_go_on(policy: Policy, name: str, port: int, tls: bool, how: Way) -> bool:
    """May a connection that was opened under another policy stay open? Inspected is always strict enough."""
    return decide(policy, name, port).allowed and (how == "inspect" or way(policy, tls=tls) == how)
