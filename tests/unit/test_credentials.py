"""Brokered credentials as tables: what one is, where its value may go, and where it must not."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from proxy.credentials import BadCredential, Credential, Header, Target, parse_credential
from proxy.insertion import BodyInserter, Inserted, insert
from proxy.placeholders import make_placeholder

VALUE = "ghp_Zk3vR8qLm2Xw7TbN"
HOLDER = "ghp_Aa1bB2cCd3Ef4GhI"
ODD_VALUE = 'p@ss/w0rd+"x&y z=9'
ODD_HOLDER = 'q@tt/a1bc+"d&e f=0'


def credential(**changes: Any) -> Credential:
    wire = {"name": "TOKEN", "placeholder": HOLDER, "value": VALUE, "for": ["api.example.com"], "places": ["header"]}
    return parse_credential({**wire, **changes})


def sent(it: Credential, *fields: tuple[str, str], host: str = "api.example.com", **options: Any) -> Inserted:
    raw = [(name.encode(), value.encode()) for name, value in fields]
    return insert([it], host, options.get("tls", True), options.get("target", "/x"), raw)


def test_a_credential_is_read_and_its_value_shown_by_nothing() -> None:
    it = credential(**{"for": ["API.example.com.", "git.example.com/team/"]}, header="Authorization: Bearer {}")
    assert it.targets == (Target("api.example.com"), Target("git.example.com", "/team/"))
    assert it.header == Header("authorization", "Bearer ")
    assert it.covers("git.example.com")
    assert not it.covers("example.com")
    assert VALUE not in repr(it)
    assert VALUE not in repr(sent(it, ("authorization", f"Bearer {HOLDER}")))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": "A-B"}, "name of a variable"),
        ({"name": None}, "name of a variable"),
        ({"for": []}, "hosts that it is for"),
        ({"for": "api.example.com"}, "hosts that it is for"),
        ({"for": ["10.0.0.1"]}, "no host with a path"),
        ({"for": ["https://api.example.com"]}, "no host with a path"),
        ({"for": ["api.example.com:443"]}, "no host with a path"),
        ({"for": ["*.example.com"]}, "no host with a path"),
        ({"for": ["user@api.example.com"]}, "no host with a path"),
        ({"for": ["api.example.com/a b"]}, "the path"),
        ({"for": ["api.example.com/a/../b"]}, "the path"),
        ({"for": ["api.example.com/a?b"]}, "the path"),
        ({"header": "Authorization: Bearer"}, "one {} for the value"),
        ({"header": "Authorization: {} {}"}, "one {} for the value"),
        ({"header": "Two words: {}"}, "one {} for the value"),
        ({"header": "X: {}\r\nY: z"}, "one {} for the value"),
        ({"header": "Host: {}"}, "is never given to"),
        ({"header": 1}, "no text"),
        ({"places": ["cookie"]}, "places"),
        ({"places": []}, "places"),
        ({"places": "header"}, "places"),
        ({"value": VALUE + "x"}, "length and shape"),
        ({"placeholder": VALUE}, "length and shape"),
        ({"placeholder": "ghp-Aa1bB2cCd3Ef4GhI"}, "length and shape"),
        ({"placeholder": VALUE[:-1] + "x"}, "length and shape"),
        ({"value": 1}, "both text"),
        ({"value": "short"}, "less than 12"),
        ({"value": "x" * 9000}, "more than 8192"),
        ({"value": "with a\nline end"}, "line ends"),
        ({"value": "with a null\0 byte"}, "line ends"),
        ({"value": " padded value "}, "line ends"),
        ({"value": "käsekuchenrezept"}, "line ends"),
        ({"value": "!@#$%^&*()_+abc"}, "less than 8 letters"),
        ({"unknown": 1}, "is an object of"),
    ],
)
def test_what_can_not_be_brokered_is_refused_and_not_shown(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadCredential, match=reason) as caught:
        credential(**changes)
    assert VALUE not in str(caught.value)
    if isinstance(changes.get("value"), str):
        assert changes["value"] not in str(caught.value)


@pytest.mark.parametrize("missing", ["name", "placeholder", "value", "for"])
def test_nothing_may_be_left_out(missing: str) -> None:
    wire = {"name": "A", "placeholder": HOLDER, "value": VALUE, "for": ["a.example"]}
    del wire[missing]
    with pytest.raises(BadCredential, match="is an object of"):
        parse_credential(wire)


@pytest.mark.parametrize(
    ("fields", "before", "after"),
    [
        ({}, "Authorization", f"Bearer {HOLDER}"),
        ({}, "X-Api-Key", HOLDER),
        ({}, "Cookie", f"a=b; session={HOLDER}; c=d"),
        ({}, "PRIVATE-TOKEN", f"{HOLDER}{HOLDER}"),
        ({"header": "Authorization: Bearer {}"}, "authorization", f"bearer {HOLDER}"),
        ({"header": "X-Api-Key"}, "x-api-key", HOLDER),
        ({"header": "Cookie: session={};"}, "cookie", f"a=b; session={HOLDER}; c=d"),
        ({"header": "Authorization: Basic {}"}, "Authorization", f"Basic {HOLDER}"),
    ],
)
def test_the_value_stands_where_the_placeholder_stood(fields: dict[str, str], before: str, after: str) -> None:
    found = sent(credential(**fields), (before, after), ("accept", "*/*"))
    assert found.fields == [(before.encode(), after.replace(HOLDER, VALUE).encode()), (b"accept", b"*/*")]


@pytest.mark.parametrize(
    ("changes", "options", "field", "value"),
    [
        ({}, {"tls": False}, "authorization", f"Bearer {HOLDER}"),
        ({}, {"host": "www.example.com"}, "authorization", f"Bearer {HOLDER}"),
        ({}, {"host": "sub.api.example.com"}, "authorization", f"Bearer {HOLDER}"),
        ({}, {"host": "example.com"}, "authorization", f"Bearer {HOLDER}"),
        ({}, {}, "user-agent", HOLDER),
        ({}, {}, "Referer", f"https://x/?{HOLDER}"),
        ({}, {}, "authorization", f"Bearer {HOLDER[:-1]}"),
        ({}, {}, "authorization", f"Bearer {HOLDER.lower()}"),
        ({"header": "Authorization: Bearer {}"}, {}, "x-other", f"Bearer {HOLDER}"),
        ({"header": "Authorization: Bearer {}"}, {}, "authorization", f"token {HOLDER}"),
        ({"header": "Authorization: Bearer {}"}, {}, "authorization", f"bearer {HOLDER.upper()}"),
        ({"header": "X-Api-Key: {}"}, {}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/other"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team"]}, {"target": "/teams"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/team/../other"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/team/%2e%2e/other"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/team/..;/other"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/team/..%2fother"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/team/..\\other"}, "authorization", f"Bearer {HOLDER}"),
        ({"for": ["api.example.com/team/"]}, {"target": "/other?/team/"}, "authorization", f"Bearer {HOLDER}"),
        ({"places": ["query"]}, {}, "authorization", f"Bearer {HOLDER}"),
    ],
)
def test_it_goes_nowhere_else(changes: dict[str, Any], options: dict[str, Any], field: str, value: str) -> None:
    found = sent(credential(**changes), (field, value), **options)
    assert list(found.fields) == [(field.encode(), value.encode())]


@pytest.mark.parametrize("target", ["/team", "/team/", "/team/x.git/info/refs?service=git-upload-pack"])
def test_a_path_means_all_below_it(target: str) -> None:
    it = credential(**{"for": ["api.example.com/team"]})
    assert sent(it, ("x-token", HOLDER), target=target).fields == [(b"x-token", VALUE.encode())]


def test_a_field_that_names_another_path_takes_a_paths_credential_away() -> None:
    fields = (("x-original-url", "/other"), ("authorization", HOLDER))
    limited, anywhere = credential(**{"for": ["api.example.com/team/"]}, places=["header", "body"]), credential()
    assert sent(limited, *fields, target="/team/x").fields[1] == (b"authorization", HOLDER.encode())
    assert sent(anywhere, *fields, target="/team/x").fields[1] == (b"authorization", VALUE.encode())
    raw = [(name.encode(), value.encode()) for name, value in fields]
    assert not BodyInserter([limited], "api.example.com", True, "/team/x", raw).needed
    assert BodyInserter([limited], "api.example.com", True, "/team/x", raw[1:]).needed


@pytest.mark.parametrize("text", ["user:{}", "{}:x-oauth-basic", "{}:", "{}:{}", "a:b{}c"])
@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("header", [None, "Authorization: Basic {}", "Authorization"])
def test_basic_credentials_are_looked_into(text: str, padded: bool, header: str | None) -> None:
    def basic(value: str) -> str:
        encoded = b64encode(text.replace("{}", value).encode()).decode()
        return f"Basic {encoded if padded else encoded.rstrip('=')}"

    found = sent(credential(header=header), ("Authorization", basic(HOLDER)))
    assert found.fields == [(b"Authorization", basic(VALUE).encode())]


@pytest.mark.parametrize("value", ["Basic !!!", "Basic QQ", "Basic QQQQQ", "Basic", "Basic =", "Digest x"])
def test_what_is_no_basic_stays(value: str) -> None:
    assert sent(credential(), ("authorization", value)).fields == [(b"authorization", value.encode())]


def test_a_header_that_is_made_for_bearer_is_not_put_into_basic() -> None:
    value = f"Basic {b64encode(f'u:{HOLDER}'.encode()).decode()}"
    found = sent(credential(header="Authorization: Bearer {}"), ("authorization", value))
    assert found.fields == [(b"authorization", value.encode())]


def test_query_and_body_only_where_asked() -> None:
    target, header_only, all_places = f"/x?key={HOLDER}", credential(), credential(places=["header", "query", "body"])
    assert sent(header_only, target=target).target == target
    assert sent(all_places, target=target).target == f"/x?key={VALUE}"
    assert sent(all_places, target=f"/{HOLDER}/x").target == f"/{HOLDER}/x"
    assert sent(all_places, target=target, host="b.example").target == target
    for it, expected in ((header_only, HOLDER), (all_places, VALUE)):
        body = BodyInserter([it], "api.example.com", True, "/x")
        assert body.needed is (it is all_places)
        assert body.feed(f'{{"token":"{HOLDER}"}}'.encode()) + body.flush() == f'{{"token":"{expected}"}}'.encode()
    assert not BodyInserter([all_places], "api.example.com", False, "/x").needed
    assert not BodyInserter([all_places], "other.example", True, "/x").needed


def test_escaped_placeholders_become_escaped_values() -> None:
    it = credential(placeholder=ODD_HOLDER, value=ODD_VALUE, places=["header", "query", "body"])
    assert sent(it, target="/?q=q%40tt%2Fa1bc%2B%22d%26e+f%3D0").target == "/?q=p%40ss%2Fw0rd%2B%22x%26y+z%3D9"
    body = BodyInserter([it], "api.example.com", True, "/x")
    assert body.feed(b'{"a": "q@tt/a1bc+\\"d&e f=0"}') == b'{"a": "p@ss/w0rd+\\"x&y z=9"}'


def test_several_credentials_in_one_request() -> None:
    other = credential(name="OTHER", value="0123456789abcdef", placeholder="9876504321fedcba")
    fields = [(b"x-a", HOLDER.encode()), (b"x-b", b"9876504321fedcba")]
    found = insert([credential(), other], "api.example.com", True, "/", fields)
    assert found.fields == [(b"x-a", VALUE.encode()), (b"x-b", b"0123456789abcdef")]


@pytest.mark.parametrize(
    ("value", "beginning"),
    [
        (VALUE, "ghp_"),
        ("sk-ant-api03-AbCdEfGh1234-xyz_0", "sk-ant-api03-"),
        ("550e8400-e29b-41d4-a716-446655440000", ""),
        ("blue-horse-battery-staple", ""),
        ("ghp_123456ab-", "ghp_"),
        ("ghp_12345.abc", "ghp_"),
        ("ghp_1234.abc.", ""),
        (ODD_VALUE, ""),
    ],
)
def test_a_placeholder_has_the_shape_and_shows_nothing(value: str, beginning: str) -> None:
    made = {make_placeholder(value) for _ in range(50)}
    assert len(made) == 50
    for placeholder in made:
        assert placeholder.startswith(beginning)
        assert [_kind(a) for a in placeholder] == [_kind(a) for a in value]
        assert placeholder != value
        parse_credential({"name": "A", "placeholder": placeholder, "value": value, "for": ["a.example"]})
    if not beginning:
        assert len({placeholder[:4] for placeholder in made}) > 10


def test_hexadecimal_stays_hexadecimal() -> None:
    assert set(make_placeholder("deadbeef0123456789")) <= set("0123456789abcdef")


def _kind(character: str) -> str:
    return next((kind for kind in ("isdigit", "islower", "isupper") if getattr(character, kind)()), character)
