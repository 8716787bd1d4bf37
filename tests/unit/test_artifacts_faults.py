"""The artifact cache's process when something goes wrong: killed, without disk or registry, fed garbage, left waiting.

Needs no root. Must not leave loopback.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import Lab, Setting, cache
from tests.support.artifact_server import Page, Registry
from tests.support.tasks import wait_for

TRUST = Path(certifi.where())
FRESH = "Cache-Control: max-age=600"
MEBI = 1024 * 1024
BODY = os.urandom(4 * MEBI)


@pytest.fixture
def registry() -> Iterator[Registry]:
    with Registry().running() as server:
        yield server


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with cache(tmp_path, TRUST) as laboratory:
        yield laboratory


def url(registry: Registry, target: str = "/a", host: str = "registry.test") -> str:
    return f"http://{host}:{registry.port}{target}"


def kinds(directory: Path) -> list[str]:
    return sorted(path.suffix for path in directory.iterdir())


def used(directory: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in directory.iterdir())


def resident(lab: Lab) -> int:
    status = Path(f"/proc/{lab.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


# ── death ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_killed_in_the_middle_of_a_download(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/done"] = Page(b"done", [FRESH])
    registry.pages["/a"] = Page(BODY, [FRESH], steps=2, go=threading.Event())
    with cache(tmp_path, TRUST) as lab:
        lab.get(url(registry, "/done"))
        wait_for(lambda: ".meta" in kinds(tmp_path), "the first file", 10)
        with lab.open(url(registry)) as response:
            assert response.read(MEBI) == BODY[:MEBI]
            lab.process.kill()
            with pytest.raises(Exception, match=r"Incomplete|reset"):
                response.read()
    assert kinds(tmp_path) == [".body", ".meta", ".tmp"]
    registry.pages["/a"] = Page(BODY, [FRESH])
    with cache(tmp_path, TRUST) as lab:
        assert kinds(tmp_path) == [".body", ".meta"]
        assert lab.get(url(registry, "/done")).how == "hit"
        assert [lab.get(url(registry)).body == BODY for _ in range(2)] == [True, True]
    assert len(registry.asked_for("/a")) == 2


def test_killed_again_and_again_while_storing(registry: Registry, tmp_path: Path) -> None:
    """Whenever it happens, what is served afterwards is whole and right."""
    for number in range(20):
        registry.pages[f"/{number}"] = Page(BODY[: number * 10_000], [FRESH])
    for life in range(8):
        with cache(tmp_path, TRUST) as lab:
            for number in range(20):
                assert lab.get(url(registry, f"/{number}")).body == BODY[: number * 10_000]
                if number == 2 * life + 3:
                    time.sleep(life / 1000)
                    lab.process.kill()
                    break
    with cache(tmp_path, TRUST) as lab:
        answers = [lab.get(url(registry, f"/{number}")) for number in range(20)]
        assert [answer.body for answer in answers] == [BODY[: number * 10_000] for number in range(20)]
        assert {answer.how for answer in answers[:3]} == {"hit"}


@pytest.mark.parametrize("how", ["term", "end of the daemon"])
def test_it_ends_at_once_with_connections_open(lab: Lab, registry: Registry, how: str) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH], steps=2, go=threading.Event())
    with lab.connect() as idle, lab.open(url(registry)) as response:
        response.read(1000)
        before = time.monotonic()
        if how == "term":
            lab.process.send_signal(signal.SIGTERM)
            lab.process.wait(10)
        lab.close()
        assert time.monotonic() - before < 5
        assert idle.recv(1) == b""


# ── registries that fail ─────────────────────────────────────────────────────────────────────────────────────────────


def test_an_unreachable_registry_is_an_error_and_never_an_old_answer(lab: Lab) -> None:
    with Registry().running() as registry:
        registry.pages["/a"] = Page(BODY, ["Cache-Control: max-age=0", 'ETag: "1"'])
        registry.pages["/b"] = Page(BODY, [FRESH])
        assert lab.get(url(registry)).how == lab.get(url(registry, "/b")).how == "miss"
    stale, fresh = lab.get(url(registry)), lab.get(url(registry, "/b"))
    assert (stale.status, stale.how) == (502, "none")
    assert b"refused" in stale.body
    assert (fresh.status, fresh.how) == (200, "hit")


def test_a_silent_registry_is_given_up(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/a"] = Page(silent=True)
    registry.pages["/b"] = Page(BODY, [FRESH], steps=2, go=threading.Event())
    with cache(tmp_path, TRUST, limits={"wire.HEAD_SECONDS": 0.5, "wire.STUCK_SECONDS": 0.5}) as lab:
        answer = lab.get(url(registry))
        assert (answer.status, answer.how) == (504, "none")
        with lab.open(url(registry, "/b")) as response, pytest.raises(Exception, match=r"Incomplete"):
            response.read()
        assert kinds(tmp_path) == []


def test_a_private_address_is_refused(lab: Lab, registry: Registry) -> None:
    answer = lab.get(url(registry, host="private.test"))
    assert (answer.status, answer.how) == (403, "none")
    assert "127.0.0.1 (loopback)" in answer.fields["x-hutch-denied"]
    assert lab.get(f"http://127.0.0.1:{registry.port}/a").status == 403
    assert registry.connections == 0


def test_a_connection_that_the_registry_closed_while_idle_costs_nothing(lab: Lab, registry: Registry) -> None:
    registry.pages["/a"] = registry.pages["/b"] = Page(BODY, [FRESH])
    assert lab.get(url(registry)).how == "miss"
    registry.close_idle()
    assert lab.get(url(registry, "/b")).status == 200
    assert registry.connections == 2


@pytest.mark.parametrize(
    "head",
    [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nX: " + "a" * 100_000 + "\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: raw\r\nConnection: upgrade\r\n\r\n",
        "",
    ],
    ids=lambda head: head[:50],
)
def test_a_registry_that_speaks_nonsense(lab: Lab, head: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with server.accept()[0] as connection:
                connection.recv(10_000)
                connection.sendall(head.encode())

        thread = threading.Thread(target=serve)
        thread.start()
        answer = lab.get(f"http://registry.test:{server.getsockname()[1]}/a")
        thread.join(10)
    assert (answer.status, answer.how) == (502, "none")


# ── no space ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_what_is_large_passes_through_in_little_memory_and_disk(
    registry: Registry, tmp_path: Path, framing: str
) -> None:
    body = os.urandom(MEBI) * 200
    registry.pages["/a"] = Page(body, [FRESH], framing=framing, steps=200)
    with cache(tmp_path, TRUST, size=16 * MEBI) as lab:
        before = resident(lab)
        with lab.open(url(registry)) as response:
            received = bytearray(response.read(MEBI))
            time.sleep(0.5)  # a client that is slow for a while
            most = used(tmp_path)
            while data := response.read(MEBI):
                received += data
        assert received == body
        assert most <= 4 * MEBI
        assert resident(lab) - before < 16 * MEBI
        assert lab.listing()["entries"] == 0
        wait_for(lambda: kinds(tmp_path) == [], "its files to be gone", 5)


def test_two_clients_read_what_turns_out_too_large_at_their_own_pace(registry: Registry, tmp_path: Path) -> None:
    body = os.urandom(32 * MEBI)
    registry.pages["/a"] = Page(body, [FRESH], framing="chunked", steps=100)
    received: list[bytes] = []
    with cache(tmp_path, TRUST, size=16 * MEBI) as lab:

        def read(pause: float) -> None:
            with lab.open(url(registry)) as response:
                parts = []
                while data := response.read(MEBI):
                    parts.append(data)
                    time.sleep(pause)
                received.append(b"".join(parts))

        threads = [threading.Thread(target=read, args=(pause,)) for pause in (0, 0.02)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert received == [body, body]


def test_its_size_is_bounded_and_the_least_used_goes_first(registry: Registry, tmp_path: Path) -> None:
    for number in range(30):
        registry.pages[f"/{number}"] = Page(BODY[: MEBI - number], [FRESH])
    with cache(tmp_path, TRUST, size=16 * MEBI) as lab:
        for number in range(30):
            lab.get(url(registry, f"/{number}"))
            wait_for(lambda: ".tmp" not in kinds(tmp_path), "it to be stored", 10)
            assert lab.get(url(registry, "/0")).how == "hit"
        assert used(tmp_path) <= 16 * MEBI
        assert lab.get(url(registry, "/29")).how == "hit"
        assert lab.get(url(registry, "/1")).how == "miss"
    with cache(tmp_path, TRUST, size=6 * MEBI):
        assert used(tmp_path) <= 6 * MEBI
    with cache(tmp_path, TRUST, size=6 * MEBI) as lab:
        assert lab.get(url(registry, "/0")).how == "hit"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("space", [1000, MEBI])
def test_without_disk_space_it_passes_on(registry: Registry, tmp_path: Path, framing: str, space: int) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH], framing=framing, steps=50)
    registry.pages["/small"] = Page(b"small", [FRESH])
    with cache(tmp_path, TRUST, largest_file=space) as lab:
        assert [lab.get(url(registry)).body == BODY for _ in range(2)] == [True, True]
        assert lab.get(url(registry, "/small")).body == b"small"
        wait_for(lambda: ".tmp" not in kinds(tmp_path), "its files to be gone", 5)


def test_a_cache_of_no_size_passes_on(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    with cache(tmp_path, TRUST, size=0) as lab:
        assert [lab.get(url(registry)).how for _ in range(2)] == ["bypass", "bypass"]


# ── workers and tenants that misbehave ───────────────────────────────────────────────────────────────────────────────

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
                "http://registry.test:81",
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


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cache(tmp_path_factory.mktemp("artifacts"), TRUST) as laboratory:
        yield laboratory


def test_clients_that_go_away_leave_nothing_behind(lab: Lab, registry: Registry, tmp_path: Path) -> None:
    registry.pages["/warm"] = Page(b"", [FRESH])
    registry.pages["/large"] = Page(os.urandom(MEBI) * 40, ["Cache-Control: no-store"])
    registry.pages["/kept"] = Page(os.urandom(MEBI) * 15, [FRESH])
    registry.pages["/hangs"] = Page(os.urandom(MEBI), [FRESH], framing="chunked", steps=2, go=threading.Event())
    lab.get(url(registry, "/warm"))
    before = lab.descriptors()
    for target in ("/large", "/kept", "/hangs", "/kept"):
        with lab.open(url(registry, target)) as response:
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
        assert lab.get(url(registry)).status == 200


def test_beyond_its_limits_it_refuses_at_once(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/kept"] = Page(b"kept", [FRESH])
    go = threading.Event()
    registry.pages["/a"] = registry.pages["/b"] = Page(BODY, ["Cache-Control: no-store"], steps=2, go=go)
    with cache(tmp_path, TRUST, limits={"serve.MAX_CLIENTS": 3, "upstream.MAX_EXCHANGES": 1}) as lab:
        assert lab.get(url(registry, "/kept")).how == "miss"
        with lab.open(url(registry, "/a")) as response:
            response.read(1000)
            busy = lab.get(url(registry, "/b"))
            assert (busy.status, busy.how) == (503, "none")
            assert lab.get(url(registry, "/kept")).how == "hit"
            with lab.connect(), lab.connect(), lab.connect() as one_too_many:
                assert one_too_many.recv(1) == b""
            go.set()
            assert len(response.read()) == len(BODY) - 1000
        wait_for(lambda: lab.get(url(registry, "/b")).status == 200, "its turn", 5)


def test_what_is_handed_over_may_be_anything(lab: Lab, registry: Registry) -> None:
    registry.pages["/a"] = Page(BODY, [FRESH])
    before = lab.descriptors()
    reader, writer = os.pipe()
    datagram, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with socket.create_server(("127.0.0.1", 0)) as tcp, datagram, other:
        for fd in (reader, writer, datagram.fileno(), tcp.fileno()):
            socket.send_fds(lab.handoff, [b"c"], [fd])
        lab.handoff.send(b"nothing")
        assert lab.get(url(registry)).body == BODY
        wait_for(lambda: lab.descriptors() <= before + 1, "all to be closed", 5)  # one to the registry stays
    os.close(reader)
    os.close(writer)


# ── the daemon's orders ──────────────────────────────────────────────────────────────────────────────────────────────


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
        lab.get(url(registry))
        wait_for(lambda: lab.listing()["entries"] == 1, "it to be stored", 10)
        listing = lab.listing()
        assert listing["items"][0]["url"] == url(registry)
        assert listing["items"][0]["bytes"] == len(BODY)
        assert len(BODY) <= listing["bytes"] <= len(BODY) + 8192 <= listing["limit"]
        assert lab.ask(op="artifacts-clear")["result"] == {"entries": 1, "bytes": listing["bytes"]}
        assert kinds(tmp_path / "store") == []
        assert lab.get(url(registry)).how == "miss"
    finally:
        lab.close()


def test_what_is_on_its_way_when_it_is_cleared_is_not_kept(lab: Lab, registry: Registry, tmp_path: Path) -> None:
    go = threading.Event()
    registry.pages["/a"] = Page(BODY, [FRESH], steps=2, go=go)
    with lab.open(url(registry)) as response:
        response.read(1000)
        lab.ask(op="artifacts-clear")
        go.set()
        assert len(response.read()) == len(BODY) - 1000
    wait_for(lambda: kinds(tmp_path) == [], "its file to be removed", 10)
    assert lab.get(url(registry)).how == "miss"
