"""What the artifact cache never stores, and how nothing of one tenant shapes what others get."""

from __future__ import annotations

import gzip

import pytest

from tests.support.artifact_lab import Get, Lab
from tests.support.artifact_server import FRESH, Asked, Page, Registry

BODY = bytes(range(256)) * 4_000


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
def test_what_may_have_broken_off_is_not_stored(shared: Lab, get: Get, registry: Registry, framing: str) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH], framing=framing)
    if framing == "short":
        with shared.open(registry.url("/a")) as response, pytest.raises(Exception, match="Incompl"):
            response.read()
    else:
        assert get("/a").body == BODY
    assert shared.listing()["entries"] == 0
    registry.pages["/a"] = Page(BODY, [FRESH])
    assert (get("/a").how, get("/a").how) == ("miss", "hit")


# ── nothing of a tenant's ─────────────────────────────────────────────────────────────────────────────────────────────


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
