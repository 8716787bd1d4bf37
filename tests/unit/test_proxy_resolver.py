"""The resolver's answers, its table of synthetic addresses and its limits. Must not send a datagram anywhere."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Address

import dns.message
import dns.opcode
import dns.rcode
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.policy import Policy
from proxy.records import NetworkRecord, Records
from proxy.resolver import BURST, QUERIES_PER_SECOND, RateLimit, respond
from proxy.sandboxes import MAX_NAMES, SYNTHETIC, Names, Sandbox, Sandboxes


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


def sandbox(access: str = "limited") -> Sandbox:
    return Sandbox("10.0.0.2", Policy("agent", access, ("example.com",)))  # type: ignore[arg-type]


def ask(asked: Sandbox, told: Records, name: str, kind: str = "A", rdclass: str = "IN") -> dns.message.Message:
    query = dns.message.make_query(name, kind, rdclass)
    answer = respond(query.to_wire(), asked, told)
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
    assert asked.names.name(address) == "example.com"
    assert told.denied == []


def test_a_sandbox_has_its_own_addresses(told: Told) -> None:
    one, two = sandbox(), sandbox("unrestricted")
    ask(two, told, "a.test")
    address = IPv4Address(addresses(ask(one, told, "example.com"))[0])
    assert (one.names.name(address), two.names.name(address)) == ("example.com", "a.test")


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "HTTPS", "SVCB", "MX", "ANY", "NS"])
def test_other_types_are_empty(told: Told, kind: str) -> None:
    reply = ask(sandbox(), told, "example.com", kind)
    assert (reply.rcode(), reply.answer, told.denied) == (dns.rcode.NOERROR, [], [])


def test_services_of_a_permitted_name_are_empty(told: Told) -> None:
    assert ask(sandbox(), told, "_http._tcp.example.com", "SRV").rcode() == dns.rcode.NOERROR
    reply = ask(sandbox(), told, "_http._tcp.example.com", "A")
    assert (reply.rcode(), reply.answer) == (dns.rcode.NOERROR, [])
    assert ask(sandbox(), told, "_http._tcp.other.com", "SRV").rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT", "HTTPS"])
@pytest.mark.parametrize("name", ["evil.com", "badexample.com", "example.com.evil.com"])
def test_a_denied_name_is_refused_and_recorded(told: Told, name: str, kind: str) -> None:
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
    answer = respond(query.to_wire(), sandbox(), told)
    assert answer is not None
    assert dns.message.from_wire(answer).rcode() == dns.rcode.NOTIMP


def test_answers_are_not_answered(told: Told) -> None:
    answer = dns.message.make_response(dns.message.make_query("example.com", "A"))
    assert respond(answer.to_wire(), sandbox(), told) is None


@given(st.binary(max_size=600))
def test_malformed_datagrams_are_survived(data: bytes) -> None:
    respond(data, sandbox(), Told())
    respond(dns.message.make_query("example.com", "A").to_wire()[:12] + data, sandbox(), Told())


@given(st.integers(0, 45), st.integers(0, 255))
def test_a_changed_byte_is_survived(at: int, byte: int) -> None:
    wire = bytearray(dns.message.make_query("example.com", "A", use_edns=0).to_wire())
    wire[at % len(wire)] = byte
    respond(bytes(wire), sandbox("unrestricted"), Told())


def test_the_table_is_bounded_and_forgets_the_oldest() -> None:
    names, none = Names(), Counter[str]()
    first = names.address("first", none)
    second = names.address("second", none)
    assert first is not None
    assert second is not None
    for number in range(MAX_NAMES - 2):
        names.address(f"n{number}", none)
    assert names.name(first) == "first"  # a use: now "second" is the oldest
    new = names.address("new", none)
    assert (names.name(first), names.name(second), new not in (first, second)) == ("first", None, True)


def test_names_with_open_connections_stay() -> None:
    names, in_use = Names(), Counter({"kept": 1})
    kept = names.address("kept", in_use)
    assert kept is not None
    for number in range(3 * MAX_NAMES):
        names.address(f"n{number}", in_use)
    assert names.name(kept) == "kept"
    full = Counter(names._address_of.keys())
    assert names.address("one more", full) is None


def test_addresses_go_round_without_colliding() -> None:
    names, seen = Names(), set()
    names._last = SYNTHETIC.num_addresses - 5
    for number in range(10):
        seen.add(names.address(f"n{number}", Counter()))
    assert len(seen) == 10
    assert SYNTHETIC[0] not in seen
    assert SYNTHETIC[-1] not in seen


class Open:
    """A connection that notes its end."""

    name, port = "example.com", 443
    aborted: bool = False

    def permitted(self, policy: Policy) -> bool:
        return policy.access != "off"

    def abort(self) -> None:
        self.aborted = True


def test_a_narrower_policy_ends_connections() -> None:
    sandboxes, connection = Sandboxes(), Open()
    sandboxes.set("10.0.0.2", Policy("agent", "unrestricted"))
    known = sandboxes.get("10.0.0.2")
    assert known is not None
    known.opened(connection)
    sandboxes.set("10.0.0.2", Policy("agent", "limited", ("example.com",)))
    assert not connection.aborted
    sandboxes.set("10.0.0.2", Policy("agent", "off"))
    assert connection.aborted
    assert sandboxes.get("10.0.0.2") is known


def test_a_dropped_sandbox_allows_nothing_to_who_still_holds_it() -> None:
    sandboxes, connection = Sandboxes(), Open()
    sandboxes.set("10.0.0.2", Policy("agent", "unrestricted"))
    known = sandboxes.get("10.0.0.2")
    assert known is not None
    known.opened(connection)
    sandboxes.drop("10.0.0.2")
    sandboxes.drop("10.0.0.2")
    assert sandboxes.get("10.0.0.2") is None
    assert connection.aborted
    assert not known.decide("example.com", 443).allowed
    known.closed(connection)
    known.closed(connection)
    assert known.in_use["example.com"] == 0


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


def test_a_flood_of_queries_is_limited_for_its_source_only(clock: list[float]) -> None:
    limit = RateLimit(lambda: clock[0])
    assert sum(limit.allows("10.0.0.2") for _ in range(2 * BURST)) == BURST
    assert limit.allows("10.0.0.6")
    clock[0] += 1
    assert sum(limit.allows("10.0.0.2") for _ in range(2 * BURST)) == QUERIES_PER_SECOND
