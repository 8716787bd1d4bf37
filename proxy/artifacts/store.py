"""The files of the cache: a body and its record for each answer, reached only through one directory descriptor.

    begin ─▶ KEY-TOKEN.tmp ─ written ─ synced ─▶ commit ─▶ KEY-TOKEN.body, then KEY-TOKEN.meta: now it is there

A killed process leaves .tmp files and bodies without a record, which the next start removes. KEY is a digest of the
URL, so the index is built from names alone; a record is read, and believed only if all of it fits, when it is wanted.
It is no judge of what may be stored. Writing and removing here is all that any process of the filter does with files.
"""

import asyncio
import hashlib
import logging
import os
import secrets
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from proxy.artifacts.files import NotOurs, create, opened, remove, rename, survey
from proxy.artifacts.record import MAX_RECORD_BYTES, BadRecord, Record, from_bytes, to_bytes
from proxy.records import printable

log = logging.getLogger(__name__)

MAX_ENTRIES = 50_000
MAX_VARIANTS = 8  # of one URL: each is read whenever it is asked for
MAX_LISTED = 1_000
FIRST_BYTES = 65_536  # what a body of unknown length gets at once
_BLOCK = 4_096


@dataclass(frozen=True, slots=True)
class Stored:
    name: str
    record: Record


@dataclass(slots=True)
class Draft:
    """A body that is being written. `reserved` bytes of the cache's limit are its own; `fd` is its owner's to close."""

    name: str
    fd: int
    reserved: int
    generation: int


class Store:
    def __init__(self, directory: int, limit: int) -> None:
        """Index what is there. `limit`: bytes on disk of all bodies and records, and of what is being written."""
        self._directory, self._limit = directory, limit
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by name, the least recently used first
        self._names: dict[str, list[str]] = {}  # by key
        self._used = self._reserved = self._generation = 0
        self.most = limit // 4  # of one body
        for name, sizes in survey(directory):
            self._insert(name, sum(map(_round_up, sizes)))
        self._make_room(0)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────

    def find(self, url: str) -> list[Stored]:
        """What is stored for the URL."""
        found = []
        for name in list(self._names.get(_key(url), ())):
            record = self._read(name)
            if record is not None and record.url == url:
                found.append(Stored(name, record))
        return found

    def _read(self, name: str) -> Record | None:
        try:
            with opened(f"{name}.meta", self._directory) as fd:
                record = from_bytes(os.read(fd, MAX_RECORD_BYTES + 1))
            if _key(record.url) != name.partition("-")[0]:
                raise BadRecord("it is another URL's")
            return record
        except (BadRecord, NotOurs, FileNotFoundError) as error:
            log.warning("dropping %s from the artifact cache: %s", name, error)
            self._drop(name)
        except OSError as error:
            log.warning("reading %s in the artifact cache failed: %s", name, error)
        return None

    def open(self, stored: Stored) -> int | None:
        """A descriptor of the body, and from now on it is the most recently used one; None if it isn't whole."""
        try:
            with opened(f"{stored.name}.body", self._directory) as fd:
                if os.fstat(fd).st_size != stored.record.length:
                    raise NotOurs("its length differs")
                with suppress(OSError):
                    os.utime(fd)  # what the order after a start is made from
                self._sizes.move_to_end(stored.name)
                return os.dup(fd)
        except (NotOurs, FileNotFoundError, KeyError) as error:
            log.warning("dropping the body %s from the artifact cache: %s", stored.name, error)
            self._drop(stored.name)
        except OSError as error:
            log.warning("reading the body %s in the artifact cache failed: %s", stored.name, error)
        return None

    # ── writing ──────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self, url: str, length: int | None) -> Draft | None:
        """A file for a body, with the disk space for it (or for its beginning); None if it is not to be stored."""
        size = _round_up(FIRST_BYTES if length is None else length)
        if size > self.most or not self._make_room(size):
            return None
        name = f"{_key(url)}-{secrets.token_hex(8)}"
        try:
            fd = create(f"{name}.tmp", self._directory)
        except OSError as error:
            log.warning("making a file in the artifact cache failed: %s", error)
            return None
        try:
            # Now, when there is another way, and not in the middle of a client's answer.
            os.posix_fallocate(fd, 0, max(1, FIRST_BYTES if length is None else length))
        except OSError as error:
            log.warning("the artifact cache gets no disk space: %s", error)
            os.close(fd)
            remove(f"{name}.tmp", self._directory)
            return None
        self._reserved += size
        return Draft(name, fd, size, self._generation)

    def grow(self, draft: Draft, length: int) -> bool:
        """Reserve so much for a body whose length isn't known; False if it may not become as long."""
        size = _round_up(length)
        if size <= draft.reserved:
            return True
        if size > self.most or not self._make_room(size - draft.reserved):
            return False
        self._reserved += size - draft.reserved
        draft.reserved = size
        return True

    async def commit(self, draft: Draft, record: Record) -> None:
        """Keep a whole body, in place of others that the record would be chosen for."""
        try:
            await asyncio.get_running_loop().run_in_executor(None, self._publish, draft, record)
        except OSError as error:
            log.warning("storing an artifact failed: %s", error)
            self.discard(draft)
            return
        self._reserved -= draft.reserved
        self._insert(draft.name, _size(record))
        if draft.generation != self._generation:
            self._drop(draft.name)
            return
        others = [stored for stored in self.find(record.url) if stored.name != draft.name]
        others.sort(key=lambda stored: stored.record.born)
        for at, stored in enumerate(others):
            if stored.record.asked == record.asked or len(others) - at >= MAX_VARIANTS:
                self._drop(stored.name)

    def _publish(self, draft: Draft, record: Record) -> None:
        assert record.length is not None
        os.ftruncate(draft.fd, record.length)
        os.fdatasync(draft.fd)
        rename(f"{draft.name}.tmp", f"{draft.name}.body", self._directory)
        self._write_record(draft.name, record, sync=True)

    def _write_record(self, name: str, record: Record, sync: bool) -> None:
        fd = create(f"{name}.tmp", self._directory)
        try:
            os.write(fd, to_bytes(record))
            if sync:
                os.fdatasync(fd)
        finally:
            os.close(fd)
        rename(f"{name}.tmp", f"{name}.meta", self._directory)

    def refresh(self, stored: Stored, record: Record) -> Stored:
        """Give a stored body another record. One that a crash tears is no record, and its body is fetched again: waiting
        for the disk, here in the loop, is not worth it."""
        if stored.name in self._sizes:
            try:
                self._write_record(stored.name, record, sync=False)
            except OSError as error:
                log.warning("updating %s in the artifact cache failed: %s", stored.name, error)
                remove(f"{stored.name}.tmp", self._directory)
        return Stored(stored.name, record)

    def discard(self, draft: Draft) -> None:
        """Remove what was begun."""
        self._reserved -= draft.reserved
        for suffix in ("tmp", "meta", "body"):
            remove(f"{draft.name}.{suffix}", self._directory)

    def drop(self, stored: Stored) -> None:
        self._drop(stored.name)

    # ── all of it ────────────────────────────────────────────────────────────────────────────────────────────────

    def clear(self) -> dict[str, int]:
        """Remove everything; what is being written won't be kept either. Returns what there was."""
        removed = {"entries": len(self._sizes), "bytes": self._used}
        self._generation += 1
        for name in list(self._sizes):
            self._drop(name)
        return removed

    def listing(self) -> dict[str, Any]:
        """How full it is, and what was used last."""
        items = []
        for name in list(reversed(self._sizes))[:MAX_LISTED]:
            if (record := self._read(name)) is not None:
                items.append({"url": printable(record.url), "bytes": record.length, "validated": int(record.born)})
        return {"entries": len(self._sizes), "bytes": self._used, "limit": self._limit, "items": items}

    # ── the index ────────────────────────────────────────────────────────────────────────────────────────────────

    def _make_room(self, size: int) -> bool:
        """Drop what was used least recently until there is space for so much more; False if there can't be."""
        if self._reserved + size > self._limit:
            return False
        while self._used + self._reserved + size > self._limit or len(self._sizes) >= MAX_ENTRIES:
            self._drop(next(iter(self._sizes)))
        return True

    def _insert(self, name: str, size: int) -> None:
        self._sizes[name] = size
        self._names.setdefault(name.partition("-")[0], []).append(name)
        self._used += size

    def _drop(self, name: str) -> None:
        """The record first: a body without one is nothing."""
        if name not in self._sizes:
            return
        self._used -= self._sizes.pop(name)
        key = name.partition("-")[0]
        self._names[key].remove(name)
        if not self._names[key]:
            del self._names[key]
        remove(f"{name}.meta", self._directory)
        remove(f"{name}.body", self._directory)


def _key(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def _size(record: Record) -> int:
    return _round_up(record.length or 0) + _round_up(len(to_bytes(record)))


def _round_up(size: int) -> int:
    return -(-size // _BLOCK) * _BLOCK
