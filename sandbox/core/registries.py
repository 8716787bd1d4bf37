"""Which registries an image's package managers use, with the hosts of their downloads: part of every preset of rules.

    what the image and the variables say ── at once ─┐
    what each index answers ── 12 hours, on disk ────┴▶ hosts, as policies take them

An index is asked once for everybody who waits; one that has expired is asked again behind the back of whoever uses it. One that
can't be asked costs the hosts of its downloads only. Must not keep or tell an index's URL: it may hold somebody's token.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from proxy.registries.answers import Answer
from proxy.registries.configured import configured
from proxy.registries.index import Index, prefixes
from rootfs.store import Store
from sandbox.core.images import Base
from sandbox.core.registry_files import HostFiles, ImageFiles

_log = logging.getLogger("hutch")
LIFETIME: Final = 12 * 3600.0  # seconds
LIFETIME_OF_FAILURE: Final = 300.0
_MOST_IMAGES: Final = 32
_MOST_ANSWERS: Final = 1024


type Ask = Callable[[Sequence[Index]], Awaitable[Sequence[Answer]]]


@dataclass(frozen=True)
class _Kept:
    hosts: tuple[str, ...]
    error: str
    until: float  # seconds since the epoch: it outlives a restart


class Registries:
    """`path`: where answers are kept. `ask` asks indexes, all at once and within a limit; what it raises counts as no answer."""

    def __init__(self, store: Store, path: Path, ask: Ask, clock: Callable[[], float] = time.time) -> None:
        self._store, self._path, self._ask, self._clock = store, path, ask, clock
        self._images: OrderedDict[str, ImageFiles] = OrderedDict()
        self._host = HostFiles()
        self._host_prefixes = [sys.prefix.strip("/"), *prefixes(os.environ)]
        self._answers = _read(path)
        self._asking: dict[Index, asyncio.Task[None]] = {}
        self._writing = asyncio.Lock()

    async def of(self, base: Base, env: Mapping[str, str]) -> tuple[str, ...]:
        """All hosts, sorted: "host" or "host:port". Waits for indexes that were never asked, as long as `ask` may take."""
        indexes = await self._indexes(base, env)
        self._renew(indexes)
        if waiting := {self._asking[index] for index in indexes if _key(index) not in self._answers}:
            await asyncio.wait(waiting)
        return self._hosts(indexes)

    async def known(self, base: Base, env: Mapping[str, str]) -> tuple[str, ...]:
        """What is known of them without asking anybody now; what isn't is asked meanwhile."""
        indexes = await self._indexes(base, env)
        self._renew(indexes)
        return self._hosts(indexes)

    async def notices(self, base: Base, env: Mapping[str, str]) -> list[str]:
        """A sentence for each index that didn't say where its downloads are."""
        indexes = await self._indexes(base, env)
        kept = [(index, self._answers.get(_key(index))) for index in indexes]
        return [_notice(index, answer.error) for index, answer in kept if answer is not None and answer.error]

    async def close(self) -> None:
        """Stop asking."""
        tasks = set(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _indexes(self, base: Base, env: Mapping[str, str]) -> tuple[Index, ...]:
        files = self._images.pop(base.image.digest, None) or ImageFiles(self._store, base.image)
        self._images[base.image.digest] = files
        if len(self._images) > _MOST_IMAGES:
            self._images.popitem(last=False)
        variables = {**base.image.config.env, **env}
        return await asyncio.to_thread(configured, files, variables, self._host, self._host_prefixes)

    def _hosts(self, indexes: Sequence[Index]) -> tuple[str, ...]:
        hosts = {host for index in indexes for host in index.hosts}
        for index in indexes:
            if answer := self._answers.get(_key(index)):
                hosts.update(answer.hosts)
        return tuple(sorted(hosts))

    def _renew(self, indexes: Sequence[Index]) -> None:
        """Ask those that have no answer, or an old one, and that nobody is asking already."""
        moment = self._clock()
        due = [
            index for index in indexes
            if index not in self._asking
            and ((kept := self._answers.get(_key(index))) is None or not moment < kept.until <= moment + LIFETIME)
        ]  # fmt: skip
        if due:
            task = asyncio.create_task(self._ask_and_keep(due))
            self._asking.update(dict.fromkeys(due, task))
            task.add_done_callback(lambda _: self._asked(due))

    def _asked(self, indexes: Sequence[Index]) -> None:
        for index in indexes:
            del self._asking[index]

    async def _ask_and_keep(self, indexes: Sequence[Index]) -> None:
        try:
            answers = list(zip(indexes, await self._ask(indexes), strict=True))
        except Exception as error:  # whatever it is, tasks go on with what the image says
            answers = [(index, Answer((), f"nobody could ask it: {error}")) for index in indexes]
        for index, answer in answers:
            self._keep(index, answer)
        async with self._writing:
            await asyncio.to_thread(_write, self._path, dict(self._answers))

    def _keep(self, index: Index, answer: Answer) -> None:
        key = _key(index)
        before = self._answers.pop(key, None)
        if answer.error:
            _log.warning("%s", _notice(index, answer.error))
        hosts = before.hosts if answer.error and before else answer.hosts  # those of yesterday are better than none
        lifetime = LIFETIME_OF_FAILURE if answer.error else LIFETIME
        self._answers[key] = _Kept(hosts, answer.error, self._clock() + lifetime)
        while len(self._answers) > _MOST_ANSWERS:
            del self._answers[next(iter(self._answers))]


def _notice(index: Index, error: str) -> str:
    return f"the registry {index.hosts[0]} did not say where its downloads are: {error}"


def _key(index: Index) -> str:
    return hashlib.sha256(f"{index.kind} {index.url}".encode()).hexdigest()


def _read(path: Path) -> dict[str, _Kept]:
    """What was kept; nothing if there is no such file, or another version wrote it."""
    try:
        entries = json.loads(path.read_bytes()).items()
        return {key: _Kept(tuple(entry["hosts"]), entry["error"], entry["until"]) for key, entry in entries}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _write(path: Path, answers: Mapping[str, _Kept]) -> None:
    temporary = path.with_suffix(".new")
    with contextlib.suppress(OSError):  # a full disk: it is asked again by the next daemon
        temporary.write_text(json.dumps({key: asdict(kept) for key, kept in answers.items()}))
        temporary.rename(path)
