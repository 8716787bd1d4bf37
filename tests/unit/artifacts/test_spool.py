"""The growing file of a download: everybody reads all of it, whole or in a circle, or learns that it broke off."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxy.artifacts.spool import BrokenOff, Piece, Reader, Spool

FIRST = 1000


@contextmanager
def spool(most: int | None) -> Iterator[Spool]:
    """`most` bytes of a body of unknown length, or None for one whose length is known."""
    with tempfile.TemporaryFile() as file:
        yield Spool(file.fileno(), FIRST, None if most is None else lambda size: size <= most)


def run[T](work: Coroutine[Any, Any, T]) -> T:
    async def limited() -> T:
        async with asyncio.timeout(20):
            return await work

    return asyncio.run(limited())


async def read(reader: Reader, pause_every: int = 0) -> bytes:
    parts = []
    async for piece in reader.pieces():
        parts.append(os.pread(piece.fd, piece.count, piece.offset) if isinstance(piece, Piece) else piece)
        if pause_every and len(parts) % pause_every == 0:
            await asyncio.sleep(0)
    reader.close()
    return b"".join(parts)


def got(reader: Reader | None) -> Reader:
    assert reader is not None
    return reader


@settings(max_examples=100, deadline=None)
@given(
    pieces=st.lists(st.integers(1, 3000), max_size=20),
    most=st.none() | st.integers(FIRST, 20_000),
    pauses=st.lists(st.integers(0, 3), min_size=1, max_size=3),
)
def test_all_read_the_same(pieces: list[int], most: int | None, pauses: list[int]) -> None:
    bodies = [bytes([number + 1]) * size for number, size in enumerate(pieces)]
    body = b"".join(bodies)

    async def scenario() -> list[bytes]:
        with spool(most) as it:
            readers = [asyncio.create_task(read(got(it.reader()), pause)) for pause in pauses]
            for each in bodies:
                await it.write(each)
            it.end()
            received = await asyncio.gather(*readers)
            assert it.written == len(body)
            assert it.whole is (most is None or len(body) <= max(most, FIRST))
            if it.whole:
                late = got(it.reader())
                received.append(await read(late))
            else:
                assert it.reader() is None
            return received

    assert set(run(scenario())) <= {body}


def test_beyond_its_limit_the_writer_waits_for_the_slowest() -> None:
    async def scenario() -> None:
        with spool(FIRST) as it:
            slow, fast = got(it.reader()), got(it.reader())
            writer = asyncio.create_task(it.write(b"x" * 5 * FIRST))
            quick = asyncio.create_task(read(fast))
            await asyncio.sleep(0.05)
            assert not writer.done()
            assert it.written == FIRST
            slow.close()  # it has given up
            await writer
            it.end()
            assert await quick == b"x" * 5 * FIRST

    run(scenario())


def test_who_reads_nothing_while_others_wait_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.artifacts.spool.PATIENCE_SECONDS", 0.05)

    async def scenario() -> None:
        with spool(FIRST) as it:
            stuck, quick = got(it.reader()), asyncio.create_task(read(got(it.reader())))
            await it.write(b"x" * 5 * FIRST)
            it.end()
            assert await quick == b"x" * 5 * FIRST
            with pytest.raises(BrokenOff, match="slowly"):
                await read(stuck)
            stuck.close()

    run(scenario())


def test_who_reads_alone_may_be_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.artifacts.spool.PATIENCE_SECONDS", 0.01)

    async def scenario() -> None:
        with spool(FIRST) as it:
            slow = got(it.reader())
            writer = asyncio.create_task(it.write(b"x" * 3 * FIRST))
            await asyncio.sleep(0.1)
            reading = asyncio.create_task(read(slow))
            await writer
            it.end()
            assert await reading == b"x" * 3 * FIRST

    run(scenario())


def test_without_readers_nothing_waits() -> None:
    async def scenario() -> None:
        with spool(FIRST) as it:
            await it.write(b"x" * 100 * FIRST)
            it.end()
            assert not it.whole

    run(scenario())


def test_a_full_disk_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(fd: int, data: memoryview, offset: int) -> int:
        if offset + len(data) > 2 * FIRST:
            raise OSError(28, "No space left on device")
        return real(fd, data, offset)

    async def scenario() -> None:
        with spool(100 * FIRST) as it:
            reader = asyncio.create_task(read(got(it.reader())))
            for number in range(10):
                await it.write(bytes([number]) * FIRST)
            it.end()
            assert await reader == b"".join(bytes([number]) * FIRST for number in range(10))
            assert not it.whole

    monkeypatch.setattr(os, "pwrite", full)
    run(scenario())


@pytest.mark.parametrize("written", [0, 500])
def test_who_reads_learns_that_it_broke_off(written: int) -> None:
    async def scenario() -> None:
        with spool(None) as it:
            reader = got(it.reader())
            reading = asyncio.create_task(read(reader))
            await it.write(b"x" * written)
            await asyncio.sleep(0)
            it.end(BrokenOff("the wire was cut"))
            with pytest.raises(BrokenOff, match="cut"):
                await reading
            assert it.reader() is None
            assert not it.whole
            reader.close()

    run(scenario())
