"""RFC 9111 for the cache: may an answer be stored, is a stored one fresh, what has to be asked before it is used again?

Pure but for the clock. The decisions are hishel's, of which this file is the only user; what it doesn't look at, or
looks at more leniently than a cache shared by strangers should, is decided here before it is asked.

    select ─┬─ Use      a stored answer is fresh enough
            ├─ Check    ask the server whether a stored one still holds ──304──▶ refresh
            └─ Miss     nothing is stored ──200──▶ admit
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from email.utils import formatdate
from uuid import UUID

from hishel import (
    AnyState,
    CacheMiss,
    CacheOptions,
    Entry,
    FromCache,
    Headers,
    IdleClient,
    InvalidateEntries,
    NeedRevalidation,
    NeedToBeUpdated,
    Request,
    Response,
    StoreAndUse,
)

from proxy.artifacts.ask import Ask, Head, Pairs, file_name
from proxy.artifacts.record import CHOOSING, MAX_FIELDS_BYTES, Record, freshened, http_date, record_of

# Never what is stale: a client that is told that a registry can't be reached knows more than one with an old answer.
_OPTIONS = CacheOptions(shared=True, supported_methods=["GET"], allow_stale=False)

# The heuristics (RFC 9111, 4.2.2) where a server says nothing of how long an answer is fresh. Long for files that are
# published once under a name with their version (a client compares a digest anyway), short for pages that list them.
RELEASE_SECONDS, PAGE_SECONDS = 86_400, 60
_RELEASE = re.compile(
    r"(?=.*[0-9])(?!.*snapshot).+\.(?:whl|whl\.metadata|egg|tar\.(?:gz|bz2|xz|zst)|tgz|zip|deb|udeb|dsc|rpm|apk|crate|gem"
    r"|jar|pom|aar|mod|nupkg|conda)",
    re.IGNORECASE,
)
_EXPLICIT = ("max-age", "s-maxage", "no-cache")


@dataclass(frozen=True, slots=True)
class Use:
    record: Record
    age: int


@dataclass(frozen=True, slots=True)
class Check:
    """`fields` are to be sent in place of the client's own conditions."""

    records: tuple[Record, ...]
    fields: Pairs


@dataclass(frozen=True, slots=True)
class Miss:
    pass


def select(ask: Ask, records: Sequence[Record]) -> Use | Check | Miss:
    """What to do for a request, given what is stored for its URL."""
    fitting = tuple(record for record in records if record.fits(ask))
    max_age = ask.max_age
    state = _ask_hishel(ask, fitting, confirm=max_age == 0)
    if isinstance(state, FromCache) and max_age is not None and int(state.entry.response.headers["age"]) > max_age:
        state = _ask_hishel(ask, fitting, confirm=True)
    if isinstance(state, FromCache):
        return Use(fitting[state.entry.id.int], int(state.entry.response.headers["age"]))
    if not isinstance(state, NeedRevalidation):
        return Miss()
    conditions = tuple(
        (name, value) for name, value in state.request.headers.items() if name in ("if-none-match", "if-modified-since")
    )
    return Check(fitting, ask.unconditional() + conditions) if conditions else Miss()


def _ask_hishel(ask: Ask, records: Sequence[Record], *, confirm: bool) -> FromCache | NeedRevalidation | CacheMiss:
    entries = [_entry(number, record, _as_of_birth(record)) for number, record in enumerate(records)]
    request = _request(ask.url, ask.fields)
    if confirm:
        request.headers["cache-control"] = "no-cache"
    return IdleClient(_OPTIONS).next(request, entries)


def admit(ask: Ask, head: Head, asked_at: float, received_at: float) -> Record | None:
    """The record that the answer is to be stored with, or None if it must not be stored."""
    if not ask.shareable or ask.get("range") or head.status != 200 or not head.whole or not _may_be_kept(head.fields):
        return None
    if "*" in (head.get("vary") or "") or head.get("content-range") is not None:
        return None
    request = _request(ask.url, ask.fields)
    state = CacheMiss(_OPTIONS, request).next(Response(head.status, _headers(head.fields)))
    if not isinstance(state, StoreAndUse):
        return None
    return record_of(ask, head, _pairs(state.response.headers), asked_at, received_at)


def refresh(ask: Ask, check: Check, head: Head, asked_at: float, received_at: float) -> tuple[Record, Record] | None:
    """The stored record that a 304 confirms, and it brought up to date; None if it confirms none that may be kept."""
    records = check.records
    entries = [_entry(number, record, record.fields) for number, record in enumerate(records)]
    asked = _request(ask.url, ask.fields)
    state: AnyState = NeedRevalidation(_OPTIONS, asked, asked, entries).next(Response(304, _headers(head.fields)))
    if isinstance(state, InvalidateEntries):
        state = state.next_state
    if not isinstance(state, NeedToBeUpdated):
        return None
    entry = state.next().entry
    fields = _pairs(entry.response.headers)
    if not _may_be_kept(fields):
        return None
    former = records[entry.id.int]
    return former, freshened(former, fields, head.fields, asked_at, received_at)


def _may_be_kept(fields: Pairs) -> bool:
    """Whether they have a reasonable size, and nothing among them says that this is for one client alone.

    Coarse on purpose: whatever begins like `private` or `no-store` counts, with arguments and misspelt ones too.
    """
    if sum(len(name) + len(value) + 16 for name, value in fields) > MAX_FIELDS_BYTES:
        return False
    directives = [
        part.strip().lower() for name, value in fields if name == "cache-control" for part in value.split(",")
    ]
    return not any(name.startswith("set-cookie") for name, _ in fields) and not any(
        part.lstrip('"').startswith(("private", "no-store")) for part in directives
    )


def _as_of_birth(record: Record) -> Pairs:
    """The fields in the form that makes hishel's arithmetic right.

    It takes Date for the time at which an answer was new, and overlooks Age. So Date becomes that time, and Expires is
    moved by the same amount, which keeps the lifetime that lies between them.
    """
    shift = record.born - (http_date(record.get("date") or "") or record.born)
    fields = []
    for name, value in record.fields:
        when = http_date(value) if name in ("date", "expires") else None
        fields.append((name, formatdate(when + shift, usegmt=True) if when is not None else value))
    cache_control = (record.get("cache-control") or "").lower()
    if record.get("expires") is None and not any(word in cache_control for word in _EXPLICIT):
        fields.append(("cache-control", f"max-age={_guessed_lifetime(record)}"))
    return tuple(fields)


def _guessed_lifetime(record: Record) -> int:
    if _RELEASE.fullmatch(file_name(record.url)) or "/by-hash/" in record.url:
        return RELEASE_SECONDS
    unchanged_for = record.born - (http_date(record.get("last-modified") or "") or record.born)
    return max(0, min(PAGE_SECONDS, int(unchanged_for / 10)))


def _entry(number: int, record: Record, fields: Pairs) -> Entry:
    return Entry(UUID(int=number), _request(record.url, record.asked), Response(200, _headers(fields)))


def _request(url: str, fields: Pairs) -> Request:
    """With what a server may have chosen by; all else is the same for everybody, or has been dealt with."""
    return Request("GET", url, _headers(tuple(pair for pair in fields if pair[0] in CHOOSING)))


def _headers(fields: Pairs) -> Headers:
    lists: dict[str, list[str]] = {}
    for name, value in fields:
        lists.setdefault(name, []).append(value)
    return Headers(lists)


def _pairs(headers: Headers) -> Pairs:
    return tuple((name, value) for name in headers for value in headers.get_list(name) or ())
