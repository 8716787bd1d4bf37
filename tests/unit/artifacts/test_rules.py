"""RFC 9111 as tables: what may be stored, what is fresh, what has to be confirmed, and which part of it is sent."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.artifacts.ask import Ask, Head, Pairs
from proxy.artifacts.ranges import NotModified, Part, Unsatisfiable, Whole, portion
from proxy.artifacts.record import BadRecord, Record, born, from_bytes, http_date, to_bytes
from proxy.artifacts.route import forwarded
from proxy.artifacts.rules import Check, Miss, Use, admit, refresh, select

NOW = time.time()
HOUR = 3600


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """hishel asks the system for the time; in the tables it stands still."""
    monkeypatch.setattr(time, "time", lambda: NOW)


def date(ago: float = 0) -> str:
    return formatdate(NOW - ago, usegmt=True)


def ask(target: str = "/simple/x/", **fields: str) -> Ask:
    named = [(name.replace("_", "-"), value) for name, value in fields.items()]
    return Ask("https", "registry.test", 443, target, tuple(forwarded(named)))


def stored(*fields: tuple[str, str], ago: float = 0, target: str = "/simple/x/", **asked: str) -> Record:
    """A record of an answer that came `ago` seconds ago, as `admit` makes it."""
    head = Head(200, fields, 1000, whole=True)
    record = admit(ask(target, **asked), head, NOW - ago, NOW - ago)
    assert record is not None
    return record


# ── may it be stored ─────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "may"),
    [
        ([], True),
        ([("cache-control", "public")], True),
        ([("cache-control", "no-cache")], True),  # to be confirmed each time
        ([("expires", "0")], True),
        ([("vary", "accept-encoding")], True),
        ([("vary", "cookie, authorization")], True),  # neither ever comes here
        ([("cache-control", "no-store")], False),
        ([("cache-control", "NO-STORE")], False),
        ([("cache-control", "max-age=5"), ("cache-control", "private")], False),
        ([("cache-control", 'max-age=5, private="set-cookie"')], False),
        ([("cache-control", "private=x,no-store")], False),
        ([("cache-control", 'x="a, no-store"')], False),
        ([("set-cookie", "a=b")], False),
        ([("set-cookie2", "a=b")], False),
        ([("vary", "*")], False),
        ([("vary", "accept, *")], False),
        ([("content-range", "bytes 0-1/2")], False),
        ([("x", "a" * 20_000)], False),
    ],
)
def test_what_may_be_stored(fields: list[tuple[str, str]], may: bool) -> None:
    head = Head(200, (("date", date()), *fields), 10, whole=True)
    assert (admit(ask(), head, NOW, NOW) is not None) is may


@pytest.mark.parametrize("status", [201, 203, 204, 206, 300, 301, 302, 304, 404, 410, 500, 503])
def test_only_success_is_stored(status: int) -> None:
    assert admit(ask(), Head(status, (("cache-control", "max-age=60"),), 10, whole=True), NOW, NOW) is None


@pytest.mark.parametrize(
    "asked",
    [ask(range="bytes=0-1"), ask("/simple/x/?key=secret"), ask(cache_control="no-store")],
    ids=["range", "q", "n"],
)
def test_what_was_asked_so_is_not_stored(asked: Ask) -> None:
    assert admit(asked, Head(200, (("cache-control", "max-age=60"),), 10, whole=True), NOW, NOW) is None


def test_a_body_whose_end_cannot_be_told_is_not_stored() -> None:
    assert admit(ask(), Head(200, (("cache-control", "max-age=60"),), None, whole=False), NOW, NOW) is None


# ── is it fresh ──────────────────────────────────────────────────────────────────────────────────────────────────────

RELEASE = "/packages/x-1.2.3-py3-none-any.whl"


@pytest.mark.parametrize(
    ("target", "fields", "ago", "fresh"),
    [
        ("/a", [("cache-control", "max-age=100")], 50, True),
        ("/a", [("cache-control", "max-age=100")], 150, False),
        ("/a", [("cache-control", "max-age=100, s-maxage=10")], 50, False),
        ("/a", [("cache-control", "max-age=10, s-maxage=100")], 50, True),
        ("/a", [("cache-control", "max-age=100"), ("age", "90")], 50, False),  # it was old when it came
        ("/a", [("cache-control", "max-age=100"), ("age", "10")], 50, True),
        ("/a", [("date", date(500)), ("cache-control", "max-age=100")], 0, False),
        ("/a", [("date", date(-500)), ("cache-control", "max-age=100")], 150, False),  # a clock ahead doesn't help
        ("/a", [("date", "nonsense"), ("cache-control", "max-age=100")], 50, True),
        ("/a", [("date", date(50)), ("expires", date(-50))], 50, True),
        ("/a", [("date", date(50)), ("expires", date(10))], 50, False),
        ("/a", [("date", date(50)), ("expires", date(-50)), ("age", "70")], 50, False),
        ("/a", [("expires", "0")], 0, False),
        ("/a", [("cache-control", "no-cache, max-age=100")], 0, False),
        ("/a", [], 0, False),
        # Nothing said: a guess, long for what is published once, short for what lists it.
        (RELEASE, [], HOUR, True),
        (RELEASE, [], 25 * HOUR, False),
        (RELEASE, [("cache-control", "public")], HOUR, True),
        (RELEASE, [("cache-control", "max-age=5")], HOUR, False),
        (RELEASE, [("cache-control", "no-cache")], 0, False),
        (RELEASE, [("expires", "0")], 0, False),
        (RELEASE + ".metadata", [], HOUR, True),
        ("/x/-/x-1.0.0.tgz", [], HOUR, True),
        ("/pool/x_1.0-1_amd64.deb", [], HOUR, True),
        ("/x/@v/v1.0.0.zip", [], HOUR, True),
        ("/dists/s/main/by-hash/SHA256/abc", [], HOUR, True),
        ("/x/latest.tgz", [], HOUR, False),
        ("/org/x/1.0-SNAPSHOT/x-1.0-SNAPSHOT.jar", [], HOUR, False),
        ("/dists/s/InRelease", [("last-modified", date(100 * HOUR))], 30, True),
        ("/dists/s/InRelease", [("last-modified", date(100 * HOUR))], 90, False),
        ("/dists/s/InRelease", [("last-modified", date(50))], 30, False),
        ("/dists/s/Packages.xz", [], 1, False),
    ],
)
def test_freshness(target: str, fields: list[tuple[str, str]], ago: float, fresh: bool) -> None:
    record = stored(*fields, ago=ago, target=target)
    assert isinstance(select(ask(target), [record]), Use) is fresh


def test_the_age_of_what_is_used() -> None:
    record = stored(("date", date(70)), ("age", "30"), ("cache-control", "max-age=1000"), ago=20)
    plan = select(ask(), [record])
    assert isinstance(plan, Use)
    assert plan.age == 70  # the larger of what Date and Age say
    assert record.get("age") is None


@pytest.mark.parametrize(
    ("cache_control", "ago", "used"),
    [("no-cache", 0, False), ("max-age=0", 0, False), ("max-age=100", 50, True), ("max-age=10", 50, False)],
)
def test_a_clients_own_limit(cache_control: str, ago: float, used: bool) -> None:
    record = stored(("cache-control", "max-age=1000"), ("etag", '"1"'), ago=ago)
    plan = select(ask(cache_control=cache_control), [record])
    assert isinstance(plan, Use if used else Check)
    if isinstance(plan, Check):
        assert ("cache-control", cache_control) in plan.fields


def test_how_it_is_confirmed() -> None:
    modified = date(HOUR)
    record = stored(("cache-control", "max-age=0"), ("etag", 'W/"1"'), ("last-modified", modified))
    plan = select(ask(if_none_match='"mine"', accept="a/b"), [record])
    assert isinstance(plan, Miss)  # another accept: another answer
    plan = select(ask(if_none_match='"mine"'), [record])
    assert isinstance(plan, Check)
    assert dict(plan.fields)["if-none-match"] == 'W/"1"'
    assert dict(plan.fields)["if-modified-since"] == modified


def test_without_a_validator_there_is_nothing_to_confirm() -> None:
    assert select(ask(), [stored(("cache-control", "max-age=0"))]) == Miss()
    assert select(ask(), []) == Miss()


@pytest.mark.parametrize(
    ("fields", "asked", "wanted", "fits"),
    [
        ([], {}, {}, True),
        ([], {"accept": "a/b"}, {"accept": "c/d"}, False),
        ([], {"accept_encoding": "gzip"}, {}, True),
        ([("vary", "Accept-Encoding")], {"accept_encoding": "gzip"}, {}, False),
        ([("content-encoding", "gzip")], {"accept_encoding": "gzip"}, {}, False),
        ([("content-encoding", "gzip")], {"accept_encoding": "gzip"}, {"accept_encoding": "gzip, br"}, True),
        ([("vary", "user-agent, cookie, origin")], {}, {}, True),
    ],
)
def test_whom_an_answer_fits(
    fields: list[tuple[str, str]], asked: dict[str, str], wanted: dict[str, str], fits: bool
) -> None:
    record = stored(("cache-control", "max-age=100"), *fields, **asked)
    assert isinstance(select(ask(**wanted), [record]), Use) is fits


def test_another_urls_answer_is_never_used() -> None:
    record = stored(("cache-control", "max-age=100"), target="/a")
    assert isinstance(select(ask("/a"), [record]), Use)
    assert isinstance(select(ask("/b"), [record]), Miss)


# ── a 304 ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def confirmed(told: Pairs, *fields: tuple[str, str]) -> Record | None:
    record = stored(("etag", '"1"'), ("content-type", "a/b"), ("x-old", "1"), *fields, ago=HOUR)
    asked = ask()
    plan = select(asked, [record])
    assert isinstance(plan, Check)
    found = refresh(asked, plan, Head(304, told, None, whole=False), NOW, NOW)
    assert found is None or found[0] is record
    return found and found[1]


def test_a_304_makes_it_new_again() -> None:
    told = (("etag", '"1"'), ("date", date()), ("cache-control", "max-age=60"), ("content-type", "c/d"), ("x-new", "1"))
    record = confirmed(told, ("cache-control", "max-age=5"))
    assert record is not None
    assert isinstance(select(ask(), [record]), Use)
    assert (record.get("content-type"), record.get("x-new"), record.get("x-old")) == ("a/b", "1", "1")
    assert record.get("cache-control") == "max-age=60"


def test_a_304_that_was_kept_somewhere_is_as_old_as_it_says() -> None:
    record = confirmed((("etag", '"1"'), ("age", "100"), ("cache-control", "max-age=60")))
    assert record is not None
    assert isinstance(select(ask(), [record]), Check)


@pytest.mark.parametrize(
    "told",
    [
        (("etag", '"2"'),),
        (("etag", '"1"'), ("set-cookie", "a=b")),
        (("etag", '"1"'), ("cache-control", "private")),
        (("etag", '"1"'), ("cache-control", "no-store")),
        (("etag", '"1"'), ("x", "a" * 20_000)),
    ],
)
def test_a_304_after_which_it_must_not_be_used(told: Pairs) -> None:
    assert confirmed(told) is None


# ── which part ───────────────────────────────────────────────────────────────────────────────────────────────────────

MODIFIED = date(HOUR)
PLAIN = stored(("etag", '"1"'), ("last-modified", MODIFIED))
WEAK = stored(("etag", 'W/"1"'))


@pytest.mark.parametrize(
    ("record", "fields", "gets"),
    [
        (PLAIN, {}, Whole()),
        (PLAIN, {"range": "bytes=0-99"}, Part(0, 100)),
        (PLAIN, {"range": "bytes=990-2000"}, Part(990, 1000)),
        (PLAIN, {"range": "bytes=500-"}, Part(500, 1000)),
        (PLAIN, {"range": "bytes=-10"}, Part(990, 1000)),
        (PLAIN, {"range": "bytes=-5000"}, Part(0, 1000)),
        (PLAIN, {"range": "bytes=1000-"}, Unsatisfiable()),
        (PLAIN, {"range": "bytes=-0"}, Unsatisfiable()),
        (PLAIN, {"range": "bytes=9-5"}, Whole()),
        (PLAIN, {"range": "bytes=-"}, Whole()),
        (PLAIN, {"range": "bytes=0-1,5-6"}, Whole()),
        (PLAIN, {"range": "bytes=0-1", "if_range": '"1"'}, Part(0, 2)),
        (PLAIN, {"range": "bytes=0-1", "if_range": '"2"'}, Whole()),
        (PLAIN, {"range": "bytes=0-1", "if_range": MODIFIED}, Part(0, 2)),
        (PLAIN, {"range": "bytes=0-1", "if_range": date()}, Whole()),
        (WEAK, {"range": "bytes=0-1", "if_range": 'W/"1"'}, Whole()),
        (PLAIN, {"if_none_match": '"1"'}, NotModified()),
        (PLAIN, {"if_none_match": '"0", W/"1"'}, NotModified()),
        (PLAIN, {"if_none_match": "*"}, NotModified()),
        (PLAIN, {"if_none_match": '"2"'}, Whole()),
        (PLAIN, {"if_none_match": '"2"', "if_modified_since": date()}, Whole()),
        (PLAIN, {"if_none_match": '"1"', "range": "bytes=0-1"}, NotModified()),
        (PLAIN, {"if_modified_since": MODIFIED}, NotModified()),
        (PLAIN, {"if_modified_since": date(2 * HOUR)}, Whole()),
        (PLAIN, {"if_modified_since": "nonsense"}, Whole()),
        (WEAK, {"if_modified_since": date()}, Whole()),
    ],
)
def test_which_part_a_request_gets(record: Record, fields: dict[str, str], gets: object) -> None:
    assert portion(ask(**fields), record) == gets


@given(st.from_regex(r"bytes=[0-9, -]{1,30}", fullmatch=True))
def test_a_part_is_always_within_the_body(wanted: str) -> None:
    match portion(ask(range=wanted), PLAIN):
        case Part(start, stop):
            assert 0 <= start < stop <= 1000


# ── records ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_TEXT = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20)
_PAIRS = st.lists(st.tuples(st.from_regex(r"[a-z0-9-]{1,10}", fullmatch=True), _TEXT), max_size=5).map(tuple)


@given(_PAIRS, _PAIRS, st.floats(0, 1e11), st.integers(0, 10**15))
def test_a_record_survives_its_file(asked: Pairs, fields: Pairs, when: float, length: int) -> None:
    record = Record("https://a.test:443/x", asked, fields, when, length)
    assert from_bytes(to_bytes(record)) == record


@given(st.binary(max_size=200) | st.just(b"[" * 100_000))
def test_a_damaged_file_is_an_error_and_nothing_else(data: bytes) -> None:
    with pytest.raises(BadRecord):
        from_bytes(data)


@pytest.mark.parametrize(
    ("change", "into"),
    [
        ('"length": 1000', '"length": -1'),
        ('"length": 1000', '"length": "1000"'),
        ('"length": 1000', '"length": null'),
        ('"born": ', '"born": NaN, "b": '),
        ('"born": ', '"born": Infinity, "b": '),
        ('"version": 1', '"version": 2'),
        ('"etag"', '"e tag"'),
        ('"etag"', '"x\\r\\ny"'),
        ('\\"1\\"', "a\\r\\nset-cookie: b"),
        ('\\"1\\"', "\\u1234"),
        ('["etag", "', '["etag", "a", "'),
    ],
)
def test_a_forged_record_is_refused(change: str, into: str) -> None:
    good = to_bytes(PLAIN).decode()
    from_bytes(good.encode())
    assert change in good
    with pytest.raises(BadRecord):
        from_bytes(good.replace(change, into).encode())


@given(
    st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, [0-9]{1,6} [A-Z][a-z]{2} [0-9]{1,6} [0-9:]{1,12} [A-Z+0-9]*")
)
def test_any_date_gives_a_number_or_nothing(text: str) -> None:
    assert isinstance(http_date(text), float | None)


@given(st.text(max_size=10), st.text(max_size=40), st.floats(0, 1e10), st.floats(0, 1e10))
def test_nothing_is_born_after_it_came(age: str, when: str, asked_at: float, received_at: float) -> None:
    assert born((("age", age), ("date", when)), asked_at, received_at) <= received_at
