"""A passage: one admitted connection, and the one name and port that everything in it must be for.

It is what a sandbox has open, what a narrower policy ends, and what network records are about. It carries no bytes.
"""

import asyncio
from dataclasses import dataclass, field
from typing import Protocol

from proxy.policy import Decision, Policy, Way
from proxy.records import NetworkRecord, Records
from proxy.sandboxes import Sandbox, may_go_on


class Denied(Exception):
    """A refusal on its way to the one who asked and to the record."""

    def __init__(self, reason: str, rule: str = "") -> None:
        super().__init__(reason)
        self.reason, self.rule = reason, rule


class Carrier(Protocol):
    """Moves the bytes of a passage. After `abort` has returned, none moves any more."""

    def abort(self) -> None: ...


@dataclass(eq=False, slots=True)
class Passage:
    sandbox: Sandbox
    name: str
    port: int
    tls: bool
    how: Way
    rule: str
    already: bytes  # what the client has sent up to the decision
    records: Records
    carrier: Carrier | None = None
    task: asyncio.Task[None] | None = field(default_factory=asyncio.current_task)

    def decide(self) -> Decision:
        """Ask the policy that is in force now."""
        return self.sandbox.decide(self.name, self.port)

    def permitted(self, policy: Policy) -> bool:
        return may_go_on(policy, self.name, self.port, self.tls, self.how)

    def abort(self) -> None:
        if self.carrier is not None:
            self.carrier.abort()
        elif self.task is not None:
            self.task.cancel()  # it is still resolving or dialling

    def allowed(self, reason: str = "", *, method: str | None, path: str | None = None, size: int = 0) -> None:
        """Record what passed, or with a reason what was allowed and failed."""
        self._record("allow", self.rule, reason, method, path, size)

    def denied(self, denied: Denied, *, method: str | None, path: str | None = None) -> None:
        self._record("deny", denied.rule, denied.reason, method, path, 0)

    def _record(self, decision: str, rule: str, reason: str, method: str | None, path: str | None, size: int) -> None:
        self.records.add(
            NetworkRecord(
                self.sandbox.address, self.sandbox.policy.phase, self.name, self.port, decision,
                rule, reason, method, path, size,
            )
        )  # fmt: skip
