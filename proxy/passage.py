"""A passage: one admitted connection, and the one host and port that everything in it must be for.

It is what a sandbox has open, what a narrower policy ends, and what network records are about. It carries no bytes.
"""

import asyncio
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal, NamedTuple, Protocol

from proxy.addresses import Address
from proxy.destination import Denied
from proxy.policy import Decision, Policy, decide_connection, decide_request, relays, way
from proxy.records import NetworkRecord, Records
from proxy.sandboxes import Sandbox

# splice: TLS, untouched after its handshake was seen. inspect: opened by mitmproxy. relay: any bytes, by a tcp:// rule.
Way = Literal["splice", "inspect", "relay"]


class Asked(NamedTuple):
    """A request that is under way: what the policy may be asked about again."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]


class Carrier(Protocol):
    """Moves the bytes of a passage. After `abort` has returned, none moves any more."""

    def abort(self) -> None: ...


@dataclass(eq=False, slots=True)
class Passage:
    sandbox: Sandbox
    name: str  # canonical, or a dotted address where a rule allows one
    port: int
    tls: bool
    how: Way
    rule: str
    already: bytes  # what the client has sent up to the decision
    records: Records
    absolute: bool = False  # plain HTTP at the explicit proxy: requests whose target is a whole URL
    cacheable: bool = True  # see reach.way
    carrier: Carrier | None = None
    requests: dict[object, Asked] = field(default_factory=dict)  # under way in an inspected connection
    addresses: set[Address] = field(default_factory=set)  # that it has been dialled to
    task: asyncio.Task[None] | None = field(default_factory=asyncio.current_task)

    def decide(self, policy: Policy | None = None) -> Decision:
        """May this connection be? By the policy that is in force now, or by another."""
        policy = policy or self.sandbox.policy
        if self.how == "relay":
            return relays(policy, self.name, self.port) or Decision(False, "", "no tcp:// rule allows it any more")
        return decide_connection(policy, self.name, self.port, tls=self.tls)

    def decide_request(self, asked: Asked, policy: Policy | None = None) -> Decision:
        return decide_request(policy or self.sandbox.policy, self.name, self.port, tls=self.tls, **asked._asdict())

    def permitted(self, policy: Policy) -> bool:
        """May it stay open under another policy? Inspected is always strict enough, spliced is not."""
        if not self.decide(policy).allowed or self._leads_astray(policy):
            return False
        if self.how == "splice":
            return way(policy, self.name, self.port, tls=self.tls, cacheable=self.cacheable) == "splice"
        return all(self.decide_request(asked, policy).allowed for asked in self.requests.values())

    def dialled(self, server: socket.socket) -> None:
        """Note where it leads. Closes it and raises Denied where a policy that came meanwhile doesn't permit that."""
        with suppress(OSError):  # it has been reset already
            self.addresses.add(ip_address(server.getpeername()[0]))
        if not self.permitted(self.sandbox.policy):
            server.close()
            raise Denied("another policy has come, and this connection doesn't fit it")

    def _leads_astray(self, policy: Policy) -> bool:
        return any(address in network for address in self.addresses for network in policy.denied_networks)

    def abort(self) -> None:
        if self.carrier is not None:
            self.carrier.abort()
        elif self.task is not None:
            self.task.cancel()  # it is still resolving or dialling

    def allowed(
        self, reason: str = "", *, method: str | None, path: str | None = None, size: int = 0, rule: str | None = None
    ) -> None:
        """Record what passed, or with a reason what was allowed and failed."""
        self._record("allow", self.rule if rule is None else rule, reason, method, path, size)

    def denied(self, denied: Denied, *, method: str | None, path: str | None = None) -> None:
        self._record("deny", denied.rule, denied.reason, method, path, 0)

    def _record(self, decision: str, rule: str, reason: str, method: str | None, path: str | None, size: int) -> None:
        self.records.add(
            NetworkRecord(
                self.sandbox.address, self.sandbox.policy.phase, self.name, self.port, decision,
                rule, reason, method, path, size,
            )
        )  # fmt: skip
