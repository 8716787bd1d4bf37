"""Synthetic addresses: one for each name of each sandbox, found again by hashing alone. Must not need a table to be right."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.synthetic import OWN, PROXY_ADDRESS, SYNTHETIC, Hints, Synthetic

ONE, OTHER = "10.0.0.1", "10.0.0.3"
LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])
NAMES = st.from_regex(r"[a-z0-9]{1,20}(\.[a-z]{1,10}){0,3}", fullmatch=True)


def synthetic(key: bytes = b"k" * 16, hints: Hints | None = None) -> Synthetic:
    return Synthetic(key, hints or Hints())


@given(NAMES, NAMES)
def test_an_address_stands_for_its_name_only(name: str, other: str) -> None:
    table = synthetic()
    address = table.address(ONE, name)
    assert address in SYNTHETIC
    assert address not in OWN
    assert address != SYNTHETIC.broadcast_address
    assert table.stands_for(ONE, address, name)
    assert table.stands_for(ONE, address, other) is (table.address(ONE, other) == address)


def test_every_worker_computes_the_same_address_without_having_given_it() -> None:
    address = synthetic().give(ONE, "example.com")
    assert synthetic().stands_for(ONE, address, "example.com")
    assert synthetic().name(ONE, address) is None  # it has other hints


def test_sandboxes_and_filters_have_addresses_of_their_own() -> None:
    names = [f"n{number}.example" for number in range(200)]

    def all_of(table: Synthetic, sandbox: str) -> list[IPv4Address]:
        return [table.address(sandbox, name) for name in names]

    mine = all_of(synthetic(), ONE)
    for others in (all_of(synthetic(), OTHER), all_of(synthetic(b"l" * 16), ONE)):
        assert sum(one == other for one, other in zip(mine, others, strict=True)) <= 2
    assert len(set(mine)) >= 198


def test_a_hint_gives_the_name_back_for_its_sandbox_only() -> None:
    table = synthetic()
    address = table.give(ONE, "example.com")
    assert table.name(ONE, address) == "example.com"
    assert table.name(OTHER, address) is None
    assert table.name(ONE, address + 256) is None  # the same slot
    assert table.name(ONE, PROXY_ADDRESS) is None


@pytest.mark.parametrize("name", ["a", "example.com", LONGEST])
def test_a_shorter_name_leaves_nothing_of_a_longer_one(name: str) -> None:
    hints = Hints()
    number = int(SYNTHETIC[1000])
    hints.put(ONE, number, LONGEST)
    hints.put(ONE, number, name)
    assert hints.get(ONE, number) == name


def test_names_that_collide_are_told_apart_by_what_was_asked_last() -> None:
    """2^17 addresses: anyone can find two names with one. Neither becomes the other: the name is what is decided."""
    table = synthetic()
    seen: dict[IPv4Address, str] = {}
    number, pair = 0, ("", "")
    while not pair[0]:
        name = f"n{(number := number + 1)}.example"
        pair = (seen.get(table.address(ONE, name), ""), name)
        seen[table.address(ONE, name)] = name
    first, second = pair
    address = table.give(ONE, first)
    assert table.name(ONE, address) == first
    assert table.give(ONE, second) == address
    assert table.name(ONE, address) == second
    assert table.stands_for(ONE, address, first)
    assert table.stands_for(ONE, address, second)
    assert not table.stands_for(ONE, address, "third.example")


@given(st.binary(min_size=1, max_size=256))
def test_a_torn_hint_is_none(noise: bytes) -> None:
    hints = Hints()
    table = synthetic(hints=hints)
    address = table.give(ONE, "example.com")
    at = hints._slot(ONE, int(address))
    hints._memory[at : at + len(noise)] = noise
    assert table.name(ONE, address) in (None, "example.com")


def test_one_sandbox_forgets_only_its_own() -> None:
    table = synthetic()
    address = table.give(OTHER, "kept.example")
    for number in range(5_000):
        table.give(ONE, f"n{number}.example")
    assert table.name(OTHER, address) == "kept.example"
