"""Workers and tenants of the artifact cache that misbehave, and the orders of the daemon."""

from __future__ import annotations

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import Lab, Setting, cache, kinds
from tests.support.artifact_server import FRESH, MEBI, Page, Registry
from tests.support.tasks import wait_for

TRUST = Path(certifi.where())
BODY = os.urandom(4 * MEBI)

GOOD = "GET /a HTTP/1.1\r\nHost: registry.test\r\nX-Hutch-Upstream: http://registry.test:80\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        "garbage\r\n\r\n",
        "\x16\x03\x01\x02\x00\x01",
        GOOD.replace("GET", "POST") + "\r\n",
        GOOD.replace("GET", "HEAD") + "\r\n",
        GOOD + "Content-Length: 3\r\n\r\nabc",
        GOOD + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        GOOD + "Authorization: Basic eDp5\r\n\r\n",
        GOOD + "Cookie: a=b\r\n\r\n",
        GOOD + "X-Api-Key: a\r\n\r\n",
        GOOD + "Host: registry.test\r\n\r\n",
        GOOD + "X-Hutch-Upstream: http://registry.test:80\r\n\r\n",
        GOOD.replace("/a", "http://registry.test/a") + "\r\n",
        GOOD.replace("/a", "/a#b") + "\r\n",
        GOOD.replace("/a", "/" + "a" * 9000) + "\r\n",
        GOOD + "X: " + "a" * 50_000 + "\r\n\r\n",
        *(
            GOOD.replace("http://registry.test:80", other) + "\r\n"
            for other in (
                "http://up.test:80",
                "http://registry.test",
                "http://registry.test:0",
                "http://registry.test:99999",
                "ftp://registry.test:80",
                "http://registry.test:80/",
                "http://registry.test.:80",
                "http://REGISTRY.test:80",
                "http://127.1:80",
                "http://user@registry.test:80",
                "",
            )
        ),
    ],
    ids=lambda sent: sent.splitlines()[0][:20] + sent.splitlines()[-1][:40],
)
def test_what_a_worker_must_not_send(shared: Lab, sent: str) -> None:
    with shared.connect() as sock:
        sock.sendall(sent.encode("latin-1"))
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionResetError):  # what was sent hasn't even been read
            while data := sock.recv(65_536):
                answer += data
    assert not answer or answer.startswith(b"HTTP/1.1 400"), answer
    assert "error" not in shared.ask(op="artifacts-list")


def test_clients_that_go_away_leave_nothing_behind(lab: Lab, registry: Registry, tmp_path: Path) -> None:
    registry.pages["/warm"] = Page(b"", [FRESH])
    registry.pages["/large"] = Page(os.urandom(MEBI) * 40, ["Cache-Control: no-store"])
    registry.pages["/kept"] = Page(os.urandom(MEBI) * 15, [FRESH])
    registry.pages["/hangs"] = Page(os.urandom(MEBI), [FRESH], framing="chunked", steps=2, go=threading.Event())
    lab.get(registry.url("/warm"))
    before = lab.descriptors()
    for target in ("/large", "/kept", "/hangs", "/kept"):
        with lab.open(registry.url(target)) as response:
            response.read(1000)
    wait_for(lambda: lab.descriptors() <= before + 2, "descriptors to be closed", 10)
    wait_for(lambda: ".tmp" not in kinds(tmp_path), "files to be removed", 10)


def test_a_client_that_does_not_read_is_given_up(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/a"] = Page(os.urandom(MEBI) * 8, [FRESH])
    with cache(tmp_path, TRUST, limits={"client.STUCK_SECONDS": 0.3, "client.IDLE_SECONDS": 0.3}) as lab:
        with lab.connect() as idle, lab.connect() as stuck:
            stuck.sendall(
                f"GET /a HTTP/1.1\r\nHost: registry.test:{registry.port}\r\n"
                f"X-Hutch-Upstream: http://registry.test:{registry.port}\r\n\r\n".encode()
            )
            assert idle.recv(1) == b""
            time.sleep(1)
            received = 0
            while data := stuck.recv(MEBI):
                received += len(data)
            assert 0 < received < 8 * MEBI
        assert lab.get(registry.url("/a")).status == 200


def test_beyond_its_limits_it_refuses_at_once(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/kept"] = Page(b"kept", [FRESH])
    go = threading.Event()
    registry.pages["/a"] = registry.pages["/b"] = Page(BODY, ["Cache-Control: no-store"], steps=2, go=go)
    with cache(tmp_path, TRUST, limits={"serve.MAX_CLIENTS": 3, "upstream.MAX_EXCHANGES": 1}) as lab:
        assert lab.get(registry.url("/kept")).how == "miss"
        with lab.open(registry.url("/a")) as response:
            response.read(1000)
            busy = lab.get(registry.url("/b"))
            assert (busy.status, busy.how) == (503, "none")
            assert lab.get(registry.url("/kept")).how == "hit"
            with lab.connect(), lab.connect(), lab.connect() as one_too_many:
                assert one_too_many.recv(1) == b""
            go.set()
            assert len(response.read()) == len(BODY) - 1000
        wait_for(lambda: lab.get(registry.url("/b")).status == 200, "its turn", 5)


def test_no_tenant_takes_all_there_is(registry: Registry, tmp_path: Path) -> None:
    go = threading.Event()
    registry.pages["/a"] = registry.pages["/b"] = Page(BODY, ["Cache-Control: no-store"], steps=2, go=go)
    with cache(tmp_path, TRUST, limits={"upstream.MAX_EXCHANGES_OF_ONE": 1}) as lab:
        with lab.open(registry.url("/a")) as response:
            response.read(1000)
            assert lab.get(registry.url("/b")).status == 503
            with lab.connect("10.0.0.4") as others, lab.open(registry.url("/b"), over=others) as unharmed:
                assert unharmed.status == 200
            go.set()
            response.read()
        wait_for(lambda: lab.get(registry.url("/b")).status == 200, "its turn", 5)


def test_no_tenant_takes_all_connections(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    with cache(tmp_path, TRUST, limits={"serve.MAX_CLIENTS_OF_ONE": 2}) as lab:
        with lab.connect(), lab.connect(), lab.connect() as one_too_many:
            assert one_too_many.recv(1) == b""
            with lab.connect("10.0.0.4") as others, lab.open(registry.url("/a"), over=others) as unharmed:
                assert unharmed.read() == BODY

        def served() -> bool:
            with suppress(ConnectionResetError):
                return lab.get(registry.url("/a")).status == 200
            return False

        wait_for(served, "its turn", 5)


def test_what_is_handed_over_may_be_anything(lab: Lab, registry: Registry) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    before = lab.descriptors()
    reader, writer = os.pipe()
    datagram, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.create_server(("127.0.0.1", 0)) as tcp, datagram, other:
        for fd in (reader, writer, datagram.fileno(), tcp.fileno()):
            socket.send_fds(lab.handoff, [b"10.0.0.2"], [fd])
        lab.handoff.send(b"nothing")
        assert lab.get(registry.url("/a")).body == BODY
        wait_for(lambda: lab.descriptors() <= before + 1, "all to be closed", 5)  # one to the registry stays
    os.close(reader)
    os.close(writer)


# ── the daemon's orders ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_daemons_orders(registry: Registry, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "empty.pem").write_text("")
    lab = Lab(tmp_path / "store", TRUST, Setting())
    try:
        assert "hello comes first" in lab.ask(op="artifacts-list")["error"]
        for wrong in (
            {"upstream_trust": "/nowhere"},
            {"upstream_trust": str(tmp_path / "empty.pem")},
            {"artifact_bytes": -1},
            {"artifact_bytes": "many"},
            {"private_names": ["not a name"]},
            {"host_addresses": ["nonsense"]},
        ):
            assert "error" in lab.greet(**wrong), wrong
        assert "error" not in lab.greet()
        assert "already" in lab.greet()["error"]
        for op in ("set", "drop", "serve"):
            assert "error" not in lab.ask(op=op, sandbox="10.0.0.1")
        assert "no operation" in lab.ask(op="dance")["error"]
        registry.pages["/a"] = Page(BODY, [FRESH])
        lab.get(registry.url("/a"))
        wait_for(lambda: lab.listing()["entries"] == 1, "it to be stored", 10)
        listing = lab.listing()
        assert listing["items"][0]["url"] == registry.url("/a")
        assert listing["items"][0]["bytes"] == len(BODY)
        assert len(BODY) <= listing["bytes"] <= len(BODY) + 8192 <= listing["limit"]
        assert lab.ask(op="artifacts-clear")["result"] == {"entries": 1, "bytes": listing["bytes"]}
        assert kinds(tmp_path / "store") == []
        assert lab.get(registry.url("/a")).how == "miss"
    finally:
        lab.close()


def test_what_is_on_its_way_when_it_is_cleared_is_not_kept(lab: Lab, registry: Registry, tmp_path: Path) -> None:
    go = threading.Event()
    registry.pages["/a"] = Page(BODY, [FRESH], steps=2, go=go)
    with lab.open(registry.url("/a")) as response:
        response.read(1000)
        lab.ask(op="artifacts-clear")
        go.set()
        assert len(response.read()) == len(BODY) - 1000
    wait_for(lambda: kinds(tmp_path) == [], "its file to be removed", 10)
    assert lab.get(registry.url("/a")).how == "miss"
