"""Truth tables of the grammar of rules: what each one means, what is refused, and that a rule has one spelling."""

from __future__ import annotations

import time
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.paths import oddity, plain
from proxy.rules import BadRule, Rule, as_address, parse_rule
from tests.support.policies import HOSTS, PATHS, rules

NET = IPv4Network("10.0.0.0/8")


def rule(
    text: str, host: str = "", match: str = "domain", ports: tuple[int, ...] = (80, 443), *, deny: bool = False,
    scheme: str = "", network: IPv4Network | None = None, path: str = "", methods: set[str] | None = None,
    mode: str | None = None, git: bool = False,
) -> Rule:  # fmt: skip
    asked = None if methods is None else frozenset(methods)
    return Rule(text, deny, scheme, host, match, network, ports, path, asked, mode, git)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("example.com", rule("example.com", "example.com")),
        ("  Example.COM. ", rule("example.com", "example.com")),
        ("bücher.example", rule("xn--bcher-kva.example", "xn--bcher-kva.example")),
        ("example.com:8443", rule("example.com:8443", "example.com", ports=(8443,))),
        ("example.com:443", rule("example.com:443", "example.com", ports=(443,))),
        ("example.com:08443", rule("example.com:8443", "example.com", ports=(8443,))),
        ("=example.com", rule("=example.com", "example.com", "exact")),
        ("=example.com:1", rule("=example.com:1", "example.com", "exact", (1,))),
        ("*.example.com", rule("*.example.com", "example.com", "subdomains")),
        ("*.example.com:65535", rule("*.example.com:65535", "example.com", "subdomains", (65535,))),
        ("localhost", rule("localhost", "localhost")),
        ("https://example.com", rule("https://example.com/", "example.com", "exact", (443,), scheme="https")),
        ("HTTPS://example.com:443/", rule("https://example.com/", "example.com", "exact", (443,), scheme="https")),
        ("http://example.com:80", rule("http://example.com/", "example.com", "exact", (80,), scheme="http")),
        ("http://example.com:443/", rule("http://example.com:443/", "example.com", "exact", (443,), scheme="http")),
        (
            "https://*.example.com:8443/a/B%2Fc",
            rule("https://*.example.com:8443/a/B%2Fc", "example.com", "subdomains", (8443,), scheme="https",
                 path="/a/B%2Fc"),
        ),
        ("https://example.com//x", rule("https://example.com//x", "example.com", "exact", (443,), scheme="https",
                                        path="//x")),
        ("tcp://db.example.com:5432", rule("tcp://db.example.com:5432", "db.example.com", "exact", (5432,),
                                           scheme="tcp")),
        ("tcp://*.example.com:22", rule("tcp://*.example.com:22", "example.com", "subdomains", (22,), scheme="tcp")),
        ("10.0.0.0/8", rule("10.0.0.0/8", "", "network", network=NET)),
        ("10.0.0.0/8:8080", rule("10.0.0.0/8:8080", "", "network", (8080,), network=NET)),
        ("10.1.2.3", rule("10.1.2.3", "", "network", network=IPv4Network("10.1.2.3/32"))),
        ("10.1.2.3/32", rule("10.1.2.3", "", "network", network=IPv4Network("10.1.2.3/32"))),
        ("https://10.1.2.3/", rule("https://10.1.2.3/", "", "network", (443,), scheme="https",
                                   network=IPv4Network("10.1.2.3/32"))),
        ("https://10.1.2.3:8443/x", rule("https://10.1.2.3:8443/x", "", "network", (8443,), scheme="https", path="/x",
                                         network=IPv4Network("10.1.2.3/32"))),
        ("tcp://10.1.2.3:22", rule("tcp://10.1.2.3:22", "", "network", (22,), scheme="tcp",
                                   network=IPv4Network("10.1.2.3/32"))),
        ("tcp://10.0.0.0/8:22", rule("tcp://10.0.0.0/8:22", "", "network", (22,), scheme="tcp", network=NET)),
        ("deny example.com", rule("deny example.com", "example.com", ports=(), deny=True)),
        ("deny\t =example.com:25", rule("deny =example.com:25", "example.com", "exact", (25,), deny=True)),
        ("deny 10.0.0.0/8", rule("deny 10.0.0.0/8", "", "network", (), deny=True, network=NET)),
        ("deny tcp://x.org:22", rule("deny tcp://x.org:22", "x.org", "exact", (22,), deny=True, scheme="tcp")),
        ("deny https://x.org/a", rule("deny https://x.org/a", "x.org", "exact", (443,), deny=True, scheme="https",
                                      path="/a")),
        ("deny x.org methods=post", rule("deny x.org methods=POST", "x.org", ports=(), deny=True, methods={"POST"})),
        ("x.org methods=HEAD,get,GET", rule("x.org methods=GET,HEAD", "x.org", methods={"GET", "HEAD"})),
        ("x.org methods=M-SEARCH", rule("x.org methods=M-SEARCH", "x.org", methods={"M-SEARCH"})),
        ("x.org mode=splice", rule("x.org mode=splice", "x.org", mode="splice")),
        ("x.org git=read mode=inspect methods=GET",
         rule("x.org methods=GET mode=inspect git=read", "x.org", methods={"GET"}, mode="inspect", git=True)),
    ],
)  # fmt: skip
def test_what_a_rule_means(text: str, meaning: Rule) -> None:
    assert parse_rule(text) == meaning
    assert parse_rule(meaning.text) == meaning


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names a host"), (" ", "names a host"), ("deny", "names a host"), ("deny deny x.org", "not 'x.org'"),
        ("*", "unrestricted"), ("https://*/", "unrestricted"), ("=*.example.com", r"write \*.example.com"),
        ("example.com/path", "write https://example.com/path"), ("ftp://example.com/", "http, https or tcp"),
        ("wss://example.com/", "for wss write https"), ("ssh://example.com", "tcp://HOST:22"),
        ("=https://example.com/", "http, https or tcp"), ("//example.com/", "scheme"),
        ("tcp://example.com", "tcp://example.com:22"), ("tcp://10.1.2.3", "tcp://10.1.2.3:22"),
        ("tcp://example.com:22/", "no path"), ("tcp://=example.com:22", "no host name"),
        ("https://=example.com/", "no host name"), ("https://u@example.com/", "user name"), ("u:p@x.org", "user name"),
        ("example.com:", "no host name|port"), ("example.com:0", "1 to 65535"), ("example.com:65536", "1 to 65535"),
        ("example.com:999999999999", "1 to 65535"), ("example.com:x", "port is a number"), ("x.org:1:2", "one colon"),
        ("x.org:٤٤٣", "port is a number"), ("[::1]", "only IPv4"), ("https://[::1]/", "only IPv4"), ("::1", "IPv4"),
        ("10.1.2.3/8", "write|written"), ("10.0.0.0/33", "IPv4"), ("10.0.0.0/8/8", "IPv4|scheme"), ("127.1", "IPv4"),
        ("2130706433", "IPv4"), ("0x7f.0.0.1", "address"), ("0x7f000001", "address"), ("010.1.1.1", "IPv4"),
        ("256.1.1.1", "IPv4"), ("1.2.3.4.5", "IPv4"), ("１０.1.1.1", "address"), ("=10.1.2.3", "address"),
        ("*.10.1.2.3", "address"), ("https://10.0.0.0/8", "write 10.0.0.0/8"), ("https://10.0.0.0/8/", "10.0.0.0/8"),
        ("exa_mple.com", "letters, digits"), ("example..com", "single dots"), ("example.com..", "single dots"),
        ("a.*.com", "letters"), ("*example.com", "letters"), (".example.com", "letters"), ("example.com\x00", "letters"),
        ("example.com\\x", "letters"), ("a,b", "letters"), ("a" * 64 + ".com", "letters"), ("a." * 127 + "com", "253"),
        ("https://example.com/a?b", r"without \?"), ("https://example.com/a#b", "#"), ("https://example.com/*", r"\*"),
        ("https://example.com/ü", "percent-encoded"), ("https://example.com/a/../b", "dot segment"),
        ("https://example.com/a/%2e%2E/b", "dot segment"), ("https://example.com/a\\b", "backslash"),
        ("https://example.com/%00", "control"), ("https://example.com/..;/", "dot segment"),
        ("https://example.com?x", "port|host name"), ("https:///x", "host name"), ("https://", "host name"),
        ("x.org methods=", "GET,HEAD"), ("x.org methods=GET,", "GET,HEAD"), ("x.org methods=G T", "GET|not 'T'"),
        ("x.org methods=CONNECT", "tcp://"), ("x.org methods=GET methods=POST", "twice"), ("x.org mode=raw", "mode="),
        ("x.org mode=", "mode="), ("x.org git=write", "git=read"), ("x.org git", "git=read"), ("x.org y.org", "y.org"),
        ("x.org port=22", "port=22"), ("deny x.org mode=inspect", "no mode="), ("deny x.org git=read", "no mode="),
        ("deny 10.0.0.0/8:80", "write deny 10.0.0.0/8"), ("deny https://10.1.2.3/a", "write deny 10.1.2.3"),
        ("deny 10.1.2.3 methods=GET", "write deny 10.1.2.3"), ("tcp://x.org:1 methods=GET", "unseen"),
        ("tcp://x.org:1 mode=splice", "unseen"), ("http://x.org/ mode=splice", "TLS"),
        ("x.org methods=GET mode=splice", "spliced"), ("x.org mode=splice git=read", "spliced"),
        ("https://x.org/a mode=splice", "spliced"), ("x" * 3000, "2048"),
    ],
)  # fmt: skip
def test_a_rule_that_means_nothing_says_what_to_write(text: str, words: str) -> None:
    with pytest.raises(BadRule, match=words) as caught:
        parse_rule(text)
    assert repr(text[:200]) in str(caught.value)


@given(st.text(max_size=60) | st.text("0123456789./:*=-x ", max_size=30))
def test_any_text_is_a_rule_with_one_spelling_or_refused(text: str) -> None:
    try:
        parsed = parse_rule(text)
    except BadRule:
        return
    assert parse_rule(parsed.text) == parsed


@given(rules())
def test_a_rule_has_one_spelling(text: str) -> None:
    parsed = parse_rule(text)
    assert parse_rule(parsed.text) == parsed


LOOK_ALIKES = [
    "evil-example.com", "evilexample.com", "example.com.evil.org", "xample.com", "com", "example.co", "example.comm",
    "example-com", "xn--example-com", "example", "",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "covered", "others"),
    [
        ("example.com", ["example.com", "a.example.com", "a.b.example.com"], []),
        ("=example.com", ["example.com"], ["a.example.com"]),
        ("*.example.com", ["a.example.com", "a.b.example.com"], ["example.com"]),
        ("https://example.com/", ["example.com"], ["a.example.com"]),
        ("https://*.example.com/", ["a.example.com"], ["example.com"]),
        ("tcp://example.com:22", ["example.com"], ["a.example.com"]),
        ("tcp://*.example.com:22", ["a.example.com"], ["example.com"]),
        ("10.0.0.0/8", ["10.0.0.0", "10.1.2.3", "10.255.255.255"], ["11.0.0.0", "9.255.255.255", "010.0.0.1", "10.1"]),
        ("10.1.2.3", ["10.1.2.3"], ["10.1.2.4", "10.1.2.3.example.com", "x10.1.2.3"]),
    ],
)  # fmt: skip
def test_which_hosts_a_rule_covers(text: str, covered: list[str], others: list[str]) -> None:
    parsed = parse_rule(text)
    assert [host for host in (*covered, *others, *LOOK_ALIKES) if parsed.covers(host)] == covered


@given(st.sampled_from(HOSTS), st.text("abcdefghijklmnopqrstuvwxyz-0123456789", min_size=1, max_size=5))
def test_only_a_dot_is_a_border(host: str, before: str) -> None:
    for text in (host, f"*.{host}", f"={host}"):
        assert not parse_rule(text).covers(before + host)
        assert not parse_rule(text).covers(f"{host}.{before}x")


@pytest.mark.parametrize(
    ("text", "fitting"),
    [
        ("x.org", {(80, False), (80, True), (443, False), (443, True)}),
        ("x.org:8443", {(8443, True), (8443, False)}),
        ("https://x.org/", {(443, True)}),
        ("http://x.org/", {(80, False)}),
        ("https://x.org:80/", {(80, True)}),
        ("tcp://x.org:22", {(22, True), (22, False)}),
        ("deny https://x.org/", {(443, True)}),
        ("deny x.org", {(port, tls) for port in (22, 80, 443, 8443) for tls in (True, False)}),
    ],
)
def test_which_connections_a_rule_fits(text: str, fitting: set[tuple[int, bool]]) -> None:
    parsed = parse_rule(text)
    ports = (22, 80, 443, 8443)
    assert {(port, tls) for port in ports for tls in (True, False) if parsed.fits(port, tls)} == fitting
    assert {port for port in ports if parsed.fits(port, None)} == {port for port, _ in fitting}
    assert parsed.fits(None, None)


@pytest.mark.parametrize(
    ("host", "address"),
    [("10.1.2.3", True), ("10.1.2.3.", False), ("10.1.2.03", False), ("10.1.2", False), ("x1", False), ("", False),
     ("::1", False), ("10.1.2.256", False)],
)  # fmt: skip
def test_an_address_is_four_decimal_numbers(host: str, address: bool) -> None:
    assert (as_address(host) is not None) is address


@pytest.mark.parametrize(
    "path",
    ["/", "/a/b.c", "/a%20b", "/@scope%2fname", "/a;b=c/d", "/...x", "/.git/config", "/a..b/c", "//", "/%E2%82%AC",
     "/%e9", "/100%", "/a%zz", "/%2541", "*", "", "/ü", "/~x/-._~!$&'()*+,;=:@"],
)  # fmt: skip
def test_ordinary_paths(path: str) -> None:
    assert oddity(path) is None


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/a/../b", "dot"), ("/a/./b", "dot"), ("/..", "dot"), ("/a/.", "dot"), ("/%2e%2e/", "dot"),
        ("/.%2E/", "dot"), ("/%252e%252e/", "dot"), ("/%25252e%25252e/", "dot"), ("/a/..;/b", "dot"),
        ("/a/..;x=y/b", "dot"), ("/a/.;/b", "dot"), ("/a/..%3b/b", "dot"), ("/a%2f..%2fb", "dot"),
        ("/a%252f..%252fb", "dot"), ("/a/..%20/b", "dot"), ("/a/.. /b", "dot"), ("/a/.../b", "dot"),
        ("/a\\..\\b", "backslash"), ("/a%5cb", "backslash"), ("/a%255cb", "backslash"), ("/a%5c..%5cb", "backslash"),
        ("/a/%c0%ae%c0%ae/b", "overlong"), ("/a%c0%afb", "overlong"), ("/%25c0%25ae", "overlong"),
        ("/%u002e%u002e/", "overlong"), ("/a/\uff0e\uff0e/b", "dot"), ("/a/\u2025/b", "dot"),
        ("/a/%ef%bc%8e%ef%bc%8e/b", "dot"), ("/a\uff0f..\uff0fb", "dot"), ("/a\u2215..\u2215b", "dot"),
        ("/\uff052e\uff052e/", "dot"), ("/a%00b", "control"), ("/a%0d%0ab", "control"), ("/a\x7fb", "control"),
        ("/a%09b", "control"), ("/a#b", "fragment"), ("/%2525252541", "layers"), ("/%252525252e", "layers"),
        ("/\udcc0\udcaf", "UTF-8"), ("/" + "a" * 9_000, "characters"),
    ],
)  # fmt: skip
def test_odd_paths(path: str, words: str) -> None:
    assert words in str(oddity(path))


@pytest.mark.parametrize("path", ["." * 8_000 + "x", " " * 60_000, "\u0301\u0323" * 4_000, "%CC%81%CC%A3" * 600])
def test_no_path_takes_long(path: str) -> None:
    started = time.perf_counter()
    oddity(f"/{path}")
    assert time.perf_counter() - started < 0.5


@pytest.mark.parametrize(
    "path",
    ["/private/x", "//private/x", "/private//x", "/PRIVATE/x", "/%70rivate/x", "/%2570rivate/x", "/private%2fx",
     "/private;v=1/x", "/private./x", "/private%20/x", "/\uff50rivate/x", "/priva%54e/x", "/private/x;a=b", "/private/x."],
)  # fmt: skip
def test_spellings_that_lenient_servers_take_for_the_same(path: str) -> None:
    assert plain(path) == "/private/x"


@given(st.text(max_size=40) | PATHS)
def test_any_text_can_be_looked_at_as_a_path(path: str) -> None:
    oddity(path)
    assert plain(plain(path)) == plain(path) or oddity(path)
