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
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from proxy.registries.answers import Answer, believed
from proxy.registries.configured import configured
from proxy.registries.index import Index, prefixes
from proxy.rules import parse_rule
from rootfs.store import Store
from sandbox.core.images import Base
from sandbox.core.registry_files import HostFiles, ImageFiles

_log = logging.getLogger("hutch")
LIFETIME: Final = 12 * 3600.0  # seconds
LIFETIME_OF_FAILURE: Final = 300.0
_MOST_IMAGES: Final = 32
_MOST_ENVIRONMENTS: Final = 256
_MOST_ANSWERS: Final = 1024


type Ask = Callable[[Sequence[Index]], Awaitable[Sequence[Answer]]]


@dataclass(frozen=True)
class _Kept:
    hosts: tuple[str, ...]
    error: str
    until: float  # seconds since the epoch: it outlives a restart


class Registries:
    """`path`: where answers are kept. `ask` asks indexes, all at once and within a limit; what it raises counts as no answer.

    `deny`: rules for hosts that are denied to everybody, without that word. They count for nothing, and aren't looked up.
    """

    def __init__(
        self, store: Store, path: Path, ask: Ask, deny: Iterable[str] = (), clock: Callable[[], float] = time.time
    ) -> None:
        self._store, self._path, self._ask, self._clock = store, path, ask, clock
        self._deny = [rule for rule in (parse_rule(f"deny {text}") for text in deny) if not rule.partial]
        self._images: dict[str, ImageFiles] = {}  # by digest
        self._said: dict[str, tuple[Index, ...]] = {}  # by image and variables
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
        """What image and variables say; remembered, since every start of a sandbox asks for it."""
        variables = {**base.image.config.env, **env}
        key = _digest(base.image.digest, *(part for pair in sorted(variables.items()) for part in pair))
        found = self._said.pop(key, None)
        if found is None:
            files = self._images.pop(base.image.digest, None) or ImageFiles(self._store, base.image)
            _put(self._images, base.image.digest, files, _MOST_IMAGES)
            everything = await asyncio.to_thread(configured, files, variables, self._host, self._host_prefixes)
            found = tuple(index for index in everything if not self._denied(index))
        _put(self._said, key, found, _MOST_ENVIRONMENTS)
        return found

    def _denied(self, index: Index) -> bool:
        name, _, port = index.hosts[0].partition(":")
        tls = index.url.startswith("https:")
        return any(rule.covers(name) and rule.fits(int(port or (443 if tls else 80)), tls) for rule in self._deny)

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
            answer = believed(
                {"error": f"nobody could ask it: {error}"}
            )  # which may hold words of the process that asks
            answers = [(index, answer) for index in indexes]
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
        _put(self._answers, key, _Kept(hosts, answer.error, self._clock() + lifetime), _MOST_ANSWERS)


def _notice(index: Index, error: str) -> str:
    return f"the registry {index.hosts[0]} did not say where its downloads are: {error}"


def _key(index: Index) -> str:
    return _digest(index.kind, index.url)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\0".join(texts).encode("utf-8", "surrogatepass")).hexdigest()


def _put[V](table: dict[str, V], key: str, value: V, most: int) -> None:
    """Add a value; what was added first goes, when there are more than `most`."""
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]


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
