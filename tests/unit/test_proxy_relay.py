"""Relaying and dialling with real sockets on loopback. Must not resolve a name by the system, nor leave the host."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import pytest
import uvloop

from proxy.addresses import Refused
from proxy.dial import DialError, Dialler, read_hosts
from proxy.sandboxes import Turns
from proxy.splice import BUFFER, Splice

LOOPS = [asyncio.run, uvloop.run]
Run = Callable[[Coroutine[Any, Any, Any]], Any]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected TCP sockets: half-closes and resets behave as in real life."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.socket()
        one.setblocking(False)
        await loop.sock_connect(one, listener.getsockname())
        other, _ = listener.accept()
        other.setblocking(False)
        return one, other


async def spliced(test: Callable[[Streams, Streams, Splice], Awaitable[None]], already: bytes = b"") -> Splice:
    """Run the test with the far ends of a spliced connection; returns the splice once it has ended."""
    far_client, near_client = await tcp_pair()
    far_server, near_server = await tcp_pair()
    splice = Splice()
    task = asyncio.create_task(splice.run(near_client, near_server, already))
    client = await asyncio.open_connection(sock=far_client)
    server = await asyncio.open_connection(sock=far_server)
    async with asyncio.timeout(20):
        await test(client, server, splice)
        client[1].transport.abort()
        server[1].transport.abort()
        await task
    return splice


@pytest.mark.parametrize("run", LOOPS)
def test_bytes_pass_both_ways_and_half_closes_too(run: Run) -> None:
    async def test(client: Streams, server: Streams, _: Splice) -> None:
        client[1].write(b"question")
        client[1].write_eof()
        assert await server[0].read() == b"hello: question"
        server[1].write(b"answer" * 100_000)
        server[1].write_eof()
        assert await client[0].read() == b"answer" * 100_000

    splice = run(spliced(test, b"hello: "))
    assert splice.passed == len(b"hello: question") + 600_000


@pytest.mark.parametrize("run", LOOPS)
def test_who_does_not_read_stops_the_other(run: Run) -> None:
    async def test(client: Streams, server: Streams, splice: Splice) -> None:
        server[1].transport.set_write_buffer_limits(high=0)
        client[0]._transport.pause_reading()  # type: ignore[attr-defined]
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while True:
                    server[1].write(bytes(65_536))
                    await server[1].drain()
        assert sum(len(way._rest) for way in splice._ways) <= BUFFER

    run(spliced(test))


@pytest.mark.parametrize("run", LOOPS)
def test_a_reset_is_passed_on(run: Run) -> None:
    async def test(client: Streams, server: Streams, _: Splice) -> None:
        raw = server[1].get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        server[1].transport.abort()
        with suppress(ConnectionResetError):
            assert await client[0].read() == b""

    run(spliced(test))


@pytest.mark.parametrize("run", LOOPS)
def test_after_an_abort_nothing_passes(run: Run) -> None:
    async def test(client: Streams, server: Streams, splice: Splice) -> None:
        client[1].write(b"before")
        assert await server[0].readexactly(6) == b"before"
        splice.abort()
        client[1].write(b"after")
        with suppress(ConnectionResetError):
            assert await server[0].read() == b""

    run(spliced(test))


def test_a_hosts_file() -> None:
    table = read_hosts("10.0.0.1 Git.Corp. git # comment\n\n# 10.0.0.2 other\n::1 git\n10.0.0.3 a_b\n10.0.0.4\n")
    assert table == {"git.corp": ["10.0.0.1"], "git": ["10.0.0.1", "::1"]}


def dialler(private: tuple[str, ...] = ()) -> Dialler:
    hosts = {
        "local.test": ["127.0.0.1"],
        "two.test": ["127.0.0.2", "127.0.0.1"],
        "broken.test": ["8.8.8.8", "10.0.0.1"],
    }
    return Dialler(hosts, private, ())


def test_dialling_a_permitted_name() -> None:
    async def test() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            for name in ("local.test", "two.test"):  # nobody listens on the first address of the second
                with await dialler(("test",)).connect(name, port, Turns()) as outgoing:
                    assert outgoing.getpeername() == ("127.0.0.1", port)

    asyncio.run(test())


@pytest.mark.parametrize("name", ["local.test", "two.test", "broken.test"])
def test_what_leads_to_private_addresses_is_not_dialled(name: str) -> None:
    with pytest.raises(Refused):
        asyncio.run(dialler().connect(name, 1, Turns()))


def test_a_failure_names_what_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DialError, match=r"connecting to local\.test port 1 failed: 127\.0\.0\.1: .*refused"):
        asyncio.run(dialler(("local.test",)).connect("local.test", 1, Turns()))

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(DialError, match=r"unknown\.test can't be resolved: Name or service not known"):
        asyncio.run(dialler().connect("unknown.test", 1, Turns()))


def test_what_was_checked_is_what_is_dialled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that first says a public address and then a private one: there is no second question."""
    answers = iter(["198.51.100.200", "127.0.0.1"])
    asked = []

    def lie(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), 0))]

    async def test() -> None:
        rebinding = dialler()
        tried = []

        async def note(address: object, port: int) -> socket.socket:
            tried.append(str(address))
            raise OSError("not really")

        monkeypatch.setattr(rebinding, "_connect_to", note)
        for _ in range(3):
            with pytest.raises(DialError):
                await rebinding.connect("rebind.test", 80, Turns())
        assert tried == ["198.51.100.200"] * 3
        monkeypatch.setattr(time, "monotonic", lambda: 1e9)  # the answer is too old
        with pytest.raises(Refused):
            await rebinding.connect("rebind.test", 80, Turns())

    monkeypatch.setattr(socket, "getaddrinfo", lie)
    asyncio.run(test())
    assert asked == ["rebind.test."] * 2


def test_one_who_looks_up_too_much_leaves_threads_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asking, most, go_on = 0, 0, threading.Event()

    def slow(*_: object, **__: object) -> None:
        nonlocal asking, most
        asking += 1
        most = max(most, asking)
        go_on.wait(10)
        asking -= 1
        raise socket.gaierror(socket.EAI_NONAME, "no")

    async def test() -> list[str]:
        busy, greedy = dialler(), Turns()
        tasks = [asyncio.create_task(busy.resolve(f"n{number}.test", greedy)) for number in range(200)]
        await asyncio.sleep(0.5)
        assert most == Turns.AT_ONCE
        for task in tasks[:50]:
            task.cancel()  # a client that goes away doesn't make room: its look-up goes on
        # A name, even, that the greedy one waits for in its own queue.
        other = asyncio.create_task(busy.resolve("n60.test", Turns()))
        await asyncio.sleep(0.5)
        assert most == Turns.AT_ONCE + 1
        go_on.set()
        return [str(error) for error in await asyncio.gather(*tasks, other, return_exceptions=True)]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    errors = asyncio.run(test())
    assert sum("too many names" in error for error in errors) == 200 - Turns.AT_ONCE - Turns.WAITING
