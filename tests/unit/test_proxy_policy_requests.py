"""Truth tables of requests under a policy: methods and the tricks around them, paths in all spellings, git. Without I/O."""

from __future__ import annotations

import pytest

from proxy.policy import Decision, Policy, decide_request, explain
from tests.support.policies import OFF, READ, limited, unrestricted


def ask(
    asked: Policy, method: str = "GET", target: str = "/", *fields: tuple[str, str], host: str = "example.com",
    port: int = 443, tls: bool = True,
) -> Decision:  # fmt: skip
    return decide_request(asked, host, port, tls=tls, method=method, target=target, fields=fields)


@pytest.mark.parametrize(
    ("asked", "method", "rule"),
    [
        (limited("example.com"), "POST", "example.com"), (limited("example.com"), "BREW", "example.com"),
        (limited("example.com", methods=READ), "GET", "example.com"),
        (limited("example.com methods=POST", methods=READ), "POST", "example.com methods=POST"),
        (limited("example.com", "example.com methods=POST", methods=READ), "GET", "example.com"),
        (limited("example.com", "example.com methods=POST", methods=READ), "POST", "example.com methods=POST"),
        (limited("example.com", "example.com methods=POST"), "DELETE", "example.com"),  # rules add up
        (limited("example.com git=read"), "OPTIONS", "example.com git=read"),
        (limited("example.com methods=PUT git=read"), "PUT", "example.com methods=PUT git=read"),
        (unrestricted(), "DELETE", "unrestricted"), (unrestricted(methods=READ), "HEAD", "unrestricted"),
        (unrestricted("example.com methods=GET"), "GET", "example.com methods=GET"),
        (unrestricted("example.com methods=POST", methods=READ), "POST", "example.com methods=POST"),
        (unrestricted("example.com methods=POST", methods=READ), "GET", "unrestricted"),
        (unrestricted("https://example.com/a methods=GET"), "POST", "unrestricted"),
        (unrestricted("example.org methods=GET"), "POST", "unrestricted"),
        (unrestricted("deny example.com methods=POST"), "PUT", "unrestricted"),
        (limited(preset="common-dependencies", registries=["example.com"]), "POST", "preset common-dependencies"),
    ],
)  # fmt: skip
def test_requests_by_method(asked: Policy, method: str, rule: str) -> None:
    assert ask(asked, method) == Decision(True, rule, "")


@pytest.mark.parametrize(
    ("asked", "method", "rule"),
    [
        (limited("example.com", methods=READ), "POST", "example.com methods=POST"),
        (limited("example.com", methods=READ), "BREW", "example.com methods=BREW"),
        (limited("example.com", methods=READ), "get", ""), (limited("example.com", methods=READ), "CONNECT", ""),
        (limited("example.com", methods=READ), "", ""), (limited("example.com", methods=READ), "GET ", ""),
        (limited("example.com methods=GET"), "HEAD", "example.com methods=HEAD"),
        (limited("example.com methods=POST", methods=READ), "GET", "example.com methods=GET"),
        (limited("example.com git=read"), "POST", "example.com methods=POST"),
        (limited("example.com methods=PUT git=read"), "GET", "example.com methods=GET"),
        (unrestricted(methods=READ), "POST", "example.com methods=POST"),
        (unrestricted("example.com methods=GET"), "POST", "example.com methods=POST"),
        (unrestricted("example.com git=read"), "PUT", "example.com methods=PUT"),
        (limited("example.com methods=GET", preset="common-dependencies", registries=["example.com"]), "POST",
         "example.com methods=POST"),
        (limited("https://example.com/ methods=GET"), "POST", "example.com methods=POST"),
        (limited("example.com", "deny example.com methods=POST,PUT"), "PUT", ""),
        (unrestricted("deny example.com methods=POST"), "post", ""),
        (unrestricted(ceiling=["example.com methods=POST"]), "POST", ""),
        (limited("example.com methods=POST", "deny example.com methods=POST"), "POST", ""),
        (limited("example.org"), "GET", "example.com"), (OFF, "GET", "example.com"),
    ],
)  # fmt: skip
def test_requests_refused_by_method(asked: Policy, method: str, rule: str) -> None:
    decision = ask(asked, method)
    assert (decision.allowed, decision.rule, bool(decision.reason)) == (False, rule, True)


TRICKS: list[tuple[str, str, tuple[tuple[str, str], ...]]] = [
    ("GET", "/", (("Upgrade", "websocket"), ("Connection", "upgrade"))),
    ("GET", "/", (("upgrade", "WebSocket"),)),
    ("GET", "/", (("upgrade", "h2c, websocket"),)),
    ("GET", "/", (("upgrade", "h2c"), ("upgrade", "anything"))),
    ("GET", "/", (("Sec-WebSocket-Key", "x"),)),
    ("CONNECT", "/", ((":protocol", "websocket"),)),
    ("GET", "/", ((":protocol", "websocket"),)),
    *[
        ("GET", "/", ((name, "DELETE"),))
        for name in (
            "X-HTTP-Method-Override", "x-http-method", "X-Method-Override", "x_http_method_override", "X-METHOD",
            "X-HTTP-Verb", "x-original-method", "Method-Override", "http-method-override", "x-httpmethodoverride",
        )
    ],
    ("GET", "/?_method=PUT", ()),
    ("GET", "/?a=b&_METHOD=PUT", ()),
    ("GET", "/?%5fmethod=PUT", ()),
    ("GET", "/?a;_method=PUT", ()),
    ("GET", "/?_HttpMethod=PATCH", ()),
    ("GET", "/?x-http-method-override=PUT", ()),
    ("GET", "/?X_HTTP_Method=PUT", ()),
    ("GET", "/", (("Content-Length", "1"),)),
    ("GET", "/", (("content-length", "0"), ("content-length", "5"))),
    ("GET", "/", (("content-length", "x"),)),
    ("GET", "/", (("Transfer-Encoding", "chunked"),)),
    ("HEAD", "/", (("content-length", "3"),)),
    ("OPTIONS", "/", (("transfer-encoding", "identity"),)),
]  # fmt: skip


@pytest.mark.parametrize(("method", "target", "fields"), TRICKS)
def test_a_restriction_looks_at_what_a_request_really_does(
    method: str, target: str, fields: tuple[tuple[str, str], ...]
) -> None:
    for asked in (
        limited("example.com", methods=READ),
        unrestricted(methods=READ),
        limited("example.com methods=GET", methods=READ),
    ):
        decision = ask(asked, method, target, *fields)
        assert (decision.allowed, decision.rule, bool(decision.reason)) == (False, "", True)
    for asked in (limited("example.com methods=GET,HEAD,OPTIONS"), unrestricted("example.com git=read")):
        decision = ask(asked, method, target, *fields)
        assert (decision.allowed, decision.rule) == (False, "example.com")
    for asked in (unrestricted("deny example.com methods=POST"), unrestricted(ceiling=["example.com methods=PUT"])):
        assert not ask(asked, method, target, *fields).allowed
    assert ask(unrestricted(), method, target, *fields).allowed
    assert ask(limited("example.com"), method, target, *fields).allowed


@pytest.mark.parametrize(
    ("method", "target", "fields"),
    [
        ("GET", "/?method=flickr.photos&methods=x&method_id=1", ()), ("GET", "/?_token=method", ()),
        ("GET", "/", (("content-length", "0"),)), ("GET", "/", (("Content-Length", " 00 "),)),
        ("OPTIONS", "/", (("Access-Control-Request-Method", "PUT"), ("Origin", "x"))),
        ("OPTIONS", "*", ()), ("GET", "/", (("x-verbose", "1"), ("x-methodology", "1"), ("payment-method", "1"))),
        ("GET", "/", (("Upgrade", "h2c"), ("HTTP2-Settings", "x"), ("Connection", "Upgrade, HTTP2-Settings"))),
        ("GET", "/", (("Upgrade", ""),)),
        ("HEAD", "/", (("Expect", "100-continue"), ("Range", "bytes=0-"))),
    ],
)  # fmt: skip
def test_a_restriction_leaves_honest_requests_alone(
    method: str, target: str, fields: tuple[tuple[str, str], ...]
) -> None:
    assert ask(limited("example.com", methods=READ), method, target, *fields).allowed


ORG = limited("https://example.com/org/")


@pytest.mark.parametrize(
    "target", ["/org/", "/org/a", "/org/a?../b", "/org//a", "/org/%41", "/org/a;b", "/org/...x", "/org/@a%2fb"]
)
def test_paths_that_begin_as_the_rule(target: str) -> None:
    assert ask(ORG, "POST", target) == Decision(True, "https://example.com/org/", "")


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("/", "https://example.com/"), ("/org", "https://example.com/org"), ("/organ/", "https://example.com/organ/"),
        ("/Org/", "https://example.com/Org/"), ("//org/", "https://example.com//org/"),
        ("/%6frg/", "https://example.com/%6frg/"), ("/other?x=/org/", "https://example.com/other"),
        ("/a*b", "example.com"), ("/ü", "example.com"), ("/" + "a" * 3000, "example.com"),
        ("/org;x/a", "https://example.com/org;x/a"), ("*", "example.com"),
        ("/org/../x", ""), ("/org/..", ""), ("/org/./a", ""), ("/org/%2e%2e/x", ""), ("/org/.%2E/x", ""),
        ("/org/%252e%252e/x", ""), ("/org/..;/x", ""), ("/org/..;a=b/x", ""), ("/org/..%2fx", ""),
        ("/org/..%252fx", ""), ("/org\\..\\x", ""), ("/org/..%5cx", ""), ("/org/a#/../x", ""), ("/org/%00", ""),
        ("/org/%c0%ae%c0%ae/x", ""), ("/org/.. /x", ""), ("/org/%u002e%u002e/", ""), ("/org/\uff0e\uff0e/x", ""),
        ("https://example.com/org/", ""), ("org/", ""), ("", ""), ("?/org/", ""),
    ],
)  # fmt: skip
def test_paths_that_do_not(target: str, rule: str) -> None:
    decision = ask(ORG, "GET", target)
    assert (decision.allowed, decision.rule) == (False, rule)


def test_odd_paths_matter_only_where_paths_do() -> None:
    assert ask(limited("example.com"), "GET", "/a/../b").allowed
    assert ask(limited("example.com", "https://example.org/x/"), "GET", "/a/../b").allowed
    assert not ask(limited("example.com", "deny https://example.com/x/"), "GET", "/a/../b").allowed
    assert ask(limited("example.com", "deny https://example.com/x/"), "GET", "/a/../b", tls=False, port=80).allowed


@pytest.mark.parametrize(
    "field",
    [
        "X-Original-URL",
        "x-rewrite-url",
        "X_Original_URL",
        "X-Forwarded-Prefix",
        "X-Forwarded-Path",
        "X-Http-Path-Override",
    ],
)
def test_a_field_that_names_another_path_matters_only_where_paths_do(field: str) -> None:
    fields = [(field, "/other")]
    for asked in (limited("https://a.org/team/"), unrestricted("deny https://a.org/secret/")):
        told = decide_request(asked, "a.org", 443, tls=True, method="GET", target="/team/x", fields=fields)
        assert (told.allowed, "names another path" in told.reason) == (False, True)
    assert decide_request(
        limited("a.org"), "a.org", 443, tls=True, method="GET", target="/team/x", fields=fields
    ).allowed


def test_paths_with_methods() -> None:
    asked = limited("https://example.com/a/ methods=POST", "https://example.com/", methods=["GET"])
    assert ask(asked, "POST", "/a/x").rule == "https://example.com/a/ methods=POST"
    assert ask(asked, "GET", "/a/x").rule == "https://example.com/"
    assert ask(asked, "POST", "/b") == Decision(
        False,
        "example.com methods=POST",
        "POST is not among the methods that the agent phase may use with example.com",
    )
    only = limited("https://example.com/a/ methods=GET")
    assert ask(only, "POST", "/a/x").rule == "https://example.com/a/x methods=POST"
    assert (
        ask(limited("https://example.com/a/", methods=["GET"]), "POST", "/b").rule
        == "https://example.com/b methods=POST"
    )
    assert ask(only, "GET", "/b", port=443).rule == "https://example.com/b"
    assert (
        ask(limited("http://example.com:8080/a/"), "GET", "/b", port=8080, tls=False).rule
        == "http://example.com:8080/b"
    )


@pytest.mark.parametrize(
    "target",
    ["/private/", "/private/a", "/private", "/private?x", "/PRIVATE/a", "//private/a", "/private//a", "/%70rivate/a",
     "/%2570rivate/a", "/private%2fa", "/private;x/a", "/private./a", "/\uff50rivate/a", "/x/../private/a",
     "/x/%2e%2e/private/a", "/x/..;/private", "/private\\a", "/./private/", "/%c1%b0rivate/"],
)  # fmt: skip
def test_a_denied_path_is_denied_in_all_spellings(target: str) -> None:
    for asked in (
        limited("example.com", "deny https://example.com/private/"),
        limited("https://example.com/", "deny https://*.com/private/"),
        unrestricted("deny https://example.com/Private/"),
        unrestricted(ceiling=["https://example.com/private/"]),
        unrestricted("deny https://example.com/private/ methods=GET,POST"),
    ):
        decision = ask(asked, "GET", target)
        assert (decision.allowed, decision.rule, bool(decision.reason)) == (False, "", True)
        assert ask(asked, "GET", "/public/").allowed
        assert ask(asked, "GET", "/private-not/").allowed


FETCH = ("Content-Type", "application/x-git-upload-pack-request")
PACK = "/a/b.git/git-upload-pack"


@pytest.mark.parametrize(
    "asked",
    [limited("example.com git=read"), limited("example.com git=read", methods=READ), unrestricted("example.com git=read"),
     limited("https://example.com/a/ git=read", "example.com", methods=READ),
     unrestricted("example.com methods=GET git=read"), unrestricted("example.com git=read", methods=READ),
     limited("example.com git=read", preset="package-managers", registries=["example.com"], methods=READ)],
)  # fmt: skip
def test_git_may_fetch_and_not_push(asked: Policy) -> None:
    assert ask(asked, "GET", "/a/b.git/info/refs?service=git-upload-pack").allowed
    assert "git=read" in ask(asked, "POST", PACK, FETCH).rule
    assert ask(asked, "POST", PACK, FETCH, ("content-encoding", "gzip")).allowed
    for method, target, *fields in [
        ("GET", "/a/b.git/info/refs?service=git-receive-pack"),
        ("GET", "/a/b.git/info/refs?x=y&service=git%2Dreceive-pack"),
        ("POST", "/a/b.git/git-receive-pack", ("content-type", "application/x-git-receive-pack-request")),
        ("POST", "/a/b.git/git-receive-pack", FETCH),
        ("POST", "/a/b.git/git-receive-pack/git-upload-pack", FETCH),
        ("POST", "/a/b.git/git%2dreceive-pack", FETCH),
        ("POST", PACK),
        ("POST", PACK, ("content-type", "text/plain")),
        ("POST", PACK, FETCH, ("content-type", "text/plain")),
        ("POST", PACK, FETCH, ("x-http-method-override", "DELETE")),
        ("POST", f"{PACK}?_method=DELETE", FETCH),
        ("POST", "/a/issues?/git-upload-pack", FETCH),
        ("POST", "/a/issues%3f/git-upload-pack", FETCH),
        ("POST", "/a/issues%23/git-upload-pack", FETCH),
        ("POST", "/a/issues#/git-upload-pack", FETCH),
        ("POST", "/a/issues;/git-upload-pack", FETCH),
        ("POST", "/a/issues%00/git-upload-pack", FETCH),
        ("POST", "/a/x/../git-upload-pack", FETCH),
        ("POST", "/a/git-upload-pack/..", FETCH),
        ("POST", "/a/git-upload-packs", FETCH),
        ("POST", "/a/xgit-upload-pack", FETCH),
        ("PUT", PACK, FETCH),
        ("POST", "/a/issues", FETCH),
    ]:
        assert not ask(asked, method, target, *fields).allowed, (method, target, fields)  # type: ignore[arg-type]


def test_git_is_told_which_rule_it_needs() -> None:
    asked = limited("example.com", methods=READ)
    assert ask(asked, "POST", PACK, FETCH).rule == "example.com git=read"
    assert explain(asked, f"https://example.com{PACK}", "POST").rule == "example.com git=read"
    pushing = ask(limited("example.com git=read"), "GET", "/a.git/info/refs?service=git-receive-pack")
    assert pushing.reason == "git=read lets the agent phase fetch from example.com, not push to it"


def test_a_rule_without_restriction_lets_push_beside_git_read() -> None:
    assert ask(limited("example.com git=read", "=example.com"), "POST", "/a.git/git-receive-pack").allowed
