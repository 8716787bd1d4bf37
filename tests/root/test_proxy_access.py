"""What a sandbox reaches through a real filter, with real clients; a positive control comes before each refusal.

Must not judge by a connect(), which the redirect always accepts: what counts is what client and server got.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.filter_lab import PRIVATE, PUBLIC, Lab, lab

LOOK_UP = """
import dns.message, dns.query, dns.rcode, sys
server, name, kind = sys.argv[1:]
reply = dns.query.udp(dns.message.make_query(name, kind), server, timeout=5)
print(dns.rcode.to_text(reply.rcode()), *[item.to_text() for answer in reply.answer for item in answer])
"""
RAW = """
import socket, sys
name, port, data = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
try:
    connection = socket.create_connection((name, port), 30)
    connection.sendall(data)
    answer = b""
    while piece := connection.recv(65536):
        answer += piece
    print("closed", answer.decode(errors="replace"))
except OSError as error:
    print(type(error).__name__)
"""
HANDSHAKE = """
import socket, ssl, sys
name, sni = sys.argv[1], sys.argv[2] or None
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
    tls = context.wrap_socket(socket.create_connection((name, 443), 20), server_hostname=sni)
    tls.sendall(b"GET / HTTP/1.1\\r\\nHost: %b\\r\\nConnection: close\\r\\n\\r\\n" % name.encode())
    print(tls.recv(65536).split(b"\\r\\n")[0].decode())
except OSError as error:
    print(error)
"""
UDP = """
import socket, sys
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.settimeout(1)
try:
    sender.connect((sys.argv[1], int(sys.argv[2])))
    sender.send(b"x" * 1200)
    sender.recv(100)
    print("answered")
except OSError as error:
    print(type(error).__name__)
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab() as laboratory:
        yield laboratory


ASKS_FOR_NOTHING = """
import socket, ssl
context = ssl.create_default_context()
try:
    context.wrap_socket(socket.create_connection(("evil.test", 443), 20), server_hostname="evil.test").close()
    print("connected")
except ssl.SSLError:
    print("refused")
"""


def reaches(net: Lab, url: str, *arguments: str, sandbox: int = 0) -> bool:
    """Does a fetch arrive, and did the server see it? Both or neither."""
    net.upstream.forget()
    done = net.curl("-f", *arguments, url, sandbox=sandbox)
    got = done.returncode == 0 and done.stdout.startswith("hello ")
    assert got is bool(net.upstream.seen), f"client: {done.stdout} {done.stderr}; server: {net.upstream.seen}"
    return got


def test_the_servers_are_there(net: Lab) -> None:
    """The control for all refusals below: without the filter they answer, from this host."""
    import urllib.request

    with urllib.request.urlopen(f"http://{PUBLIC}/", timeout=10) as answer:
        assert answer.status == 200


def test_off_reaches_nothing(net: Lab) -> None:
    net.policy("unrestricted")
    assert reaches(net, "http://up.test/")
    address = net.python(LOOK_UP, "10.203.0.1", "up.test", "A").split()[1]
    net.filter.policy(net.address(), "off")
    for url in ("http://up.test/", "https://up.test/", f"http://{PUBLIC}/", f"https://{PUBLIC}/", f"http://{address}/"):
        assert not reaches(net, url), url
    assert not reaches(net, "http://up.test/", "--resolve", f"up.test:80:{address}")
    assert "off" in net.filter.record(decision="deny", name="up.test", port=443)["reason"]


@pytest.mark.parametrize("access", ["off", "limited"])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
@pytest.mark.parametrize(
    "url",
    [
        "https://evil.test/a?b",
        "https://evil.test:8443/a?b",
        "https://{}/a?b",
        "http://evil.test/a?b",
        "http://{}/a?b",
    ],
)
def test_a_refusal_is_an_answer_that_says_why(net: Lab, access: str, version: str, url: str) -> None:
    net.policy(access, *(("up.test",) if access == "limited" else ()))
    net.upstream.forget()
    url = url.format(PUBLIC)
    started = time.monotonic()
    done = net.curl("-i", version, url)
    assert time.monotonic() - started < 5
    assert done.returncode == 0, done.stderr
    head, _, body = done.stdout.replace("\r\n", "\n").partition("\n\n")
    assert " 403" in head.splitlines()[0]
    why = next(line.partition(": ")[2] for line in head.splitlines() if line.startswith("x-hutch-denied: "))
    assert body == f"Hutch: denied: {why}\n"
    assert access == "limited" or "off in the agent phase" in why
    assert net.upstream.seen == []
    record = net.filter.record(decision="deny", name=url.split("/")[2].partition(":")[0], reason=why)
    if url.startswith("https"):
        assert (record["method"], record["path"]) == ("GET", "/a")


@pytest.mark.parametrize("trusting", [True, False])
def test_a_refused_connection_that_asks_for_nothing_is_recorded(net: Lab, trusting: bool) -> None:
    net.policy("limited", "up.test")
    script = (
        ASKS_FOR_NOTHING
        if trusting
        else ASKS_FOR_NOTHING.replace("create_default_context()", "SSLContext(ssl.PROTOCOL_TLS_CLIENT)")
    )
    assert net.python(script) == ("connected" if trusting else "refused")
    record = net.filter.record(decision="deny", name="evil.test", port=443)
    assert (record["method"], record["rule"]) == ("TLS", "evil.test")


def test_what_a_policy_allows_meanwhile_goes_on_a_new_connection(net: Lab) -> None:
    net.policy("limited", "other.test")
    assert not reaches(net, "https://up.test/")
    net.policy("limited", "up.test")
    assert reaches(net, "https://up.test/")


def test_a_sandbox_without_policy_reaches_nothing(net: Lab) -> None:
    net.policy("unrestricted", sandbox=0)
    assert reaches(net, "http://up.test/")
    address = net.python(LOOK_UP, "10.203.0.1", "up.test", "A").split()[1]
    net.filter.drop(net.address())
    assert not reaches(net, "http://up.test/", "--resolve", f"up.test:80:{address}")
    assert net.run(sys.executable, "-c", LOOK_UP, "10.203.0.1", "up.test", "A").returncode != 0


def test_limited_reaches_its_names_only(net: Lab) -> None:
    net.policy("limited", "up.test")
    for url in ("http://up.test/", "https://up.test/", "https://www.up.test/a?b=c", "http://www.up.test/"):
        assert reaches(net, url), url
    record = net.filter.record(name="www.up.test", port=443)
    wanted = {"decision": "allow", "rule": "up.test", "method": "GET", "path": "/a", "phase": "agent"}
    assert wanted.items() <= record.items()
    assert record["bytes"] > 10
    for url in ("http://other.test/", "https://other.test/", "http://up.test:8080/", "https://up.test:8443/"):
        assert not reaches(net, url), url
    assert net.filter.record(decision="deny", name="other.test")["rule"] == "other.test"
    assert "port 8443" in net.filter.record(decision="deny", name="up.test", port=8443)["reason"]


def test_unrestricted_reaches_every_public_name(net: Lab) -> None:
    net.policy("unrestricted")
    for url in ("http://up.test/", "https://up.test/", "http://other.test:8080/", "https://other.test:8443/"):
        assert reaches(net, url), url
    record = net.filter.record(name="other.test", port=8443)
    assert {"decision": "allow", "rule": "unrestricted", "method": "TLS", "path": None}.items() <= record.items()


def test_a_neighbour_has_its_own_policy_and_names(net: Lab) -> None:
    net.policy("limited", "up.test", sandbox=0)
    net.policy("limited", "other.test", sandbox=1)
    assert reaches(net, "https://up.test/", sandbox=0)
    assert reaches(net, "https://other.test/", sandbox=1)
    assert not reaches(net, "https://other.test/", sandbox=0)
    assert not reaches(net, "https://up.test/", sandbox=1)
    address = net.python(LOOK_UP, "10.203.0.1", "up.test", "A").split()[1]
    assert not reaches(net, "http://up.test/", "--resolve", f"up.test:80:{address}", sandbox=1)


@pytest.mark.parametrize("access", ["limited", "unrestricted"])
def test_the_name_in_tls_must_be_the_name_that_was_resolved(net: Lab, access: str) -> None:
    net.policy(access, "up.test", "other.test")
    assert net.python(HANDSHAKE, "up.test", "up.test") == "HTTP/1.1 200 OK"
    assert net.python(HANDSHAKE, "up.test", "UP.test") == "HTTP/1.1 200 OK"
    net.upstream.forget()
    for sni in ("other.test", "www.up.test", "evil.test", ""):
        assert "200" not in net.python(HANDSHAKE, "up.test", sni), sni
    assert net.upstream.seen == []
    assert "no SNI" in net.filter.record(decision="deny", reason="the TLS handshake names no server (no SNI)")["reason"]


def test_a_refused_handshake_says_access_denied(net: Lab) -> None:
    net.policy("unrestricted")
    assert "ACCESS_DENIED" in net.python(HANDSHAKE, "up.test", "other.test").upper().replace(" ", "_")


@pytest.mark.parametrize("url", ["http://up.test/", "https://up.test/"])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_the_host_of_each_request_must_be_the_name(net: Lab, url: str, version: str) -> None:
    net.policy("limited", "up.test", "other.test")
    assert reaches(net, url, version)
    assert reaches(net, url, version, "-H", "Host: UP.test.")
    for host in ("other.test", "evil.test", "up.test.evil.test", "up.test:81", "x@up.test", "", PUBLIC):
        net.upstream.forget()
        done = net.curl(version, "-D", "-", "-H", f"Host: {host}" if host else "Host;", url)
        status = done.stdout.split("\n")[0]
        assert "403" in status or "400" in status or (not status and done.returncode), (host, done)
        assert net.upstream.seen == [], host
    assert "request is for" in net.filter.record(decision="deny", name="up.test")["reason"]


def test_a_refusal_explains_itself(net: Lab) -> None:
    net.policy("limited", "up.test")
    done = net.curl("-D", "-", "-H", "Host: evil.test", "https://up.test/")
    head, _, body = done.stdout.replace("\r", "").partition("\n\n")
    assert "x-hutch-denied: the request is for another host" in head
    assert body.startswith("Hutch: denied: the request is for another host")
    assert body.count("\n") == 1


def test_a_second_request_on_the_connection_is_checked_too(net: Lab) -> None:
    net.policy("limited", "up.test", "other.test")
    for version in ("--http1.1", "--http2"):
        net.upstream.forget()
        done = net.curl(version, "-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null", "https://up.test/1",
                        "--next", version, "-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null",
                        "-H", "Host: other.test", "https://up.test/2",
                        "--next", version, "-w", "%{http_code} %{num_connects}\n", "-o", "/dev/null",
                        "https://up.test/3")  # fmt: skip
        assert done.stdout.split("\n")[:3] == ["200 1", "403 0", "200 0"], done
        assert [seen.path for seen in net.upstream.seen] == ["/1", "/3"]


@pytest.mark.parametrize("access", ["limited", "unrestricted"])
def test_what_is_not_http_gets_no_tunnel_through_tls_ports_either(net: Lab, access: str) -> None:
    net.policy(access, "up.test")
    for data in (b"SSH-2.0-x\r\n", b"\x16\x03\x01\x00\x05hello", b"\x16\x03\x01\x40\x00" + bytes(0x4000)):
        assert "ConnectionReset" in net.python(RAW, "up.test", "443", data.hex())
    net.filter.record(decision="deny", name="up.test", port=443)


def test_who_waits_for_the_server_to_speak_is_refused(net: Lab) -> None:
    net.policy("unrestricted")
    assert "ConnectionReset" in net.python(RAW, "up.test", "443", "")
    assert "within 10 s" in net.filter.record(decision="deny", name="up.test")["reason"]


@pytest.mark.parametrize(
    "address",
    [pytest.param(PUBLIC, id="public"), pytest.param(PRIVATE, id="private"), "127.0.0.1", "198.18.77.77", "10.203.0.1",
     "10.203.1.2", "169.254.169.254"],
)  # fmt: skip
def test_addresses_cannot_be_reached(net: Lab, address: str) -> None:
    net.policy("unrestricted")
    assert reaches(net, "http://up.test/")
    assert not reaches(net, f"http://{address}/")
    assert not reaches(net, "http://up.test/", "--resolve", f"up.test:80:{address}")
    if address != "127.0.0.1":  # the sandbox's own
        assert "address" in net.filter.record(decision="deny", name=address, port=80)["reason"]


@pytest.mark.parametrize(
    ("address", "port"),
    [pytest.param(PUBLIC, 443, id="public"), ("10.203.0.1", 443), ("10.203.0.1", 123), ("198.18.0.1", 53_000)],
)
def test_no_datagram_but_dns(net: Lab, address: str, port: int) -> None:
    net.policy("unrestricted")
    assert net.python(UDP, address, str(port)) != "answered"


def test_the_resolver_answers_whatever_server_is_asked(net: Lab) -> None:
    net.policy("limited", "up.test")
    for server in ("10.203.0.1", "8.8.8.8", PUBLIC):
        rcode, address = net.python(LOOK_UP, server, "up.test", "A").split()
        assert (rcode, address.split(".")[0]) == ("NOERROR", "198")
        assert net.python(LOOK_UP, server, "up.test", "AAAA") == "NOERROR"
        assert net.python(LOOK_UP, server, "up.test", "TXT") == "NOERROR"
        assert net.python(LOOK_UP, server, "secret-data.evil.test", "TXT") == "REFUSED"
    assert net.python(LOOK_UP, "10.203.0.1", "localhost", "A") == "NOERROR 127.0.0.1"
    net.filter.record(decision="deny", name="secret-data.evil.test", port=53, method="DNS")


def test_private_destinations_need_a_private_name(net: Lab) -> None:
    net.policy("unrestricted")
    for url in ("http://private.test/", "https://private.test/", "https://sub.private.test/"):
        assert reaches(net, url), url
    for name in ("secret.test", "loop.test", "mixed.test", "own.test", "metadata.private.test"):
        assert not reaches(net, f"http://{name}/"), name
        assert not reaches(net, f"https://{name}/"), name
        assert "it resolves to" in net.filter.record(decision="deny", name=name, port=443)["reason"]
    assert net.curl("http://secret.test/", "-o", "/dev/null", "-w", "%{http_code}").stdout == "403"


def test_servers_are_verified_when_tls_is_opened(net: Lab) -> None:
    net.policy("limited", "up.test", "wrong-certificate.invalid")
    assert reaches(net, "https://up.test/")
    net.upstream.forget()
    done = net.curl("-k", "-w", "%{http_code}", "https://wrong-certificate.invalid/")
    assert done.stdout.endswith("502")
    assert "ertificate verify failed" in done.stdout
    assert net.upstream.seen == []


def test_inspection_shows_our_certificate_and_splicing_the_servers(net: Lab) -> None:
    ours = str(net.directory / "only-ours.pem")
    net.policy("limited", "up.test")
    assert reaches(net, "https://up.test/", "--cacert", ours)
    net.policy("unrestricted")
    assert not reaches(net, "https://up.test/", "--cacert", ours)
    assert reaches(net, "https://up.test/")
