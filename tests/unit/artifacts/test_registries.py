"""Registries that can't be reached, can't be trusted, keep silent or speak nonsense."""

from __future__ import annotations

import os
import socket
import threading
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import Lab, cache, kinds
from tests.support.artifact_server import FRESH, MEBI, Page, Registry
from tests.support.upstream import certificates

TRUST = Path(certifi.where())
BODY = os.urandom(4 * MEBI)


def test_an_unreachable_registry_is_an_error_and_never_an_old_answer(lab: Lab) -> None:
    with Registry().running() as registry:
        registry.pages["/a"] = Page(BODY, ["Cache-Control: max-age=0", 'ETag: "1"'])
        registry.pages["/b"] = Page(BODY, [FRESH])
        assert lab.get(registry.url("/a")).how == lab.get(registry.url("/b")).how == "miss"
    stale, fresh = lab.get(registry.url("/a")), lab.get(registry.url("/b"))
    assert (stale.status, stale.how) == (502, "none")
    assert b"refused" in stale.body
    assert (fresh.status, fresh.how) == (200, "hit")


def test_a_silent_registry_is_given_up(registry: Registry, tmp_path: Path) -> None:
    registry.pages["/a"] = Page(silent=True)
    registry.pages["/b"] = Page(BODY, [FRESH], steps=2, go=threading.Event())
    with cache(tmp_path, TRUST, limits={"wire.HEAD_SECONDS": 0.5, "wire.STUCK_SECONDS": 0.5}) as lab:
        answer = lab.get(registry.url("/a"))
        assert (answer.status, answer.how) == (504, "none")
        with lab.open(registry.url("/b")) as response, pytest.raises(Exception, match=r"Incomplete"):
            response.read()
        assert kinds(tmp_path) == []


def test_a_private_address_is_refused(lab: Lab, registry: Registry) -> None:
    before = registry.connections
    answer = lab.get(registry.url("/a", "private.test"))
    assert (answer.status, answer.how) == (403, "none")
    assert "127.0.0.1 (loopback)" in answer.fields["x-hutch-reason"]
    assert lab.get(f"http://127.0.0.1:{registry.port}/a").status == 403
    assert registry.connections == before


def test_a_connection_that_the_registry_closed_while_idle_costs_nothing(lab: Lab, registry: Registry) -> None:
    registry.pages["/a"] = registry.pages["/b"] = Page(BODY, [FRESH])
    before = registry.connections
    assert lab.get(registry.url("/a")).how == "miss"
    registry.close_idle()
    assert lab.get(registry.url("/b")).status == 200
    assert registry.connections == before + 2


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


@pytest.mark.parametrize("trusted", [True, False])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_tls_is_verified(tmp_path: Path, loop: str, trusted: bool) -> None:
    ca, context = certificates(tmp_path)
    (tmp_path / "ca.pem").write_bytes(ca)
    (tmp_path / "artifacts").mkdir()
    trust = tmp_path / "ca.pem" if trusted else Path(certifi.where())
    with cache(tmp_path / "artifacts", trust, loop=loop) as lab, Registry().running(context) as registry:
        registry.pages["/a"] = registry.pages["/b"] = Page(BODY, [FRESH])
        answer = lab.get(f"https://up.test:{registry.port}/a")
        if not trusted:
            assert (answer.status, answer.how) == (502, "none")
            assert b"verif" in answer.body
            return
        assert (answer.how, answer.body) == ("miss", BODY)
        assert lab.get(f"https://up.test:{registry.port}/a").how == "hit"
        assert lab.get(f"https://up.test:{registry.port}/b").how == "miss"
        assert registry.connections == 1  # used again
        wrong_name = lab.get(f"https://registry.test:{registry.port}/a")
        assert (wrong_name.status, wrong_name.how) == (502, "none")
