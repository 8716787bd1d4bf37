"""What a sandbox prints can't command the terminal that shows it."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox.cli.output import printable
from sandbox.cli.sanitize import Sanitizer


def clean(*pieces: bytes) -> bytes:
    sanitizer = Sanitizer()
    return b"".join(map(sanitizer.feed, pieces)) + sanitizer.feed(b"", final=True)


@pytest.mark.parametrize(
    "text", ["plain\n", "tab\tand\rreturn\n", "\x1b[31mred\x1b[0m", "\x1b[38;5;12m", "\x1b[1;4:3m", "\x1b[m", "é日🎉"]
)
def test_harmless_text_stays(text: str) -> None:
    assert clean(text.encode()) == text.encode()


@pytest.mark.parametrize(
    ("evil", "left"),
    [
        (b"a\x1b]0;title\x07b", b"ab"),
        (b"a\x1b]52;c;Y3VybA==\x1b\\b", b"ab"),  # writes the clipboard
        (b"a\x1b[6nb", b"ab"),  # makes the terminal type an answer
        (b"a\x1b[2J\x1b[Hb", b"ab"),
        (b"a\x1b[?1049hb", b"ab"),
        (b"a\x1bP1;2|data\x1b\\b", b"ab"),
        (b"a\x1bcb", b"ab"),  # reset
        (b"a\x1b(0b", b"ab"),  # line drawing for all that follows
        (b"a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\b", b"alinkb"),
        (b"a\x07\x08\x00\x7fb", b"ab"),
        (b"a\xc2\x9b6nb", b"a6nb"),  # CSI in one character
        (b"a\xffb", "a\ufffdb".encode()),
        ("a\u202eb\u2066c".encode(), b"abc"),
        (b"a\x1b[1\x1b[31mb", b"a1\x1b[31mb"),
        (b"a\x1b[" + b"1;" * 50 + b"mb", b"ab"),
        (b"a\x1b", b"a"),
        (b"a\x1b]0;never ends", b"a0;never ends"),
        (b"a\x1b]0;cut by\x1b[31mcolour", b"a\x1b[31mcolour"),
    ],
)
def test_commands_to_the_terminal_go(evil: bytes, left: bytes) -> None:
    assert clean(evil) == left
    for cut in range(len(evil)):
        assert clean(evil[:cut], evil[cut:]) == left, cut


def test_an_escape_without_end_holds_back_little() -> None:
    sanitizer = Sanitizer()
    assert sanitizer.feed(b"\x1b]0;") == b""
    shown = sanitizer.feed(b"x" * 10_000 + b"\n")
    assert len(shown) > 9_000


ESCAPES = st.sampled_from(
    [b"\x1b", b"\x1b[", b"\x1b]", b"\x1bP", b"\x07", b"\x1b\\", b"m", b";", b"31", b"\xc2", b"\x9b"]
)
SAFE = re.compile(r"(?:[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\x1b\[[0-9;:]*m)*")


@given(st.lists(st.one_of(ESCAPES, st.binary(max_size=8)), max_size=30))
def test_nothing_but_text_and_colours_gets_through(pieces: list[bytes]) -> None:
    shown = clean(*pieces)
    assert SAFE.fullmatch(shown.decode())
    assert clean(b"".join(pieces)) == shown


def test_one_line_texts_lose_all_controls() -> None:
    assert printable("a\x1b[31mb\nc\u202ed\x85e\té") == "a?[31mb?c?d?e?é"
