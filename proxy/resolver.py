"""The sandboxes' resolver: answers names with synthetic addresses, and never asks anybody.

    datagram ─ known source? ─ within its rate? ─ parsed ─ localhost? ─ permitted by policy? ─ A: synthetic address
                  │ no: dropped                                             │ no: REFUSED + record    others: empty

No query leaves the host, so a name that is asked for can't carry anything out.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import dns.exception
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from proxy.names import BadName, canonical
from proxy.policy import decide_name
from proxy.records import NetworkRecord, Records
from proxy.sandboxes import Sandbox, Sandboxes
from proxy.synthetic import Synthetic

log = logging.getLogger(__name__)

DNS_PORT = 53
TTL = 60  # the answer stays right for as long as the daemon runs, and is free
QUERIES_PER_SECOND = 500
BURST = 2_000
LOCALHOST = {dns.rdatatype.A: "127.0.0.1", dns.rdatatype.AAAA: "::1"}


def respond(datagram: bytes, sandbox: Sandbox, records: Records, synthetic: Synthetic) -> bytes | None:
    """The answer to one datagram; None where there is nothing to answer to."""
    try:
        query = dns.message.from_wire(datagram, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    if query.flags & dns.flags.QR:
        return None
    reply = dns.message.make_response(query, recursion_available=True)
    if query.opcode() != dns.opcode.QUERY or len(query.question) != 1:
        reply.set_rcode(dns.rcode.NOTIMP)
        return reply.to_wire()
    question = query.question[0]
    if question.rdclass != dns.rdataclass.IN:
        reply.set_rcode(dns.rcode.REFUSED)
        return reply.to_wire()
    _answer(reply, question, sandbox, records, synthetic)
    return reply.to_wire()


def _answer(
    reply: dns.message.Message, question: dns.rrset.RRset, sandbox: Sandbox, records: Records, synthetic: Synthetic
) -> None:
    text = question.name.to_text(omit_final_dot=True)
    try:
        name = canonical(_without_service(text))
    except BadName as error:
        reply.set_rcode(dns.rcode.REFUSED)
        _deny(records, sandbox, text, "", f"not a host name: {error}")
        return
    if name == "localhost" or name.endswith(".localhost"):
        _add(reply, question, LOCALHOST.get(question.rdtype))
        return
    decision = decide_name(sandbox.policy, name)
    if not decision.allowed:
        reply.set_rcode(dns.rcode.REFUSED)
        _deny(records, sandbox, name, decision.rule, decision.reason)
    elif question.rdtype == dns.rdatatype.A and name == text.lower():
        _add(reply, question, str(synthetic.give(sandbox.address, name)))


def _without_service(text: str) -> str:
    """_https._tcp.example.com asks about a service of example.com: the policy for that name decides."""
    labels = text.split(".")
    while len(labels) > 1 and labels[0].startswith("_"):
        labels.pop(0)
    return ".".join(labels)


def _add(reply: dns.message.Message, question: dns.rrset.RRset, address: str | None) -> None:
    if address is not None:
        reply.answer.append(dns.rrset.from_text(question.name, TTL, "IN", question.rdtype, address))


def _deny(records: Records, sandbox: Sandbox, name: str, rule: str, reason: str) -> None:
    records.add(
        NetworkRecord(
            sandbox.address, sandbox.policy.phase, name, DNS_PORT, "deny", rule=rule, reason=reason, method="DNS"
        )
    )


class RateLimit:
    """A bucket of queries for each source, so that one sandbox's flood doesn't silence the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, tuple[float, float]] = {}

    def allows(self, source: str) -> bool:
        now = self._clock()
        left, at = self._buckets.get(source, (float(BURST), now))
        left = min(BURST, left + (now - at) * QUERIES_PER_SECOND)
        self._buckets[source] = (max(0.0, left - 1), now)
        return left >= 1

    def forget(self, source: str) -> None:
        self._buckets.pop(source, None)


class ResolverProtocol(asyncio.DatagramProtocol):
    """The thin shell: datagrams in, datagrams out. Serves until its transport is closed."""

    def __init__(self, sandboxes: Sandboxes, records: Records, synthetic: Synthetic) -> None:
        self._sandboxes, self._records, self._rate = sandboxes, records, RateLimit()
        self._synthetic = synthetic
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str | Any, int]) -> None:
        sandbox = self._sandboxes.get(addr[0])
        if sandbox is None:
            self._rate.forget(addr[0])
            return
        if not self._rate.allows(addr[0]) or self._transport is None:
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
