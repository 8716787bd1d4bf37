"""What the artifact cache asks a registry about again, and what it answers by itself: conditions and parts."""

from __future__ import annotations

from email.utils import formatdate

import pytest

from tests.support.artifact_lab import Get
from tests.support.artifact_server import FRESH, Page, Registry, with_etag

BODY = bytes(range(256)) * 4_000


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


# ── parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


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
