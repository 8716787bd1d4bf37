"""The resolver's answers and its limits. Must not send a datagram anywhere."""

from __future__ import annotations

import time
from ipaddress import IPv4Address
from typing import Any

import dns.edns
import dns.message
import dns.name
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import parse
from proxy.records import NetworkRecord, Records
from proxy.resolver import respond
from proxy.sandboxes import Queries, Sandbox
from proxy.synthetic import SYNTHETIC, Hints, Synthetic

SYNTHETIC_NAMES = Synthetic(b"key", Hints())
ADDRESS = "10.0.0.2"


class Told(Records):
    """The records, kept."""

    def __init__(self) -> None:
        super().__init__(lambda: 0.0)
        self.denied: list[NetworkRecord] = []

    def add(self, record: NetworkRecord) -> None:
        self.denied.append(record)


@pytest.fixture
def told() -> Told:
    return Told()


def sandbox(access: str = "limited", *rules: str, address: str = ADDRESS, **more: Any) -> Sandbox:
    rules = rules or ("example.com",)
    return Sandbox(address, parse({"phase": "agent", "access": access, "rules": list(rules), **more}))


def ask(asked: Sandbox, told: Records, name: str, kind: str = "A", rdclass: str = "IN") -> dns.message.Message:
    query = dns.message.make_query(name, kind, rdclass)
    answer = respond(query.to_wire(), asked, told, SYNTHETIC_NAMES)
    assert answer is not None
    reply = dns.message.from_wire(answer)
    assert reply.id == query.id
    return reply


def addresses(reply: dns.message.Message) -> list[str]:
    return [item.to_text() for answer in reply.answer for item in answer]


def test_a_permitted_name_gets_its_own_address(told: Told) -> None:
    asked = sandbox()
    first, again = ask(asked, told, "example.com"), ask(asked, told, "EXAMPLE.com")
    other = ask(asked, told, "www.example.com")
    assert first.rcode() == dns.rcode.NOERROR
    assert addresses(first) == addresses(again) != addresses(other)
    address = IPv4Address(addresses(first)[0])
    assert address in SYNTHETIC
    assert SYNTHETIC_NAMES.stands_for(ADDRESS, address, "example.com")
    assert SYNTHETIC_NAMES.name(ADDRESS, address) == "example.com"
    assert told.denied == []


def test_a_sandbox_has_its_own_addresses(told: Told) -> None:
    one, two = sandbox(), sandbox("unrestricted", address="10.0.0.6")
    assert addresses(ask(one, told, "example.com")) != addresses(ask(two, told, "example.com"))


@pytest.mark.parametrize("name", ["evil.com", "badexample.com", "example.com.evil.com", "b.a.example.com"])
def test_a_denied_name_has_an_address_where_the_refusal_waits(told: Told, name: str) -> None:
    for asked in (sandbox("off"), sandbox("limited", "example.com", "deny a.example.com"),
                  sandbox("unrestricted", ceiling=["a.example.com"])):  # fmt: skip
        (text,) = addresses(ask(asked, told, name))
        assert SYNTHETIC_NAMES.name(ADDRESS, IPv4Address(text)) == name
        assert (ask(asked, told, name, "AAAA").rcode(), ask(asked, told, name, "AAAA").answer) == (
            dns.rcode.NOERROR,
            [],
        )
    assert told.denied == [], "the connection is refused, and recorded, by what it is for"


@pytest.mark.parametrize(
    "kind",
    ["AAAA", "TXT", "NULL", "CNAME", "HTTPS", "SVCB", "MX", "ANY", "NS", "SRV", "NAPTR", "DS", "AXFR", "TYPE65280"],
)
def test_other_types_are_empty(told: Told, kind: str) -> None:
    reply = ask(sandbox(), told, "example.com", kind)
    assert (reply.rcode(), reply.answer, told.denied) == (dns.rcode.NOERROR, [], [])


def test_services_of_a_permitted_name_are_empty(told: Told) -> None:
    assert ask(sandbox(), told, "_http._tcp.example.com", "SRV").rcode() == dns.rcode.NOERROR
    reply = ask(sandbox(), told, "_http._tcp.example.com", "A")
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    assert ask(sandbox(), told, "_http._tcp.other.com", "SRV").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["TXT", "HTTPS", "MX", "ANY"])
@pytest.mark.parametrize("name", ["evil.com", "badexample.com", "example.com.evil.com"])
def test_anything_else_of_a_denied_name_is_refused_and_recorded(told: Told, name: str, kind: str) -> None:
    reply = ask(sandbox(), told, name, kind)
    assert (reply.rcode(), reply.answer) == (dns.rcode.REFUSED, [])
    (record,) = told.denied
    assert (record.name, record.port, record.decision, record.rule) == (name, 53, "deny", name)
    assert record.reason


@pytest.mark.parametrize(
    "name", ["1.0.0.127.in-addr.arpa.x\\000.com", "127.0.0.1", "a\\@b.com", "a\\046b.com", "a_b.com", "."]
)
def test_what_is_no_name_is_refused(told: Told, name: str) -> None:
    assert ask(sandbox("unrestricted"), told, name).rcode() == dns.rcode.REFUSED
    assert told.denied


def test_localhost_is_the_sandbox_itself(told: Told) -> None:
    assert addresses(ask(sandbox("off"), told, "localhost")) == ["127.0.0.1"]
    assert addresses(ask(sandbox("off"), told, "x.localhost", "AAAA")) == ["::1"]
    assert addresses(ask(sandbox("off"), told, "localhost", "TXT")) == []


def test_other_classes_and_opcodes_are_not_served(told: Told) -> None:
    assert ask(sandbox(), told, "example.com", rdclass="CH").rcode() == dns.rcode.REFUSED
    query = dns.message.make_query("example.com", "A")
    query.set_opcode(dns.opcode.STATUS)
    answer = respond(query.to_wire(), sandbox(), told, SYNTHETIC_NAMES)
    assert answer is not None
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NOTIMP


def test_what_a_query_carries_beside_its_question_is_not_answered(told: Told) -> None:
    """EDNS options, further records: nothing of it comes back, and nothing of it is read as a question."""
    query = dns.message.make_query("example.com", "A", use_edns=0, payload=65_535, want_dnssec=True)
    query.use_edns(
        0, 0, 65_535, options=[dns.edns.GenericOption(65_001, b"secret" * 100), dns.edns.GenericOption(3, b"x")]
    )
    query.additional.append(dns.rrset.from_text("evil.com.", 60, "IN", "TXT", '"secret"'))
    query.answer.append(dns.rrset.from_text("evil.com.", 60, "IN", "A", "1.2.3.4"))
    answer = respond(query.to_wire(), sandbox(), told, SYNTHETIC_NAMES)
    assert answer is not None
    assert b"secret" not in answer
    assert len(answer) < 100
    reply = dns.message.from_wire(answer)
    assert addresses(reply) == addresses(ask(sandbox(), told, "example.com"))


@pytest.mark.parametrize(
    ("name", "record", "count"),
    [(b"\1a" * 120, b"\xc0\x0c\0\5\0\1\0\0\0\1\0\2\xc0\x0c", 4_000), (b"\1a" * 127, b"", 0), (b"\xc0\x0c", b"", 0),
     (b"\1a\xc0\x0c", b"", 0), (b"\x3f" + b"a" * 63, b"\0" * 60_000, 1)],
)  # fmt: skip
def test_no_datagram_takes_long(told: Told, name: bytes, record: bytes, count: int) -> None:
    wire = b"\7\7\1\0\0\1" + count.to_bytes(2) + bytes(4) + name + b"\0\0\1\0\1" + record * count
    started = time.perf_counter()
    for _ in range(20):
        respond(wire, sandbox("unrestricted"), told, SYNTHETIC_NAMES)
    assert time.perf_counter() - started < 0.2, "10 ms each, a hundred times what it takes"


def test_two_questions_are_none(told: Told) -> None:
    query = dns.message.make_query("example.com", "A")
    query.question.append(dns.rrset.RRset(dns.name.from_text("evil.com."), dns.rdataclass.IN, dns.rdatatype.A))
    answer = respond(query.to_wire(), sandbox(), told, SYNTHETIC_NAMES)
    assert answer is not None
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NOTIMP


def test_answers_are_not_answered(told: Told) -> None:
    answer = dns.message.make_response(dns.message.make_query("example.com", "A"))
    assert respond(answer.to_wire(), sandbox(), told, SYNTHETIC_NAMES) is None


@given(st.binary(max_size=600))
def test_malformed_datagrams_are_survived(data: bytes) -> None:
    respond(data, sandbox(), Told(), SYNTHETIC_NAMES)
    respond(dns.message.make_query("example.com", "A").to_wire()[:12] + data, sandbox(), Told(), SYNTHETIC_NAMES)


@given(
    st.lists(st.one_of(st.sampled_from([b"example", b"com", b"evil", b"localhost", b"_tcp"]), st.binary(min_size=1, max_size=63)),
             max_size=4),
    st.one_of(st.sampled_from([1, 5, 10, 16, 28, 41, 250, 251, 252, 255]), st.integers(0, 65_535)),
    st.sampled_from([1, 1, 1, 3, 254, 255, 0]), st.integers(0, 65_535), st.integers(0, 2),
)  # fmt: skip
def test_only_synthetic_addresses_are_ever_given(
    labels: list[bytes], kind: int, rdclass: int, flags: int, questions: int
) -> None:
    name = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    question = name + kind.to_bytes(2) + rdclass.to_bytes(2)
    wire = b"\x07\x07" + flags.to_bytes(2) + questions.to_bytes(2) + bytes(6) + question * questions
    answer = respond(wire, sandbox(), Told(), SYNTHETIC_NAMES)
    if answer is None:
        return
    assert answer[:2] == b"\x07\x07"
    reply = dns.message.from_wire(answer)
    text = b".".join(labels).lower()
    given = [IPv4Address(address) for address in addresses(reply)]
    assert all(one in SYNTHETIC or (one.is_loopback and text.endswith(b"localhost")) for one in given)
    assert len(answer) <= len(wire) + 16, "nobody is flooded through us"


@given(st.integers(0, 45), st.integers(0, 255))
def test_a_changed_byte_is_survived(at: int, byte: int) -> None:
    wire = bytearray(dns.message.make_query("example.com", "A", use_edns=0).to_wire())
    wire[at % len(wire)] = byte
    respond(bytes(wire), sandbox("unrestricted"), Told(), SYNTHETIC_NAMES)


def test_a_flood_of_queries_is_limited_for_its_sandbox_only() -> None:
    clock = [100.0]
    queries = Queries(lambda: clock[0])
    assert sum(queries.take() for _ in range(2 * Queries.BURST)) == Queries.BURST
    clock[0] += 1
    assert sum(queries.take() for _ in range(2 * Queries.BURST)) == Queries.PER_SECOND
