"""The filter over time: changing policies, long and large transfers, deaths and restarts, hostile clients, packages.

Must not depend on a registry's name: those are read from the machine's own configuration, and a skip is loud.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.filter_lab import UID, Lab, lab

MEGABYTE = 1_000_000
HOLD = """
import socket, ssl, sys
connection = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20)
if sys.argv[2] == "443":
    connection = ssl.create_default_context().wrap_socket(connection, server_hostname=sys.argv[1])
def ask():
    connection.sendall(b"GET / HTTP/1.1\\r\\nHost: " + sys.argv[1].encode() + b"\\r\\n\\r\\n")
    answer = b""
    while not answer.endswith(b"None\\n") and (piece := connection.recv(9999)):
        answer += piece
    print(answer.split(b"\\r\\n")[0].decode(), flush=True)
ask()
sys.stdin.readline()
try:
    ask()
except OSError:
    print("", flush=True)
"""
WEBSOCKET = """
import contextlib, socket, ssl
tls = ssl.create_default_context().wrap_socket(socket.create_connection(("up.test", 443), 20), server_hostname="up.test")
tls.sendall(b"GET /websocket HTTP/1.1\\r\\nHost: up.test\\r\\nUpgrade: websocket\\r\\nConnection: Upgrade\\r\\n"
            b"Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n")
answer = b""
while b"\\r\\n\\r\\n" not in answer:
    answer += tls.recv(4096)
assert b" 101 " in answer, answer
tls.sendall(b"\\x81\\x85\\0\\0\\0\\0hello")
frame = answer.split(b"\\r\\n\\r\\n")[1]
with contextlib.suppress(OSError):
    while len(frame) < 7 and (more := tls.recv(4096)):
        frame += more
print(frame[2:7].decode("latin-1"))
"""
NEVER_READS = """
import socket, ssl, sys, time
context = ssl.create_default_context()
context.set_alpn_protocols(["h2"])
connection = socket.socket()
connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
connection.connect(("up.test", 443))
tls = context.wrap_socket(connection, server_hostname="up.test")
from h2.connection import H2Connection
h2 = H2Connection()
h2.initiate_connection()
h2.send_headers(1, [(":method", "GET"), (":scheme", "https"), (":authority", "up.test"), (":path", "/bytes/2000000000")],
                end_stream=True)
tls.sendall(h2.data_to_send())
time.sleep(8)
print("done")
"""
NO_END = """
import socket, sys, time
connection = socket.create_connection(("up.test", 80), 20)
connection.sendall(b"GET / HTTP/1.1\\r\\nHost: up.test\\r\\n")
connection.settimeout(5)
sent = 0
try:
    while sent < 300_000_000:
        sent += connection.send(b"x: " + b"y" * 60_000 + b"\\r\\n")
except OSError:
    pass
print(sent)
"""


# More than both workers together let one sandbox have.
MANY = """
import resource, socket, sys, time
resource.setrlimit(resource.RLIMIT_NOFILE, (2_000, 2_000))
address = socket.gethostbyname("up.test")
held = []
for _ in range(1_100):
    held.append(socket.socket())
    held[-1].connect_ex((address, 443))  # the refusal of one may come before connect() returns
time.sleep(1)
print("full", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab() as laboratory:
        yield laboratory


def hold(net: Lab, name: str, port: int) -> subprocess.Popen[str]:
    """A client that has an open connection and asks once more when it is told to."""
    client = net.popen(HOLD, name, str(port))
    assert client.stdout is not None
    assert client.stdout.readline() == "HTTP/1.1 200 OK\n"
    return client


def asks_again(client: subprocess.Popen[str]) -> bool:
    output, _ = client.communicate("\n", timeout=30)
    return "200" in output


def test_no_process_has_a_privilege(net: Lab) -> None:
    processes = [Path(f"/proc/{pid}") for pid in net.filter.processes()]
    assert len(processes) >= 2, "the master and its workers"
    for process in processes:
        lines = (process / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert status["Uid"].split() == [str(UID)] * 4
        assert status["Gid"].split() == [str(UID)] * 4
        assert status["Groups"].strip() == ""
        assert all(int(status[name], 16) == 0 for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"))
        assert status["NoNewPrivs"] == "1"
        assert (process / "environ").read_bytes() in (b"", b"\0")


@pytest.mark.parametrize("port", [80, 443])
@pytest.mark.parametrize("access", ["limited", "unrestricted"])
def test_a_narrower_policy_ends_open_connections(net: Lab, access: str, port: int) -> None:
    # What was spliced would have to be opened in limited access, so it ends; what is inspected goes on.
    inspected = access == "limited" or port == 80
    for narrower, allow, stays in (
        ("limited", "up.test", inspected),
        ("limited", "other.test", False),
        ("off", "a", False),
    ):
        net.policy(access, "up.test")
        client = hold(net, "up.test", port)
        net.filter.policy(net.address(), narrower, allow)
        assert asks_again(client) is stays, (narrower, allow)
        assert len(net.upstream.seen) == (2 if stays else 1)


def test_a_dropped_sandbox_leaves_its_records_before_the_answer(net: Lab) -> None:
    net.policy("unrestricted")
    client = hold(net, "up.test", 443)
    net.filter.drop(net.address())
    assert not asks_again(client)
    assert net.filter.record(name="up.test", port=443, decision="allow")["bytes"] > 1000
    assert len(net.upstream.seen) == 1


@pytest.mark.timeout(240)
@pytest.mark.parametrize("access", ["limited", "unrestricted"])
@pytest.mark.parametrize("version", ["--http1.1", "--http2"])
def test_large_transfers_in_constant_memory(net: Lab, access: str, version: str) -> None:
    net.policy(access, "up.test")
    assert net.curl("https://up.test/").returncode == 0
    before, size = net.filter.memory(), 200 * MEGABYTE
    down = net.curl(version, "-o", "/dev/null", "-w", "%{size_download}", f"https://up.test/bytes/{size}", seconds=100)
    assert down.stdout == str(size), down
    upload = f'head -c {size} /dev/zero | curl -sS --max-time 90 {version} "$@" https://up.test/'
    for how in (["--data-binary", "@-"], ["-T", "-"]):  # with a length, and in chunks
        done = net.run("sh", "-c", upload, "sh", *how, seconds=100)
        assert done.stdout == f"got {size}\n", done
    assert net.filter.memory() - before < 40 * MEGABYTE


def test_a_client_that_never_reads_costs_little_memory(net: Lab) -> None:
    net.policy("limited", "up.test")
    before = net.filter.memory()
    clients = [net.popen(NEVER_READS) for _ in range(3)]
    time.sleep(6)
    grown = net.filter.memory() - before
    for client in clients:
        assert client.communicate(timeout=30)[0] == "done\n"
    assert grown < 80 * MEGABYTE
    assert net.curl("https://up.test/").returncode == 0


def test_a_head_without_end_costs_little_memory(net: Lab) -> None:
    net.policy("limited", "up.test")
    before = net.filter.memory()
    sent = int(net.python(NO_END))
    assert sent < 60 * MEGABYTE
    assert net.filter.memory() - before < 60 * MEGABYTE


def test_websockets_to_the_host_work(net: Lab) -> None:
    net.policy("limited", "up.test")
    assert net.python(WEBSOCKET) == "hello"
    assert net.filter.record(path="/websocket", decision="allow")["bytes"] >= 10


def test_a_server_that_compresses_frames_unasked_is_cut_off(net: Lab) -> None:
    net.policy("limited", "up.test")
    before = net.filter.memory()
    assert net.python(WEBSOCKET.replace("/websocket", "/websocket-bomb")) != "hello"
    assert net.filter.record(path="/websocket-bomb", decision="allow")["bytes"] < MEGABYTE
    assert net.filter.memory() - before < 20 * MEGABYTE


def test_other_upgrades_are_taken_off_and_never_become_a_tunnel(net: Lab) -> None:
    net.policy("limited", "up.test")
    done = net.curl("-H", "Connection: Upgrade, HTTP2-Settings", "-H", "Upgrade: h2c", "-H", "HTTP2-Settings: AAMAAABk",
                    "http://up.test/")  # fmt: skip
    assert done.stdout == "hello up.test None\n"
    done = net.curl("-i", "--max-time", "10", "http://up.test/switch")
    assert " 101 " not in done.stdout


def test_alternative_services_are_taken_off(net: Lab) -> None:
    net.policy("limited", "up.test")
    done = net.curl("-i", "https://up.test/")
    assert "200" in done.stdout
    assert "alt-svc" not in done.stdout.lower()


def test_a_refused_upload_is_answered(net: Lab) -> None:
    net.policy("limited", "up.test")
    upload = "head -c 30000000 /dev/zero | curl -sS -i --data-binary @- -H 'Host: evil.test' https://up.test/"
    done = net.run("sh", "-c", upload)
    assert "403" in done.stdout
    assert net.upstream.seen == []


def test_an_unreachable_server_is_a_bad_gateway(net: Lab) -> None:
    net.policy("unrestricted")
    done = net.curl("-w", "%{http_code}", "http://up.test:81/")
    assert "Connection refused" in done.stdout
    assert done.stdout.endswith("502")
    assert "Connection refused" in net.filter.record(name="up.test", port=81)["reason"]


def test_too_many_connections_cost_the_neighbour_nothing(net: Lab) -> None:
    net.policy("limited", "up.test", sandbox=0)
    net.policy("limited", "up.test", sandbox=1)
    client = net.popen(MANY)
    assert client.stdout is not None
    assert client.stdout.readline() == "full\n"
    assert "more than 512" in net.filter.record(decision="deny", name="")["reason"]
    assert net.curl("https://up.test/", sandbox=1).returncode == 0
    client.communicate("\n", timeout=30)


SMUGGLE = """
import socket, ssl
from h2.connection import H2Connection
context = ssl.create_default_context()
context.set_alpn_protocols(["h2"])
tls = context.wrap_socket(socket.create_connection(("up.test", 443), 20), server_hostname="up.test")
h2 = H2Connection()
h2.initiate_connection()
h2.send_headers(1, [(":method", "POST"), (":scheme", "https"), (":authority", "up.test"), (":path", "/outer")])
h2.send_data(1, b"GET /inner HTTP/1.1\\r\\nHost: evil.test\\r\\n\\r\\n", end_stream=True)
tls.sendall(h2.data_to_send())
answer = b""
tls.settimeout(5)
try:
    while b"got" not in answer:
        answer += tls.recv(9999)
except TimeoutError:
    pass
print(answer[-20:])
"""


def test_a_body_of_unknown_length_is_no_second_request(net: Lab) -> None:
    net.policy("limited", "up.test")
    assert "got 40" in net.python(SMUGGLE)
    time.sleep(0.5)
    assert [(seen.path, seen.body) for seen in net.upstream.seen] == [("/outer", 40)]
