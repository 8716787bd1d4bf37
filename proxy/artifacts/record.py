"""A stored answer's record: what is known of a body besides its bytes, and its form as a small file.

Pure. A file may be damaged, or written by somebody who took over the process: reading one gives a record or an error.
"""

import calendar
import json
import math
import re
from dataclasses import asdict, dataclass, replace
from email.utils import formatdate, parsedate_tz
from typing import Any

from proxy.artifacts.ask import Ask, Head, Pairs, joined

VERSION = 1
CHOOSING = ("accept", "accept-encoding")  # the only fields of a request that are not the same for all
MAX_FIELDS_BYTES = 16_384
MAX_RECORD_BYTES = 4 * MAX_FIELDS_BYTES

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_FIELD_VALUE = re.compile(r"[\t -~\x80-\xff]*")
_SECONDS = re.compile(r"[0-9]{1,9}")


class BadRecord(ValueError):
    """A file that holds no record. The message says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """`asked` are the fields that a server may have chosen by; `born`: Unix time at which the answer's age was 0."""

    url: str
    asked: Pairs
    fields: Pairs
    born: float
    length: int | None  # None while its end hasn't been seen

    def get(self, name: str) -> str | None:
        return joined(self.fields, name)

    def fits(self, ask: Ask) -> bool:
        """Whether the server would have chosen the same answer for this request, as far as it says (Vary).

        By `accept` always, whether it says so or not: who asks for something odd must not decide what others get.
        """
        chosen_by = {part.strip().lower() for part in (self.get("vary") or "").split(",")} | {"accept"}
        if self.get("content-encoding"):
            chosen_by.add("accept-encoding")
        asked = dict(self.asked)
        return all(asked.get(name, "") == ask.get(name) for name in CHOOSING if name in chosen_by)


def born(fields: Pairs, asked_at: float, received_at: float) -> float:
    """When an answer that came just now was new (RFC 9111, 4.2.3), by its Date and Age."""
    values = dict(fields)
    date = http_date(values.get("date", ""))
    apparent = max(0.0, received_at - date) if date is not None else 0.0
    age = float(values["age"]) if _SECONDS.fullmatch(values.get("age", "")) else 0.0
    return received_at - max(apparent, age + max(0.0, received_at - asked_at))


def record_of(ask: Ask, head: Head, fields: Pairs, asked_at: float, received_at: float) -> Record:
    """The record of an answer, with a Date in any case and without its Age, which `born` has taken in."""
    asked = tuple((name, value) for name, value in ask.fields if name in CHOOSING)
    return Record(ask.url, asked, _dated(fields, received_at), born(head.fields, asked_at, received_at), head.length)


def freshened(record: Record, fields: Pairs, told: Pairs, asked_at: float, received_at: float) -> Record:
    """The record after the server has confirmed it: `told` by the 304, merged into `fields`."""
    return replace(record, fields=_dated(fields, received_at), born=born(told, asked_at, received_at))


def _dated(fields: Pairs, now: float) -> Pairs:
    kept = tuple((name, value) for name, value in fields if name != "age")
    if http_date(dict(kept).get("date", "")) is not None:
        return kept
    return (*((name, value) for name, value in kept if name != "date"), ("date", formatdate(now, usegmt=True)))


def http_date(text: str) -> float | None:
    try:
        parsed = parsedate_tz(text)
        return None if parsed is None else float(calendar.timegm(parsed[:6])) - (parsed[9] or 0)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


def to_bytes(record: Record) -> bytes:
    return json.dumps({"version": VERSION, **asdict(record)}, ensure_ascii=False).encode()


def from_bytes(data: bytes) -> Record:
    """Raises BadRecord."""
    if len(data) > MAX_RECORD_BYTES:
        raise BadRecord("it is longer than a record can be")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise BadRecord("it is no JSON") from error
    match value:
        case {
            "version": 1,
            "url": str(url),
            "asked": list(asked),
            "fields": list(fields),
            "born": int() | float() as when,
            "length": int(length),
        } if math.isfinite(when) and length >= 0:
            return Record(url, _pairs(asked), _pairs(fields), float(when), length)
    raise BadRecord("it lacks something, or has it in another form")


def _pairs(values: list[Any]) -> Pairs:
    pairs = []
    for value in values:
        match value:
            case [str(name), str(text)] if _NAME.fullmatch(name) and _FIELD_VALUE.fullmatch(text):
                pairs.append((name, text))
            case _:
                raise BadRecord("a field is malformed")
    return tuple(pairs)
