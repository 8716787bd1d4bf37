"""Plain secrets taken out of what a task prints: in every spelling, whatever the pieces."""

from __future__ import annotations

import base64
import json
import re
import urllib.parse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.core.hiding import Hiding

VALUE = "p4ss/w0rd+with=odd & more"
KEY = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQ\nshort\n-----END KEY-----"
TEXTS = {
    "raw": VALUE,
    "base64": base64.b64encode(VALUE.encode()).decode(),
    "base64 behind two bytes": base64.b64encode(b"u:" + VALUE.encode()).decode(),
    "url-safe base64": base64.urlsafe_b64encode(VALUE.encode()).decode(),
    "percent": urllib.parse.quote(VALUE, safe=""),
    "percent, lower case": re.sub("%..", lambda escape: escape[0].lower(), urllib.parse.quote(VALUE, safe="")),
    "form": urllib.parse.quote_plus(VALUE),
    "json": json.dumps({"a": VALUE}),
    "hex": VALUE.encode().hex(),
}


@pytest.mark.parametrize("spelling", TEXTS)
def test_every_spelling_is_hidden(spelling: str) -> None:
    hidden = Hiding([VALUE]).data(f"before {TEXTS[spelling]} after".encode()).decode()
    assert hidden.startswith("before ")
    assert hidden.endswith(" after")
    assert "***" in hidden
    for part in (VALUE, VALUE[3:], TEXTS["base64"][4:-4]):
        assert part not in hidden


def test_each_line_of_a_value_counts_but_short_ones() -> None:
    hiding = Hiding([KEY])
    assert hiding.data(b"x MIIEvQIBADANBgkqhkiG9w0BAQ y short") == b"x *** y short"
    assert hiding.data(KEY.encode()) == b"***"


@given(st.lists(st.integers(1, 12), max_size=40), st.sampled_from(sorted(TEXTS)))
def test_pieces_let_nothing_through(sizes: list[int], spelling: str) -> None:
    data = f"aa p4ss {TEXTS[spelling]}{TEXTS['raw']} p4ss/w0rd".encode()
    replacer, at, seen = Hiding([VALUE]).stream(), 0, b""
    for size in [*sizes, len(data)]:
        seen += replacer.feed(data[at : at + size])
        at += size
    seen += replacer.flush()
    assert seen == Hiding([VALUE]).data(data)
    assert VALUE.encode() not in seen


def test_nothing_is_held_back_but_a_beginning() -> None:
    replacer = Hiding([VALUE]).stream()
    assert replacer.feed(b"the first line\n") == b"the first line\n"
    assert replacer.feed(b"prompt: p4s") == b"prompt: "
    assert replacer.flush() == b"p4s"
