"""Turns of the event loop: pieces grow while they are cheap, who was heavy rests, and whoever goes gives the turn back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from proxy.turns import Reader, Turn, Work

DATA = bytes(200_000)


def in_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def limited() -> None:
            async with asyncio.timeout(10):
                await test()

        asyncio.run(limited())

    run.__name__ = test.__name__
    return run


def fed(turn: Turn, data: bytes = DATA, work: Work | None = None) -> Reader:
    reader = Reader(turn, work or Work(), 1 << 20)
    reader.feed_data(data)
    return reader


def spend(work: Work, seconds: float) -> None:
    with work:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass


@in_a_loop
async def test_pieces_grow_while_they_are_cheap() -> None:
    reader = fed(Turn())
    sizes = []
    for _ in range(6):
        sizes.append(len(await reader.read(65_535)))
        await reader.done(counts=True)
    assert sizes == [4096, 8192, 16_384, 32_768, 65_535, 65_535]


@in_a_loop
async def test_who_was_heavy_rests_and_its_neighbours_in_the_sandbox_wait() -> None:
    turn, work = Turn(), Work()
    heavy, light = fed(turn, work=work), fed(turn)
    for reader in (heavy, light):
        await reader.read(65_535)
        await reader.done(counts=True)
    assert len(await heavy.read(65_535)) == 8192
    spend(work, 0.02)
    began = time.monotonic()
    resting = asyncio.create_task(heavy.done(counts=True))
    await asyncio.sleep(0)
    await light.read(65_535)
    assert time.monotonic() - began >= 0.03
    await resting
    light.give_back()
    assert len(await heavy.read(65_535)) == 4096


@in_a_loop
async def test_work_that_does_not_count_needs_no_rest() -> None:
    work = Work()
    reader = fed(Turn(), work=work)
    await reader.read(65_535)
    spend(work, 0.02)
    began = time.monotonic()
    await reader.done(counts=False)
    assert time.monotonic() - began < 0.02
    assert len(await reader.read(65_535)) == 4096


@in_a_loop
async def test_a_turn_is_given_back_once() -> None:
    turn = Turn()
    reader = fed(turn)
    await reader.read(65_535)
    assert turn.lock.locked()
    reader.give_back()
    reader.give_back()
    assert not turn.lock.locked()


@in_a_loop
async def test_the_end_needs_no_turn() -> None:
    turn = Turn()
    reader = fed(turn, b"")
    reader.feed_eof()
    assert await reader.read(65_535) == b""
    assert not turn.lock.locked()
    await reader.done(counts=True)


@in_a_loop
async def test_who_is_ended_while_waiting_has_no_turn() -> None:
    turn = Turn()
    first, second = fed(turn), fed(turn)
    await first.read(65_535)
    waiting = asyncio.create_task(second.read(65_535))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    second.give_back()
    assert turn.lock.locked()
    first.give_back()
    assert not turn.lock.locked()


@in_a_loop
async def test_work_that_a_piece_starts_counts_too() -> None:
    work = Work()
    reader = fed(Turn(), work=work)
    await reader.read(65_535)

    async def later() -> None:
        for _ in range(2):
            spend(work, 0.01)
            await asyncio.sleep(0)

    began = time.monotonic()
    task = asyncio.create_task(later())
    await reader.done(counts=True)
    assert task.done()
    assert time.monotonic() - began >= 0.045, "two works, and rests of twice the time"
    assert len(await reader.read(65_535)) == 4096


@in_a_loop
async def test_who_is_alone_needs_no_rest() -> None:
    turn, work = Turn(lambda: True), Work()
    reader = fed(turn, work=work)
    await reader.read(65_535)
    spend(work, 0.02)
    began = time.monotonic()
    await reader.done(counts=True)
    assert time.monotonic() - began < 0.02
    assert len(await reader.read(65_535)) == 4096
