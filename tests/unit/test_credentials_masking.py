"""Values in answers: found in every spelling and however the stream is cut, never held back without need, in linear time."""

from __future__ import annotations

import base64
import html
import itertools
import json
import re
import time
import urllib.parse
from collections.abc import Callable, Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.credentials import Credential, Target
from proxy.masking import Masker, refused_encoding, request_fields
from proxy.placeholders import make_placeholder
from proxy.replacing import Replacer

VALUE, HOLDER = "ghp_Zk3vR8qLm2Xw7TbN", "ghp_Aa1bB2cCd3Ef4GhI"
ODD_VALUE, ODD_HOLDER = "p@ss/w0rd+\"x&y z='9\\<", "q@tt/a1bc+\"d&e f='0\\<"

SPELLINGS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "url": lambda text: urllib.parse.quote(text, safe=""),
    "url, slashes kept": urllib.parse.quote,
    "url, lower case": lambda text: re.sub("%..", lambda it: it[0].lower(), urllib.parse.quote(text, safe="")),
    "form": urllib.parse.quote_plus,
    "encodeURIComponent": lambda text: urllib.parse.quote(text, safe="!'()*"),
    "json": lambda text: json.dumps(text)[1:-1],
    "json, slashes": lambda text: json.dumps(text)[1:-1].replace("/", "\\/"),
    "json of Go": lambda text: json.dumps(text)[1:-1].replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"),
    "html": html.escape,
    "html, numbers": lambda text: html.escape(text).replace("&#x27;", "&#39;"),
    "hex": lambda text: text.encode().hex(),
    "HEX": lambda text: text.encode().hex().upper(),
}  # fmt: skip


def credential(value: str = VALUE, placeholder: str = HOLDER) -> Credential:
    return Credential("TOKEN", placeholder, value, (Target("api.example.com"),))


def streamed(replacer: Replacer, pieces: Iterable[bytes]) -> bytes:
    return b"".join([*map(replacer.feed, pieces), replacer.flush()])


def cut(data: bytes, at: Iterable[int]) -> list[bytes]:
    borders = [0, *sorted(min(border, len(data)) for border in at), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(borders)]


def replaced_by_definition(table: dict[bytes, bytes], data: bytes) -> bytes:
    """The earliest, of those the longest, one after the other: slow, and plain to see."""
    done, at = b"", 0
    while at < len(data):
        key = max((key for key in table if data.startswith(key, at)), key=len, default=b"")
        done, at = (done + table[key], at + len(key)) if key else (done + data[at : at + 1], at + 1)
    return done


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("value", "placeholder"), [(VALUE, HOLDER), (ODD_VALUE, ODD_HOLDER)])
def test_every_spelling_becomes_that_of_the_placeholder(spelling: str, value: str, placeholder: str) -> None:
    spell = SPELLINGS[spelling]
    data, expected = (f'{{"a": "{spell(text)}", "b": "{spell(text)}"}}'.encode() for text in (value, placeholder))
    assert Masker([credential(value, placeholder)]).whole(data) == expected
    for size in (1, 2, 3, 7):
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        assert streamed(Masker([credential(value, placeholder)]), pieces) == expected


# Of base64 up to a character at each end holds bits of the neighbours, too; those may stay.
@pytest.mark.parametrize("before", ["", "u", "us", "user:", "{'Authorization': '"])
@pytest.mark.parametrize("after", ["", "x", "xy", "\n}"])
@pytest.mark.parametrize("spell", [
    base64.b64encode,
    base64.urlsafe_b64encode,
    lambda data: base64.b64encode(data).replace(b"/", b"\\/"),
    lambda data: urllib.parse.quote(base64.b64encode(data), safe="").encode(),
])  # fmt: skip
@pytest.mark.parametrize("value", [VALUE, ODD_VALUE, "?>?>abcdefgh~~~???>>>", "0123456789ab"])
def test_base64_around_a_value_loses_it(before: str, after: str, spell: Callable[[bytes], bytes], value: str) -> None:
    it = credential(value, make_placeholder(value))
    data = spell(f"{before}{value}{after}".encode())
    found = Masker([it]).whole(data)
    assert len(found) == len(data)
    assert found != data
    plain = urllib.parse.unquote_to_bytes(found.replace(b"\\/", b"/").replace(b"-", b"+").replace(b"_", b"/"))
    decoded, begin, end = base64.b64decode(plain), len(before), len(before) + len(value)
    assert (decoded[:begin], decoded[end:]) == (before.encode(), after.encode())
    assert decoded[begin + 1 : end - 1] == it.placeholder[1:-1].encode()


WORDS = st.sampled_from(
    [VALUE, HOLDER, VALUE[:7], VALUE[7:], VALUE[-1], "ghp_", "g", "Z", " ", "\n", '":"', VALUE.encode().hex()]
    + [base64.b64encode(b"u" * count + VALUE.encode() + b"xx").decode() for count in range(3)]
    + [base64.b64encode(b"u" * count + VALUE.encode()[:9]).decode() for count in range(3)]
)


@given(words=st.lists(WORDS, max_size=12), borders=st.lists(st.integers(0, 500), max_size=30))
@settings(max_examples=400, deadline=None)
def test_however_an_answer_is_cut_it_is_masked_as_a_whole(words: list[str], borders: list[int]) -> None:
    data, it = "".join(words).encode(), credential()
    found = streamed(Masker([it]), cut(data, borders))
    assert found == Masker([it]).whole(data) == replaced_by_definition(it.masks, data)
    assert len(found) == len(data)
    assert not any(key in found for key in it.masks)


@given(
    keys=st.lists(st.text("ab", min_size=1, max_size=14), max_size=5),
    pieces=st.lists(st.text("abc", max_size=9).map(str.encode), max_size=30),
)
@settings(max_examples=1000, deadline=None)
def test_keys_that_overlap_themselves_and_each_other(keys: list[str], pieces: list[bytes]) -> None:
    table = {key.encode(): f"<{key}>".encode() for key in keys}
    assert streamed(Replacer(table), pieces) == replaced_by_definition(table, b"".join(pieces))


def test_of_two_that_begin_together_the_longer_is_waited_for() -> None:
    replacer = Replacer({b"abc": b"1", b"abcde": b"2"})
    assert streamed(replacer, [b"abc", b"d", b"e"]) == b"2"
    assert streamed(replacer, [b"abc", b"d", b"f"]) == b"1df"
    assert streamed(replacer, [b"abc"]) == b"1"


@given(value=st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=12, max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_spelling_of_any_value_survives_or_changes_its_length(value: str) -> None:
    if sum(character.isalnum() for character in value) < 8:
        return
    it = credential(value, make_placeholder(value))
    for key, put in (it.masks | it.inserts).items():
        assert len(key) == len(put)
        assert key != put
    data = "|".join(spell(value) for spell in SPELLINGS.values()).encode()
    assert len(Masker([it]).whole(data)) == len(data)
    assert not any(spell(value).encode() in Masker([it]).whole(data) for spell in SPELLINGS.values())


@pytest.mark.parametrize(
    "event", ["data: {}\n\n", '{"a": 1}\n', "data: [DONE]\r\n\r\n", f"token {HOLDER} \n", f"{VALUE[:9]}…", "\0\1\2"]
)
def test_what_no_value_contains_is_not_held_back(event: str) -> None:
    masker = Masker([credential()])
    assert masker.feed(event.encode()) == event.encode()


def test_what_may_be_the_beginning_is_held_back_until_it_is_not() -> None:
    masker = Masker([credential()])
    assert masker.feed(f"a\n{VALUE[:12]}".encode()) == b"a\n"
    assert masker.feed(b"!\n") == f"{VALUE[:12]}!\n".encode()
    assert masker.feed(f"b\n{VALUE[:12]}".encode()) == b"b\n"
    assert masker.feed(f"{VALUE[12:]} c\n".encode()) == f"{HOLDER} c\n".encode()
    assert masker.feed(VALUE[:5].encode()) == b""
    assert masker.flush() == VALUE[:5].encode()
    assert masker.flush() == b""


@given(
    pieces=st.lists(st.text(st.sampled_from([*VALUE[:6], *"ghp_ \n\0"]), max_size=40), max_size=8),
    value=st.text(st.sampled_from("ghp_Zk3vR8qLm2"), min_size=20, max_size=20),
)
@settings(max_examples=500, deadline=None)
def test_what_is_held_back_tells_nothing_about_a_value(pieces: list[str], value: str) -> None:
    """Who has a server echo guesses must not see from when they come which of them begin the value."""

    def arriving(secret: str) -> list[int]:
        masker = Masker([credential(secret)])
        return [len(masker.feed(piece.encode())) for piece in pieces]

    if value not in "".join(pieces):
        assert arriving(value) == arriving("9" * 20)


def test_how_long_it_looks_tells_nothing_about_a_value() -> None:
    """Python's own search takes ten times as long for some letters, by where they stand in what it looks for: less than what
    each is made to take here."""
    it = credential("sk-proj-Zq8wLx3TnB5vRk7JmYd2HcPf", "sk-proj-Lr7dQc7ZeB8nZm6VdGm4SnQw")
    masker, search = Masker([it]), Replacer(it.masks)
    paced = 16_384 * masker._pace / 1e9

    def seconds(replacer: Replacer, data: bytes) -> float:
        times = []
        for _ in range(9):
            began = time.perf_counter()
            replacer.whole(data)
            times.append(time.perf_counter() - began)
        return min(times)

    for letter in "sk-projZq8wLx3TnB5vRk7JmYd2HcPf01469AaQ_\n":
        data = letter.encode() * 16_384
        assert seconds(search, data) < paced <= seconds(masker, data), letter


def test_several_values_and_one_within_another() -> None:
    inner, outer = (
        credential("abcdefgh12345678", "zyxwvuts87654321"),
        credential("abcdefgh12345678-99", "qqqqqqqq00000000-00"),
    )
    masker = Masker([inner, outer])
    assert masker.whole(b"abcdefgh12345678-99 abcdefgh12345678") == b"qqqqqqqq00000000-00 zyxwvuts87654321"
    assert streamed(masker, [b"abcdefgh12345678", b"-9", b"8"]) == b"zyxwvuts87654321-98"


def test_no_credentials_change_nothing() -> None:
    masker = Masker([])
    assert masker.feed(b"abc") + masker.flush() == b"abc"


def test_fields_and_texts_are_masked() -> None:
    masker = Masker([credential()])
    basic = base64.b64encode(f"u:{VALUE}:".encode())
    assert masker.mask_fields([(b"location", f"/?t={VALUE}".encode()), (b"x-" + VALUE.encode(), b"1")]) == [
        (b"location", f"/?t={HOLDER}".encode()),
        (b"x-" + HOLDER.encode(), b"1"),
    ]
    assert VALUE.encode() not in base64.b64decode(masker.mask_fields([(b"www-authenticate", basic)])[0][1])
    assert masker.mask_text(f"bad token {VALUE} \udcff") == f"bad token {HOLDER} \udcff"


def test_servers_are_asked_for_answers_as_they_are() -> None:
    asked = [(b"Accept-Encoding", b"gzip"), (b"accept", b"*/*"), (b"Range", b"bytes=5-"), (b"If-Range", b'"x"')]
    asked += [(b"TE", b"gzip"), (b"te", b"trailers"), (b"accept-encoding", b"br"), (b"A-IM", b"feed")]
    assert request_fields(asked) == [(b"accept", b"*/*"), (b"te", b"trailers"), (b"accept-encoding", b"identity")]


@pytest.mark.parametrize(
    ("name", "value", "refused"),
    [
        (b"Content-Encoding", b"gzip", True),
        (b"content-encoding", b"identity, br", True),
        (b"content-encoding", b"Identity", False),
        (b"content-encoding", b"", False),
        (b"transfer-encoding", b"gzip, chunked", True),
        (b"Transfer-Encoding", b"Chunked", False),
        (b"content-range", b"bytes 5-9/20", True),
        (b"IM", b"feed", True),
        (b"content-type", b"application/gzip", False),
    ],
)
def test_answers_in_which_nothing_can_be_found_are_refused(name: bytes, value: bytes, refused: bool) -> None:
    assert refused_encoding([(b"server", b"x"), (name, value)]) is refused


@pytest.mark.parametrize(
    "data",
    [
        b"x" * 4_000_000,
        VALUE.encode() * 200_000,
        VALUE[:-1].encode() * 200_000,
        b"g" * 4_000_000,
        base64.b64encode(VALUE.encode() * 3) * 50_000,
    ],
)
def test_time_is_linear_whatever_a_server_sends(data: bytes) -> None:
    def seconds(part: bytes) -> float:
        started = time.process_time()
        streamed(Masker([credential()]), [part[at : at + 65536] for at in range(0, len(part), 65536)])
        return time.process_time() - started

    assert seconds(data) < 2 + 12 * seconds(data[: len(data) // 4])
    assert seconds(data) < 10
