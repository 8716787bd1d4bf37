"""Truth tables of the filter's decisions: names, addresses, requests. Must not need I/O of any kind."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.addresses import Refused, kind, permitted
from proxy.names import BadName, canonical, covering
from proxy.request import Head, path_of, refusal, response, strip_upgrades

LABEL = "a" * 63


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("example.com", "example.com"),
        ("EXAMPLE.com.", "example.com"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("ＥＸＡＭＰＬＥ。com", "example.com"),
        ("a", "a"),
        ("1.example", "1.example"),
        ("4chan.org", "4chan.org"),
        (f"{LABEL}.com", f"{LABEL}.com"),
        ("0xyz.0x1g", "0xyz.0x1g"),
    ],
)
def test_a_name_has_one_form(text: str, name: str) -> None:
    assert canonical(text) == name
    assert canonical(name) == name


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "..", "a..b", ".a", "example.com..", "exa mple.com", "example.com\x00", "example.com\x00.evil.com",
        "example.com\n", " example.com", "a@example.com", "example.com\\@evil.com", "ex%61mple.com", "a_b.com",
        "-a.com", "a-.com", f"{LABEL}a.com", ".".join([LABEL] * 4) + ".com", "example.com:80", "[::1]", "::1",
        "fe80::1%eth0", "http://example.com", "example.com/", "a,b", "*.example.com", "\u202eexample.com",
        "127.0.0.1", "127.1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0177.0.0.1", "017700000001", "127.0.0.1.",
        "0x", "1.2.3.4.5", "example.1", "１２７.0.0.1", "127。0。0。1", "①", "ﬀ\u200d.com",
    ],
)  # fmt: skip
def test_what_could_be_read_differently_is_no_name(text: str) -> None:
    with pytest.raises(BadName):
        canonical(text)


@given(st.text(max_size=300))
def test_canonical_names_are_harmless(text: str) -> None:
    try:
        name = canonical(text)
    except BadName:
        return
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    assert canonical(name) == name


@pytest.mark.parametrize(
    ("name", "covered"),
    [("example.com", True), ("a.b.example.com", True), ("badexample.com", False), ("example.com.evil.org", False),
     ("com", False), ("xample.com", False)],
)  # fmt: skip
def test_domains_end_at_dots(name: str, covered: bool) -> None:
    assert (covering(name, ["other.org", "example.com"]) == "example.com") is covered


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "192.0.2.1", "198.51.100.1", "203.0.113.1", "100.63.255.255", "100.128.0.0", "172.15.255.255",
     "172.32.0.0", "169.253.1.1", "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700::1", "2001:200::1",
     "2a00::1"],
)  # fmt: skip
def test_public_addresses(address: str) -> None:
    assert kind(ip_address(address)) is None


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
     "169.254.169.254", "169.254.170.2", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.192", "192.168.1.1",
     "192.88.99.1", "198.18.0.1", "198.19.255.255", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255",
     "::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:8.8.8.8", "64:ff9b::7f00:1", "64:ff9b::808:808",
     "64:ff9b:1::1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:10::1", "2001:db8::1", "2002:7f00:1::1",
     "2002:808:808::1", "3fff::1", "4000::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fec0::1", "ff02::1"],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert kind(ip_address(address)) is not None
    with pytest.raises(Refused):
        permitted([address], (), may_be_private=False)


def test_every_answer_must_be_permitted() -> None:
    assert permitted(["8.8.8.8", "8.8.4.4", "8.8.8.8"], (), may_be_private=False) == [
        ip_address("8.8.8.8"),
        ip_address("8.8.4.4"),
    ]
    for bad in (["8.8.8.8", "10.0.0.1"], ["8.8.8.8", "fe80::1%eth0"], []):
        with pytest.raises(Refused):
            permitted(bad, (), may_be_private=False)


def test_own_and_private_addresses_need_a_private_name() -> None:
    own = {ip_address("203.0.113.7")}
    with pytest.raises(Refused, match="this host's own"):
        permitted(["203.0.113.7"], own, may_be_private=False)
    assert permitted(["203.0.113.7", "10.0.0.1", "fd00::1", "127.0.0.1"], own, may_be_private=True)


def test_private_networks_are_let_in_address_by_address() -> None:
    corporate = (ip_network("10.1.0.0/16"), ip_network("fd00::/8"))
    assert permitted(["10.1.2.3", "fd00::1", "8.8.8.8"], (), may_be_private=False, private_networks=corporate)
    for bad in (["10.1.2.3", "10.2.0.1"], ["127.0.0.1"]):
        with pytest.raises(Refused):
            permitted(bad, (), may_be_private=False, private_networks=corporate)
    with pytest.raises(Refused):
        permitted(["169.254.169.254"], (), may_be_private=False, private_networks=(ip_network("0.0.0.0/0"),))


@pytest.mark.parametrize(
    "address", ["169.254.169.254", "0.0.0.0", "168.63.129.16", "224.0.0.1", "198.18.0.1", "fe80::1"]
)
def test_some_addresses_no_name_leads_to(address: str) -> None:
    with pytest.raises(Refused):
        permitted([address], {ip_address(address)}, may_be_private=True)


def h1(target: str = "/", *hosts: str, method: str = "GET", authority: str = "", texts: tuple[bytes, ...] = ()) -> Head:
    return Head(False, method, authority, target, hosts, texts)


def h2(authority: str, *hosts: str, target: str = "/", method: str = "GET") -> Head:
    return Head(True, method, authority, target, hosts)


@pytest.mark.parametrize(
    "head",
    [h1("/a?b=c", "example.com"), h1("/", "EXAMPLE.com."), h1("/", "example.com:443"), h2("example.com"),
     h2("example.com:443"), h2("example.com", "example.com"), h2("", "example.com"),
     h1("*", "example.com", method="OPTIONS"), h1("/ü", "example.com"), h1("//x", "example.com", method="M-SEARCH")],
)  # fmt: skip
def test_requests_for_their_host(head: Head) -> None:
    assert refusal(head, "example.com", 443) is None


@pytest.mark.parametrize(
    "head",
    [
        h1("/"), h1("/", ""), h1("/", "evil.com"), h1("/", "sub.example.com"), h1("/", "example.com", "example.com"),
        h1("/", "example.com", "evil.com"), h1("/", "example.com, evil.com"), h1("/", "example.com:80"),
        h1("/", "ｅxample.com"), h1("/", "example。com"), h1("/", "example.com\xad"), h1("/", "example.com:"),
        h1("/", "example.com:443:443"), h1("/", "evil@example.com"),
        h1("/", "example.com\x00"), h1("/", "example.com "), h1("/", "example.com/x"), h1("/", "example.com:٤٤٣"),
        h1("/", "example.com", authority="example.com"), h1("/", "example.com", authority="evil.com"),
        h1("example.com:443", "example.com", method="CONNECT", authority="example.com:443"),
        h1("/", "example.com", method="CONNECT"), h1("/", "example.com", method="connect"),
        h1("/", "example.com", method="GET x"), h1("/", "example.com", method=""), h1("/", "example.com", method="get"),
        h1("", "example.com"), h1("x", "example.com"), h1("*", "example.com"), h1("/a b", "example.com"),
        h1("/\r\nHost: evil.com", "example.com"), h1("/\x00", "example.com"),
        h1("/", "example.com", texts=(b"a\r\nHost: evil.com",)), h1("/", "example.com", texts=(b"a\x00",)),
        h1("/", "example.com", texts=(b"a\x0cb",)), h1("/", "example.com", texts=(b"a\x7f",)),
        h2(""), h2("evil.com"), h2("evil.com", "example.com"), h2("example.com", "evil.com"),
        h2("example.com", "example.com", "example.com"), h2("example.com:80"), h2("x@example.com"),
        h2("example.com", target="/ HTTP/1.1\r\nHost: evil.com\r\n\r\n"), h2("example.com", method="CONNECT"),
        h2("example.com", target="http://evil.com/"), h2("example.com", ""), h2("", ""), h2("example.com", "", ""),
    ],
)  # fmt: skip
def test_requests_that_name_something_else(head: Head) -> None:
    assert refusal(head, "example.com", 443)


def test_a_request_to_the_proxy_may_name_its_host_in_the_target() -> None:
    def refused(named: str, host: str) -> bool:
        return bool(refusal(h1("/", host, authority=named), "example.com", 80, absolute=True))

    assert not refused("example.com", "example.com")
    assert not refused("example.com:80", "EXAMPLE.com.")
    for named, host in (("evil.com", "example.com"), ("example.com", "evil.com"), ("example.com:81", "example.com"),
                        ("x@example.com", "example.com"), ("example.com", "")):  # fmt: skip
        assert refused(named, host), (named, host)


@given(st.text(max_size=40))
def test_only_the_very_name_passes_as_host(host: str) -> None:
    if refusal(h1("/", host), "example.com", 443) is None:
        assert canonical(host.partition(":")[0]) == "example.com"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"accept": "x", "connection": "close"}, {"accept": "x", "connection": "close"}),
        ({"upgrade": "h2c", "connection": "Upgrade, HTTP2-Settings", "http2-settings": "x"}, {}),
        ({"upgrade": "websocket, h2c", "connection": "upgrade"}, {}),
        ({"upgrade": "WebSocket", "connection": "upgrade", "sec-websocket-extensions": "permessage-deflate"},
         {"upgrade": "WebSocket", "connection": "upgrade"}),
    ],
)  # fmt: skip
def test_offers_to_change_the_protocol_are_taken_off(before: dict[str, str], after: dict[str, str]) -> None:
    strip_upgrades(before)
    assert before == after


def test_a_refusal_is_one_response_with_one_line() -> None:
    head, _, text = response("no\r\nx: y").partition(b"\r\n\r\n")
    assert text == b"Hutch: denied: no\\x0d\\x0ax: y\n"
    assert head.count(b"\r\n") == 4
    assert b"content-length: %d\r\n" % len(text) in head


def test_a_query_is_not_recorded() -> None:
    assert path_of("/a?token=secret") == "/a"
