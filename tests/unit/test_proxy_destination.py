"""Where a connection is to go, as a truth table: the address it was made to, what TLS, Host and the proxy's client say.

Must not ask a policy: this is about one name in all places, not about which.
"""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.destination import Denied, Destination, asked_of_proxy, authority, is_address, stated_host
from proxy.names import canonical
from proxy.sniff import Hello, Http

UP = Destination("up.test", 443, "up.test", lambda name: name in ("up.test", "collides.test"))
FORGOTTEN = Destination(None, 443, "198.18.7.7", lambda name: name == "up.test")
ADDRESS = Destination.fixed("10.1.2.3", 443)
PROXY = Destination.fixed("up.test", 443)


def request(*hosts: str, target: str = "/", method: str = "GET") -> Http:
    return Http(method, target, hosts, 0)


@pytest.mark.parametrize(
    ("to", "start", "host"),
    [
        (UP, Hello("up.test", False), "up.test"),
        (UP, Hello("UP.test.", True), "up.test"),
        (UP, request("up.test"), "up.test"),
        (UP, request("Up.Test.:443"), "up.test"),
        # The hash is the same: it is a connection for that other name, about which the policy is asked.
        (UP, Hello("collides.test", False), "collides.test"),
        (FORGOTTEN, Hello("up.test", False), "up.test"),
        (FORGOTTEN, request("up.test"), "up.test"),
        (ADDRESS, Hello(None, False), "10.1.2.3"),
        (ADDRESS, request("10.1.2.3"), "10.1.2.3"),
        (ADDRESS, request("10.1.2.3:443"), "10.1.2.3"),
        (PROXY, Hello("up.test", False), "up.test"),
        (PROXY, request("up.test"), "up.test"),
    ],
)
def test_one_host(to: Destination, start: Hello | Http, host: str) -> None:
    assert stated_host(to, start) == host


@pytest.mark.parametrize("to", [UP, FORGOTTEN, PROXY], ids=["known", "forgotten", "proxy"])
@pytest.mark.parametrize(
    "start",
    [
        Hello(None, False), Hello("", False), Hello("other.test", False), Hello("evil-up.test", False), Hello("up.test..", False),
        Hello("up.test.evil.org", False), Hello("www.up.test", False), Hello("up.test\0", False), Hello("up.test ", False),
        Hello("up .test", False), Hello("x@up.test", False), Hello("*.up.test", False), Hello("up.test:443", False),
        Hello("10.1.2.3", False), Hello("127.0.0.1", False), Hello("198.18.7.7", False),
        request(), request(""), request("other.test"), request("up.test", "up.test"), request("up.test", "evil.org"),
        request("", "up.test"), request("up.test:"), request("up.test:0"), request("up.test:65536"), request("up.test:1:2"),
        request("up.test:٤٤٣"), request("x@up.test"), request("up.test@evil.org"), request("up.test/evil.org"),
        request("up.test,evil.org"), request("up.test evil.org"), request("up.test\t"), request("evil.org#up.test"),
        request("up.test\0.evil.org"), request("ｕp.test"), request("up。test"), request("[::1]"), request("10.1.2.3"),
        request("0x0a010203"), request("up.test\\evil.org"), request("%75p.test"), request("a" * 300 + ".test"),
    ],
)  # fmt: skip
def test_another_host(to: Destination, start: Hello | Http) -> None:
    with pytest.raises(Denied) as told:
        stated_host(to, start)
    assert told.value.reason


@pytest.mark.parametrize(
    "start",
    [Hello("up.test", False), Hello("10.1.2.3", False), request(), request("up.test"), request("10.1.2.4"),
     request("10.1.02.3"), request("010.1.2.3"), request("10.66051"), request("167838211"), request("10.1.2.3.")],
)  # fmt: skip
def test_an_address_is_only_itself(start: Hello | Http) -> None:
    with pytest.raises(Denied):
        stated_host(ADDRESS, start)


@pytest.mark.parametrize(
    ("head", "host", "port", "absolute"),
    [
        (request("x", target="up.test:443", method="CONNECT"), "up.test", 443, False),
        (request(target="UP.test.:8443", method="CONNECT"), "up.test", 8443, False),
        (request(target="10.1.2.3:22", method="CONNECT"), "10.1.2.3", 22, False),
        (request("up.test", target="http://up.test/"), "up.test", 80, True),
        (request("up.test", target="http://up.test"), "up.test", 80, True),
        (request("up.test", target="HTTP://Up.Test:8080/a?b#c"), "up.test", 8080, True),
        (request("up.test", target="http://up.test?q=/@evil.org"), "up.test", 80, True),
        (request("10.1.2.3", target="http://10.1.2.3/"), "10.1.2.3", 80, True),
    ],
)
def test_what_the_proxy_is_asked_for(head: Http, host: str, port: int, absolute: bool) -> None:
    asked = asked_of_proxy(head)
    assert (asked.host, asked.port, asked.absolute) == (host, port, absolute)


@pytest.mark.parametrize(
    "head",
    [
        request(target=target, method="CONNECT")
        for target in (
            "up.test", "up.test:", "up.test:0", "up.test:70000", "up.test:https", "http://up.test:443", "/", "*", ":443",
            "[::1]:443", "x@up.test:443", "up.test:443:443", "up.test:443/", "0x7f.1:80", "127.1:80", "2130706433:80",
            "0177.0.0.1:80", "up..test:443", "up_.test:443", "ｕp.test:443",
        )
    ]
    + [
        request("up.test", target=target)
        for target in (
            "/", "*", "https://up.test/", "ftp://up.test/", "http:///", "http://", "http:/up.test/", "//up.test/", "up.test:80",
            "http://x@up.test/", "http://x:y@up.test/", "http://up.test:80:80/", "http://[::1]/", "http://up.test\\@evil.org/",
            "http://up.test:x/", "http://127.1/", "http://up.test%00.evil.org/", "ws://up.test/",
        )
    ],
    ids=lambda head: f"{head.method} {head.target}",
)  # fmt: skip
def test_what_the_proxy_refuses(head: Http) -> None:
    with pytest.raises(Denied):
        asked_of_proxy(head)


@given(st.text(max_size=40))
def test_an_authority_is_a_name_or_an_address(text: str) -> None:
    try:
        host, port = authority(text)
    except Denied:
        return
    assert port is None or 0 < port < 65_536
    assert is_address(host) or canonical(host) == host
    assert text.lower().startswith(host)


@given(
    st.ip_addresses(v=4),
    st.sampled_from(["{0}", "{1}", "0{0}", "{0}.", "{1:#x}", " {0}", "{0} ", "+{0}", "::ffff:{0}"]),
)
def test_addresses_have_one_spelling(address: IPv4Address, form: str) -> None:
    assert is_address(form.format(address, int(address))) is (form == "{0}")
