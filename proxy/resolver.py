"""The sandboxes' resolver: answers names with synthetic addresses, and never asks anybody.

    datagram ─ known source? ─ within its rate? ─ parsed ─ localhost? ─ A: synthetic address; others: empty
                  │ no: dropped                      │ no host name, or another type of one that is denied: REFUSED + record

No query leaves the host, so a name that is asked for can't carry anything out. A name that may not be reached has an address
like any other: what is refused then is the connection, which says why; clients take a refused name for a fault of the
network, and try again for minutes.
"""

import asyncio
import logging
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from proxy import dnswire
from proxy.dnswire import Code, Question
from proxy.names import BadName, canonical
from proxy.policy import decide_name
from proxy.records import NetworkRecord, Records
from proxy.sandboxes import Sandbox, Sandboxes
from proxy.synthetic import Synthetic

log = logging.getLogger(__name__)

DNS_PORT = 53
TTL = 60  # the answer stays right for as long as the daemon runs, and is free
LOCALHOST: dict[int, IPv4Address | IPv6Address] = {
    dnswire.A: IPv4Address("127.0.0.1"),
    dnswire.AAAA: IPv6Address("::1"),
}


def respond(datagram: bytes, sandbox: Sandbox, records: Records, synthetic: Synthetic) -> bytes | None:
    """The answer to one datagram; None where there is nothing to answer to."""
    if not dnswire.is_query(datagram):
        return None
    if not dnswire.is_plain_query(datagram):
        return dnswire.answer(datagram, Code.NOTIMP)
    question = dnswire.read_question(datagram)
    if question is None:
        return None
    if question.network != dnswire.INTERNET:
        return dnswire.answer(datagram, Code.REFUSED, question)
    code, address = _decide(question, sandbox, records, synthetic)
    return dnswire.answer(datagram, code, question, address, TTL)


def _decide(
    question: Question, sandbox: Sandbox, records: Records, synthetic: Synthetic
) -> tuple[Code, IPv4Address | IPv6Address | None]:
    try:
        name = canonical(_without_service(question.name))
    except BadName as error:
        _deny(records, sandbox, question.name, "", f"not a host name: {error}")
        return Code.REFUSED, None
    if name == "localhost" or name.endswith(".localhost"):
        return Code.NOERROR, LOCALHOST.get(question.kind)
    if name == question.name.lower() and question.kind in (dnswire.A, dnswire.AAAA):
        return Code.NOERROR, synthetic.give(sandbox.address, name) if question.kind == dnswire.A else None
    decision = decide_name(sandbox.policy, name)
    if not decision.allowed:
        _deny(records, sandbox, name, decision.rule, decision.reason)
        return Code.REFUSED, None
    return Code.NOERROR, None


def _without_service(text: str) -> str:
    """_https._tcp.example.com asks about a service of example.com: the policy for that name decides."""
    labels = text.split(".")
    while len(labels) > 1 and labels[0].startswith("_"):
        labels.pop(0)
    return ".".join(labels)


def _deny(records: Records, sandbox: Sandbox, name: str, rule: str, reason: str) -> None:
    records.add(
        NetworkRecord(
            sandbox.address, sandbox.policy.phase, name, DNS_PORT, "deny", rule=rule, reason=reason, method="DNS"
        )
    )


class ResolverProtocol(asyncio.DatagramProtocol):
    """The thin shell: datagrams in, datagrams out. Serves until its transport is closed."""

    def __init__(self, sandboxes: Sandboxes, records: Records, synthetic: Synthetic) -> None:
        self._sandboxes, self._records, self._synthetic = sandboxes, records, synthetic
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        sandbox = self._sandboxes.get(addr[0])
        if sandbox is None or self._transport is None or not sandbox.queries.take():
            return
        try:
            reply = respond(data, sandbox, self._records, self._synthetic)
        except Exception:
            # Whatever a tenant's datagram does to the parser stays that tenant's problem: no answer.
            log.exception("answering a DNS query of %s failed", addr[0])
            return
        if reply is not None:
            self._transport.sendto(reply, addr)

    def error_received(self, exc: Exception) -> None:
        log.info("the resolver's socket reports: %s", exc)
