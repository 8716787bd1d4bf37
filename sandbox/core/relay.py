"""Streams of events whose source outlives the impatience of the one who listens.

The web server cancels a request whose client has gone over and over, at every await. What a source has to release (processes,
directories) would be cut short by that, so it runs in a task of its own, which is cancelled once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator


class Relays:
    """The sources that are running now."""

    def __init__(self) -> None:
        self._drivers: set[asyncio.Task[None]] = set()

    def start[T](self, source: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """Start `source` at once; what is returned hands its events on, and closing that ends it.

        For sources that say little: nothing holds one up whose listener is slow.
        """
        queue: asyncio.Queue[T | Exception | _End] = asyncio.Queue()
        driver = asyncio.get_running_loop().create_task(_drive(source, queue))
        self._drivers.add(driver)
        driver.add_done_callback(self._drivers.discard)
        return _hand_on(queue, driver)

    async def close(self) -> None:
        """End all sources and wait until they have released what they held."""
        drivers = list(self._drivers)
        for driver in drivers:
            driver.cancel()
        await asyncio.gather(*drivers, return_exceptions=True)


class _End:
    """The last thing in a queue."""


async def _drive[T](source: AsyncGenerator[T], queue: asyncio.Queue[T | Exception | _End]) -> None:
    try:
        async with contextlib.aclosing(source):
            async for event in source:
                queue.put_nowait(event)
    except Exception as error:  # raised again where somebody listens
        queue.put_nowait(error)
    finally:
        queue.put_nowait(_End())


async def _hand_on[T](queue: asyncio.Queue[T | Exception | _End], driver: asyncio.Task[None]) -> AsyncGenerator[T]:
    try:
        while not isinstance(event := await queue.get(), _End):
            if isinstance(event, Exception):
                raise event
            yield event
    finally:
        driver.cancel()
