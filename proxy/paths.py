"""Paths of requests as servers might read them: which spellings can't be compared, and one plain form of the others.

Pure. A prefix is only worth something if no server reads the same characters as another place; so what programs read
differently is refused, never repaired.
"""

import re
import unicodedata
from urllib.parse import unquote_to_bytes

MOST_CHARACTERS = 8_192  # to bring some longer ones into one form takes seconds
DECODINGS = 3  # a proxy, a framework and an application may each decode once
_OVERLONG_OR_UNICODE = re.compile(r"%c[01]|%u[0-9a-f]{4}", re.IGNORECASE)  # old servers read %c0%af and %u002f as /
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
# Characters that conversions to an 8-bit character set turn into these, beside those that NFKC knows.
_BEST_FIT = str.maketrans({"\u2044": "/", "\u2215": "/", "\u2216": "\\", "\u29f5": "\\"})


def oddity(path: str) -> str | None:
    """What in this path (without its query) servers read in different ways, or None. Never raises."""
    if len(path) > MOST_CHARACTERS:
        return f"more than {MOST_CHARACTERS:,} characters"
    if any("\ud800" <= character <= "\udfff" for character in path):
        return "bytes that are no UTF-8"
    readings = _readings(path)
    decoded = readings[-1]
    if len(readings) > DECODINGS + 1:
        return f"more than {DECODINGS} layers of percent-encoding"
    if "\\" in decoded:
        return "a backslash"
    if "#" in path:
        return "a fragment"
    if any(_OVERLONG_OR_UNICODE.search(reading) for reading in readings):
        return "an overlong or %u encoding"
    if _CONTROL.search(decoded):
        return "a control character"
    if any(_is_dots(segment.partition(";")[0]) for segment in decoded.split("/")):
        return "a dot segment"
    return None


def _is_dots(segment: str) -> bool:
    return "." in segment and not segment.strip(". \t")  # some servers take spaces and further dots off


def plain(path: str) -> str:
    """A path that has no oddity, as the most lenient server would read it: decoded, case folded, one slash for many,
    segments without ;parameters and without dots and spaces at their end.

    For refusing only, since many paths have the same plain form.
    """
    segments = (segment.partition(";")[0].rstrip(". \t") for segment in _readings(path)[-1].split("/"))
    return re.sub("/+", "/", "/".join(segments)).casefold()


def _readings(path: str) -> list[str]:
    """The path, and what each further decoding makes of it, up to one more than is accepted."""
    readings = [path]
    if path.isascii() and "%" not in path:
        return readings
    while len(readings) <= DECODINGS + 1:
        text = unquote_to_bytes(readings[-1].encode("utf-8", "replace")).decode("utf-8", "replace")
        text = unicodedata.normalize("NFKC", text.translate(_BEST_FIT))
        if text == readings[-1]:
            break
        readings.append(text)
    return readings
