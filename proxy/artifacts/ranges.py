"""What of a whole stored body a request gets: all of it, a part, or only the word that the client has it already.

Pure; RFC 9110, sections 13 (conditions) and 14 (ranges).
"""

import re
from dataclasses import dataclass

from proxy.artifacts.ask import Ask
from proxy.artifacts.record import Record, http_date

_ONE_RANGE = re.compile(r"bytes= ?([0-9]{0,19}) ?- ?([0-9]{0,19})")


@dataclass(frozen=True, slots=True)
class Whole:
    pass


@dataclass(frozen=True, slots=True)
class NotModified:
    pass


@dataclass(frozen=True, slots=True)
class Unsatisfiable:
    pass


@dataclass(frozen=True, slots=True)
class Part:
    start: int
    stop: int  # the first byte that isn't part of it


def portion(ask: Ask, record: Record) -> Whole | NotModified | Unsatisfiable | Part:
    if _client_has_it(ask, record):
        return NotModified()
    if not (wanted := ask.get("range")) or record.length is None or not _range_holds(ask.get("if-range"), record):
        return Whole()
    match = _ONE_RANGE.fullmatch(wanted)
    if match is None or match[1] == match[2] == "":  # several, or none: a server may answer with all
        return Whole()
    return _cut(match[1], match[2], record.length)


def _cut(first: str, last: str, length: int) -> Whole | Unsatisfiable | Part:
    if not first:
        return Part(max(0, length - int(last)), length) if int(last) and length else Unsatisfiable()
    start, stop = int(first), min(length, int(last) + 1 if last else length)
    if last and int(last) < start:
        return Whole()  # no valid range: as if it weren't there
    return Part(start, stop) if start < length else Unsatisfiable()


def _client_has_it(ask: Ask, record: Record) -> bool:
    if tags := ask.get("if-none-match"):
        own = record.get("etag")
        return tags == "*" or (own is not None and _opaque(own) in {_opaque(tag) for tag in _split_tags(tags)})
    since, modified = http_date(ask.get("if-modified-since")), http_date(record.get("last-modified") or "")
    return since is not None and modified is not None and modified <= since


def _split_tags(text: str) -> list[str]:
    return re.findall(r'(?:W/)?"[^"]*"', text)


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")


def _range_holds(condition: str, record: Record) -> bool:
    """Only what is the same byte for byte may be pieced together: a strong tag, or the same date."""
    if not condition:
        return True
    if condition.startswith(('"', "W/")):
        return condition == record.get("etag") and not condition.startswith("W/")
    return condition == record.get("last-modified")
