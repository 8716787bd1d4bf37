"""A body on its way from a server to the spool, from which its clients read, and from there to the store.

It ends whole and is stored, or it breaks off, for all who read it, and nothing of it stays.
"""

import asyncio
import os
from dataclasses import replace
from functools import partial

from proxy.artifacts.record import Record
from proxy.artifacts.spool import BrokenOff, Reader, Spool
from proxy.artifacts.store import FIRST_BYTES, Draft, Store
from proxy.artifacts.upstream import Exchange
from proxy.artifacts.wire import Broken

# One that nobody waits for any more is ended, unless so little is missing that the next to ask will be glad of it.
WORTH_FINISHING = 16 * 1024 * 1024


class Download:
    """Takes over the exchange and the draft."""

    def __init__(self, exchange: Exchange, record: Record, draft: Draft, store: Store) -> None:
        self.record = record
        self._exchange, self._draft, self._store = exchange, draft, store
        self._spool = Spool(draft.fd, FIRST_BYTES, partial(store.grow, draft) if record.length is None else None)
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        kept = False
        try:
            await self._receive()
            self._spool.end()
            if kept := self._spool.whole:
                self.record = replace(self.record, length=self._spool.written)
                await self._store.commit(self._draft, self.record)
        except (Broken, OSError) as error:
            self._spool.end(error)
        except BaseException:
            self._spool.end(BrokenOff("it was ended"))
            raise
        finally:
            if not kept:
                self._store.discard(self._draft)
            os.close(self._draft.fd)

    async def _receive(self) -> None:
        try:
            async for piece in self._exchange.pieces():
                await self._spool.write(piece)
        finally:
            await self._exchange.close()

    @property
    def is_whole(self) -> bool:
        """Whether everything is there, and is only being made safe on disk."""
        return self._spool.whole

    def reader(self) -> Reader | None:
        """From the first byte on; None if that can't be had any more."""
        return self._spool.reader()

    def leave(self, reader: Reader) -> None:
        """A client has got all, or has gone."""
        reader.close()
        # Not before the task has begun: one that is cancelled before its first step doesn't clean up.
        asyncio.get_running_loop().call_soon(self._end_unless_wanted)

    def _end_unless_wanted(self) -> None:
        """Never once all is there: a thread is storing it then, and works with the descriptor."""
        if self._spool.read_by or self._spool.ended:
            return
        if self.record.length is None or self.record.length - self._spool.written > WORTH_FINISHING:
            self.task.cancel()
