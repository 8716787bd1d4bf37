"""The artifact cache's process with a real registry behind it: what is fetched once, how, and what never is.

Needs no root. Must not leave loopback: the names are in the hosts table that the process gets.
"""

from __future__ import annotations

import gzip
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import Answer, Lab, cache
from tests.support.artifact_server import Asked, Page, Registry
from tests.support.tasks import wait_for
from tests.support.upstream import certificates

FRESH = "Cache-Control: max-age=600"
BODY = bytes(range(256)) * 4_000
Get = Callable[..., Answer]


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    with Registry().running() as server:
        yield server


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cache(tmp_path_factory.mktemp("artifacts"), Path(certifi.where()), loop=request.param) as laboratory:
        yield laboratory


@pytest.fixture
def registry(served: Registry) -> Registry:
    served.forget()
    return served


@pytest.fixture
def lab(running: Lab) -> Lab:
    assert "error" not in running.ask(op="artifacts-clear")
    return running


@pytest.fixture
def get(lab: Lab, registry: Registry) -> Get:
    return lambda target, **fields: lab.get(
        f"http://registry.test:{registry.port}{target}", {name.replace("_", "-"): v for name, v in fields.items()}
    )


# ── once ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_file_is_fetched_once(get: Get, registry: Registry, framing: str) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH, "X-Kept: yes"], framing=framing)
    first, second = get("/a"), get("/a")
    assert (first.status, first.how, first.body) == (200, "miss", BODY)
    assert (second.status, second.how, second.body) == (200, "hit", BODY)
    assert second.fields["x-kept"] == "yes"
    assert second.fields["content-length"] == str(len(BODY))
    assert len(registry.asked) == 1


def test_an_empty_file_is_kept_too(get: Get, registry: Registry) -> None:
    registry.pages["/empty"] = Page(b"", [FRESH])
    assert [get("/empty").how for _ in range(2)] == ["miss", "hit"]


def test_a_release_is_kept_where_the_registry_says_nothing_of_time(get: Get, registry: Registry) -> None:
    registry.pages["/x-1.0-py3-none-any.whl"] = registry.pages["/simple/x/"] = Page(BODY)
    assert [get("/x-1.0-py3-none-any.whl").how for _ in range(2)] == ["miss", "hit"]
    assert [get("/simple/x/").how for _ in range(2)] == ["miss", "miss"]


def test_one_connection_serves_many_requests(lab: Lab, registry: Registry) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    with lab.connect() as sock:
        for _ in range(3):
            with lab.open(f"http://registry.test:{registry.port}/a", over=sock) as response:
                assert response.read() == BODY
    assert len(registry.asked) == 1


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_who_comes_later_reads_along(lab: Lab, registry: Registry, framing: str) -> None:
    """One download, two clients, the second one joins in the middle and neither waits for the end."""
    go = threading.Event()
    registry.pages["/slow"] = Page(BODY, [FRESH], framing=framing, steps=2, go=go)
    url = f"http://registry.test:{registry.port}/slow"
    with lab.open(url) as first, lab.open(url) as second:
        assert first.read(1000) == second.read(1000) == BODY[:1000]
        go.set()
        assert first.read() == second.read() == BODY[1000:]
        assert (first.headers["x-hutch-cache"], second.headers["x-hutch-cache"]) == ("miss", "hit")
    assert len(registry.asked) == 1


def test_who_asks_together_waits_for_one_answer(lab: Lab, registry: Registry) -> None:
    """Before the head is there, nobody knows whether it may be shared; it is asked for once all the same."""
    arrived, go = threading.Event(), threading.Event()

    def slow_head(_: Asked) -> Page:
        arrived.set()
        return Page(BODY, ["Cache-Control: no-cache"])

    registry.pages["/a"] = slow_head
    registry.before_answer = go
    before = lab.requests
    with ThreadPoolExecutor(8) as threads:
        answers = [threads.submit(lab.get, f"http://registry.test:{registry.port}/a") for _ in range(8)]
        assert arrived.wait(10)
        wait_for(lambda: lab.requests >= before + 8, "all to have asked", 20)
        time.sleep(0.3)  # and for the process to have read it
        go.set()
        assert all(answer.result(20).body == BODY for answer in answers)
    assert len(registry.asked) == 1


def test_what_cannot_be_shared_is_fetched_by_each(lab: Lab, registry: Registry) -> None:
    registry.pages["/mine"] = lambda asked: Page(str(asked.connection).encode(), ["Set-Cookie: who=you"])
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lab.get, [f"http://registry.test:{registry.port}/mine"] * 8))
    assert {answer.how for answer in answers} == {"bypass"}
    assert len(registry.asked) == 8


# ── confirmed ────────────────────────────────────────────────────────────────────────────────────────────────────────


def with_etag(body: bytes, *fields: str) -> Callable[[Asked], Page]:
    def answer(asked: Asked) -> Page:
        tag = f'ETag: "{len(body)}"'
        if asked.fields.get("if-none-match") == f'"{len(body)}"':
            return Page(b"", [tag, *fields], status="304 Not Modified")
        return Page(body, [tag, *fields])

    return answer


def test_a_stale_answer_is_confirmed(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = with_etag(BODY, "Cache-Control: max-age=0", "X-Seen: 1")
    assert [get("/a").how for _ in range(3)] == ["miss", "revalidated", "revalidated"]
    assert get("/a").body == BODY
    registry.pages["/a"] = with_etag(BODY, FRESH, "X-Seen: 2")
    assert (get("/a").how, get("/a").how, get("/a").fields["x-seen"]) == ("revalidated", "hit", "2")
    registry.pages["/a"] = with_etag(b"new", "Cache-Control: max-age=0")
    assert get("/a").how == "hit"
    assert get("/a", cache_control="no-cache").body == b"new"
    assert get("/a").body == b"new"


def test_last_modified_confirms_as_well(get: Get, registry: Registry) -> None:
    date = formatdate(1_700_000_000, usegmt=True)
    registry.pages["/dists/stable/Release"] = lambda asked: (
        Page(b"", status="304 Not Modified")
        if asked.fields.get("if-modified-since") == date
        else Page(BODY, [f"Last-Modified: {date}", "Cache-Control: no-cache"])
    )
    assert [get("/dists/stable/Release").how for _ in range(2)] == ["miss", "revalidated"]


@pytest.mark.parametrize("directive", ["no-cache", "max-age=0"])
def test_a_client_can_insist_on_a_fresh_answer(get: Get, registry: Registry, directive: str) -> None:
    registry.pages["/simple/x/"] = with_etag(BODY, FRESH)
    assert get("/simple/x/").how == "miss"
    assert get("/simple/x/", cache_control=directive).how == "revalidated"
    assert registry.asked[-1].fields["cache-control"] == directive
    assert get("/simple/x/").how == "hit"


def test_what_is_gone_is_forgotten(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    assert get("/a").how == "miss"
    del registry.pages["/a"]
    assert get("/a", cache_control="no-cache").status == 404
    assert get("/a").status == 404


def test_a_304_for_something_else_leads_to_a_whole_answer(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = lambda asked: (
        Page(b"", ['ETag: "other"'], status="304 Not Modified")
        if "if-none-match" in asked.fields
        else Page(BODY, ['ETag: "first"', "Cache-Control: max-age=0"])
    )
    assert get("/a").how == "miss"
    assert (get("/a").how, get("/a").body) == ("miss", BODY)
    assert len(registry.asked) == 5


def test_the_clients_own_condition_is_answered_from_the_store(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = with_etag(BODY, FRESH)
    tag = f'"{len(BODY)}"'
    assert get("/a", if_none_match=tag).status == 304  # of the registry: nothing is stored yet
    assert get("/a").how == "miss"
    answer = get("/a", if_none_match=f'"x", W/{tag}')
    assert (answer.status, answer.how, answer.body, answer.fields["etag"]) == (304, "hit", b"", tag)
    assert get("/a", if_none_match='"x"').status == 200


# ── parts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parts_come_from_a_whole_body(get: Get, registry: Registry) -> None:
    registry.pages["/a.whl"] = with_etag(BODY, FRESH)
    get("/a.whl")
    part = get("/a.whl", range="bytes=1000-1999")
    assert (part.status, part.body, part.how) == (206, BODY[1000:2000], "hit")
    assert part.fields["content-range"] == f"bytes 1000-1999/{len(BODY)}"
    assert get("/a.whl", range="bytes=-22").body == BODY[-22:]
    assert get("/a.whl", range=f"bytes={len(BODY)}-").status == 416
    assert get("/a.whl", range="bytes=5-9", if_range='"other"').body == BODY
    assert len(registry.asked) == 1


def test_a_part_of_what_is_not_stored_passes_through_and_is_not_stored(get: Get, registry: Registry) -> None:
    partial = ["Content-Range: bytes 0-9/100", FRESH]
    registry.pages["/a.whl"] = Page(BODY[:10], partial, status="206 Partial Content")
    answers = [get("/a.whl", range="bytes=0-9") for _ in range(2)]
    assert [(answer.status, answer.how, answer.body) for answer in answers] == [(206, "bypass", BODY[:10])] * 2
    registry.pages["/a.whl"] = Page(BODY, [FRESH])
    assert get("/a.whl").body == BODY


# ── never stored ─────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("Set-Cookie: a=b", "200 OK"),
        ("Cache-Control: private, max-age=600", "200 OK"),
        ('Cache-Control: private="x-user", max-age=600', "200 OK"),
        ("Cache-Control: max-age=600, no-store", "200 OK"),
        ("Cache-Control: private=x,no-store,max-age=600", "200 OK"),
        ("Vary: *", "200 OK"),
        ("Vary: accept, *", "200 OK"),
        (FRESH, "404 Not Found"),
        (FRESH, "500 Oops"),
        (FRESH, "301 Moved Permanently"),
        (FRESH, "203 Non-Authoritative"),
        ("Content-Range: bytes 0-1/2", "200 OK"),
    ],
)
def test_never_stored(get: Get, registry: Registry, field: str, status: str) -> None:
    registry.pages["/a"] = Page(b"body", [FRESH, "Location: /b", field], status=status)
    answers = [get("/a") for _ in range(2)]
    assert [(str(answer.status), answer.how, answer.body) for answer in answers] == [
        (status[:3], "bypass", b"body")
    ] * 2
    assert len(registry.asked) == 2


def test_what_was_asked_with_a_query_or_no_store_is_not_stored(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = registry.pages["/a?token=secret"] = Page(b"body", [FRESH])
    assert [get("/a?token=secret").how for _ in range(2)] == ["bypass", "bypass"]
    assert [get("/a", cache_control="no-store").how for _ in range(2)] == ["bypass", "bypass"]
    assert get("/a").how == "miss"


@pytest.mark.parametrize("framing", ["short", "close"])
def test_what_may_have_broken_off_is_not_stored(lab: Lab, get: Get, registry: Registry, framing: str) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH], framing=framing)
    if framing == "short":
        with lab.open(f"http://registry.test:{registry.port}/a") as response, pytest.raises(Exception, match="Incompl"):
            response.read()
    else:
        assert get("/a").body == BODY
    assert lab.listing()["entries"] == 0
    registry.pages["/a"] = Page(BODY, [FRESH])
    assert (get("/a").how, get("/a").how) == ("miss", "hit")


# ── nothing of a tenant's shapes what others get ─────────────────────────────────────────────────────────────────────


def test_the_registry_sees_only_allowed_fields(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    get("/a", accept_encoding="br, gzip;q=0.9, deflate", accept="text/html", user_agent="evil/1.0")
    assert registry.asked[0].fields == {
        "host": f"registry.test:{registry.port}",
        "accept": "text/html",
        "accept-encoding": "gzip",
        "user-agent": "Hutch/1 (artifact cache)",
    }


def test_an_odd_accept_does_not_decide_what_others_get(get: Get, registry: Registry) -> None:
    """Even if the server forgets to say that it chooses by it."""
    registry.pages["/a"] = lambda asked: Page(f"for {asked.fields['accept']}".encode(), [FRESH])
    assert get("/a", accept="text/odd").body == b"for text/odd"
    assert get("/a", accept="application/json").body == b"for application/json"
    assert get("/a", accept="text/odd").how == "hit"


def test_encodings_are_kept_apart_and_never_decoded(get: Get, registry: Registry) -> None:
    packed = gzip.compress(BODY)

    def page(asked: Asked) -> Page:
        if asked.fields["accept-encoding"] == "gzip":
            return Page(packed, [FRESH, "Content-Encoding: gzip"])
        return Page(BODY, [FRESH])

    registry.pages["/a"] = page
    assert get("/a", accept_encoding="gzip").body == packed
    assert get("/a", accept_encoding="gzip").fields["content-encoding"] == "gzip"
    assert get("/a", accept_encoding="identity").body == BODY
    assert get("/a").body == BODY
    assert len(registry.asked) == 2


def test_a_redirect_is_passed_on_and_not_followed(get: Get, registry: Registry) -> None:
    registry.pages["/a"] = Page(b"", ["Location: /b"], status="302 Found")
    registry.pages["/b"] = Page(BODY)
    answer = get("/a")
    assert (answer.status, answer.fields["location"]) == (302, "/b")
    assert [asked.target for asked in registry.asked] == ["/a"]


def test_a_registry_cannot_speak_in_our_name(get: Get, registry: Registry) -> None:
    fields = ["X-Hutch-Denied: yes", "X-Hutch-Cache: hit", "Alt-Svc: h3", "Connection: x-own", "X-Own: 1", FRESH]
    registry.pages["/a"] = Page(BODY, fields)
    for how in ("miss", "hit"):
        answer = get("/a")
        assert answer.how == how
        assert not {"x-hutch-denied", "alt-svc", "x-own"} & set(answer.fields)


# ── TLS ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_tls_is_verified(tmp_path: Path, loop: str, trusted: bool) -> None:
    ca, context = certificates(tmp_path)
    (tmp_path / "ca.pem").write_bytes(ca)
    (tmp_path / "artifacts").mkdir()
    trust = tmp_path / "ca.pem" if trusted else Path(certifi.where())
    with cache(tmp_path / "artifacts", trust, loop=loop) as lab, Registry().running(context) as registry:
        registry.pages["/a"] = registry.pages["/b"] = Page(BODY, [FRESH])
        answer = lab.get(f"https://up.test:{registry.port}/a")
        if not trusted:
            assert (answer.status, answer.how) == (502, "none")
            assert b"verif" in answer.body
            return
        assert (answer.how, answer.body) == ("miss", BODY)
        assert lab.get(f"https://up.test:{registry.port}/a").how == "hit"
        assert lab.get(f"https://up.test:{registry.port}/b").how == "miss"
        assert registry.connections == 1  # used again
        wrong_name = lab.get(f"https://registry.test:{registry.port}/a")
        assert (wrong_name.status, wrong_name.how) == (502, "none")
