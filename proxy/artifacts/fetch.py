"""Finds or fetches the answer for a request: each thing once, however many ask for it at the same time.

    get ─┬─ a stored answer, or one on its way to the store, that is fresh ───────────▶ Kept, Growing
         ├─ ask the server, all who ask for the same in one flight ─┬─ 304 ───────────▶ Kept
         │                                                          ├─ to be stored ──▶ Growing
         │                                                          └─ not to be ─────▶ Passing, each its own
         └─ what isn't for sharing, and ranges of what isn't stored ──────────────────▶ Passing

What may be shared and stored is decided by rules.py. A source belongs to who gets it, and is closed by them.
"""

import asyncio
import os
from dataclasses import dataclass

from proxy.artifacts import rules
from proxy.artifacts.ask import Ask, Pairs
from proxy.artifacts.download import Download
from proxy.artifacts.record import Record
from proxy.artifacts.rules import Check, Miss, Use
from proxy.artifacts.spool import Reader
from proxy.artifacts.store import Store, Stored
from proxy.artifacts.upstream import Exchange, Failure, Upstream

# Answers that say that what is stored is not what there is now.
OUTDATING = (200, 404, 410)


@dataclass(frozen=True, slots=True)
class Kept:
    """A whole body on disk. `how`: hit or revalidated."""

    record: Record
    fd: int
    how: str

    async def close(self) -> None:
        os.close(self.fd)


@dataclass(frozen=True, slots=True)
class Growing:
    """A body on its way. `how`: miss, or hit for whom it wasn't fetched for."""

    download: Download
    reader: Reader
    how: str

    @property
    def record(self) -> Record:
        return self.download.record

    async def close(self) -> None:
        self.download.leave(self.reader)


@dataclass(frozen=True, slots=True)
class Passing:
    """An answer for one client only."""

    exchange: Exchange

    async def close(self) -> None:
        await self.exchange.close()


Source = Kept | Growing | Passing
Landed = Stored | Download | Exchange


class Fetcher:
    def __init__(self, store: Store, upstream: Upstream) -> None:
        self.store, self._upstream = store, upstream
        self._downloads: dict[str, list[Download]] = {}
        self._flights: dict[tuple[str, Pairs], asyncio.Future[Landed | Failure | None]] = {}

    async def get(self, ask: Ask) -> Source:
        """Raises Failure."""
        if not ask.shareable:
            return await self._pass(ask)
        plan, holder = self._plan(ask)
        if holder is None and (ending := [each.task for each in self._downloads.get(ask.url, ()) if each.is_whole]):
            await asyncio.wait(ending)  # only until it is safe on disk
            plan, holder = self._plan(ask)
        if holder is not None:
            if (source := self._source(holder, "hit")) is not None:
                return source
            plan = Miss()
        assert not isinstance(plan, Use)
        return await (self._pass(ask) if ask.get("range") else self._fly(ask, plan))

    def _plan(self, ask: Ask) -> tuple[Use | Check | Miss, Stored | Download | None]:
        """What to do, and for a Use, with what. A part is taken only of what is stored."""
        stored = self.store.find(ask.url)
        holders = [*stored, *(() if ask.get("range") else self._downloads.get(ask.url, ()))]
        plan = rules.select(ask, [holder.record for holder in holders])
        if isinstance(plan, Use):
            return plan, next(holder for holder in holders if holder.record is plan.record)
        # A download isn't asked about again while it lasts.
        return rules.select(ask, [each.record for each in stored]), None

    async def _pass(self, ask: Ask) -> Passing:
        return Passing(await self._upstream.send(ask, ask.fields))

    def _source(self, holder: Landed, how: str) -> Source | None:
        match holder:
            case Exchange():
                return Passing(holder)
            case Download():
                return None if (reader := holder.reader()) is None else Growing(holder, reader, how)
            case Stored():
                return None if (fd := self.store.open(holder)) is None else Kept(holder.record, fd, how)

    async def _fly(self, ask: Ask, plan: Check | Miss) -> Source:
        """Ask the server, or wait with those for whom it is being asked."""
        key = (ask.url, ask.fields)
        if (flight := self._flights.get(key)) is not None:
            return await self._join(ask, flight)
        flight = self._flights[key] = asyncio.get_running_loop().create_future()
        landed: Landed | Failure | None = None
        try:
            landed = await self._fetch(ask, plan)
            source = self._source(landed, "revalidated" if isinstance(landed, Stored) else "miss")
        except Failure as failure:
            landed = failure
            raise
        finally:
            del self._flights[key]
            flight.set_result(landed)
        return source or await self._pass(ask)

    async def _join(self, ask: Ask, flight: "asyncio.Future[Landed | Failure | None]") -> Source:
        landed = await asyncio.shield(flight)
        if isinstance(landed, Failure):
            raise Failure(landed.status, landed.reason)
        source = None
        if isinstance(landed, Stored | Download):
            source = self._source(landed, "revalidated" if isinstance(landed, Stored) else "hit")
        return source or await self._pass(ask)

    async def _fetch(self, ask: Ask, plan: Check | Miss) -> Landed:
        exchange = await self._upstream.send(ask, plan.fields if isinstance(plan, Check) else ask.fields)
        if isinstance(plan, Check) and exchange.head.status == 304:
            confirmed = self._confirmed(ask, plan, exchange)
            await exchange.close(bodiless=True)
            if confirmed is not None:
                return confirmed
            self._forget(ask)
            exchange = await self._upstream.send(ask, ask.fields)
        try:
            if exchange.head.status in OUTDATING:
                self._forget(ask)
            return self._stored_from_now_on(ask, exchange) or exchange
        except BaseException:
            await exchange.close()
            raise

    def _confirmed(self, ask: Ask, check: Check, exchange: Exchange) -> Stored | None:
        """What is stored and still holds, as the server says."""
        found = rules.refresh(ask, check, exchange.head, exchange.asked_at, exchange.received_at)
        if found is None:
            return None
        former, record = found
        stored = next((each for each in self.store.find(ask.url) if each.record == former), None)
        return None if stored is None else self.store.refresh(stored, record)

    def _stored_from_now_on(self, ask: Ask, exchange: Exchange) -> Download | None:
        record = rules.admit(ask, exchange.head, exchange.asked_at, exchange.received_at)
        if record is None or (draft := self.store.begin(ask.url, record.length)) is None:
            return None
        download = Download(exchange, record, draft, self.store)
        self._downloads.setdefault(ask.url, []).append(download)
        download.task.add_done_callback(lambda _: self._ended(ask.url, download))
        return download

    def _ended(self, url: str, download: Download) -> None:
        left = [each for each in self._downloads.pop(url, ()) if each is not download]
        if left:
            self._downloads[url] = left
        if not download.task.cancelled():
            download.task.exception()  # its readers have been told

    def clear(self) -> dict[str, int]:
        """Forget everything, also what is on its way; returns what there was. Answers under way go on."""
        self._downloads.clear()
        return self.store.clear()

    def _forget(self, ask: Ask) -> None:
        """What is stored for the request is not there any more, or not what the server thinks it is."""
        for stored in self.store.find(ask.url):
            if stored.record.fits(ask):
                self.store.drop(stored)
