"""What one user may take of the daemon: a request's bytes, and connections."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sandbox.api.bounds import BODY, CONNECTIONS, Bounded, Connections, Message, Receive, Send


def ask(
    pieces: list[bytes], path: str = "/tasks", length: int | bytes | None = None, method: str = "POST"
) -> tuple[int, int]:
    """The status, and how many bytes the application read."""
    read = 0

    async def app(_: Message, receive: Receive, send: Send) -> None:
        nonlocal read
        more = True
        while more:
            message = await receive()
            read += len(message.get("body", b""))
            more = message.get("more_body", False)
        await send({"type": "http.response.start", "status": 200})

    waiting = [{"body": piece, "more_body": number < len(pieces)} for number, piece in enumerate(pieces, 1)]
    sent: list[Any] = []

    async def receive() -> Message:
        return waiting.pop(0)

    async def send(message: Message) -> None:
        sent.append(message)

    told = [] if length is None else [(b"content-length", length if isinstance(length, bytes) else b"%d" % length)]
    asyncio.run(Bounded(app)({"type": "http", "method": method, "path": path, "headers": told}, receive, send))
    return sent[0]["status"], read


def test_a_body_that_is_too_long_is_refused_before_it_is_read() -> None:
    assert ask([b"x"], length=BODY + 1) == (413, 0)
    assert ask([b"x"], length=b"9" * 30) == (413, 0)
    assert ask([b"x"], length=b"-1") == (413, 0)


def test_one_whose_length_is_not_told_is_refused_when_it_is_too_long() -> None:
    piece = b"x" * (1 << 20)
    status, read = ask([piece] * 20)
    assert status == 413
    assert read == BODY


@pytest.mark.parametrize(("method", "path"), [("PUT", "/images/tiny"), ("POST", "/execs/1/stdin")])
def test_streams_have_no_bound(method: str, path: str) -> None:
    assert ask([b"x" * (1 << 20)] * 20, path, method=method) == (200, 20 << 20)


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/images/build"), ("POST", "/images/x"), ("POST", "/execs/1/resize"), ("PUT", "/tasks/stdin")],
)
def test_their_neighbours_have(method: str, path: str) -> None:
    assert ask([b"x" * (1 << 20)] * 20, path, method=method)[0] == 413


def test_a_body_of_the_usual_size_comes_through() -> None:
    assert ask([b"abc", b"def"], length=6) == (200, 6)


def test_one_user_has_so_many_connections_and_root_any_number() -> None:
    connections = Connections()
    assert all(connections.opened(7) for _ in range(CONNECTIONS))
    assert not connections.opened(7)
    assert connections.opened(8)
    assert all(connections.opened(0) for _ in range(CONNECTIONS + 1))
    for _ in range(2):
        connections.closed(7)
    assert connections.opened(7)
