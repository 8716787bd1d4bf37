"""What the tests of the artifact cache's store share: answers to put there, and a look at what is there.

Must not run a process: the store is used as a library.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxy.artifacts.record import Record
from proxy.artifacts.store import Store, Stored

LIMIT = 1024 * 1024


def url(name: str) -> str:
    return f"https://registry.test:443/{name}"


def record(name: str, length: int, accept: str = "*/*") -> Record:
    return Record(url(name), (("accept", accept),), (("etag", f'"{name}"'),), time.time(), length)


def put(cache: Store, name: str, body: bytes, accept: str = "*/*", known: bool = True) -> None:
    draft = cache.begin(url(name), len(body) if known else None)
    assert draft is not None
    try:
        assert known or cache.grow(draft, len(body))
        os.pwrite(draft.fd, body, 0)
        asyncio.run(cache.commit(draft, record(name, len(body), accept)))
    finally:
        os.close(draft.fd)


def body_of(cache: Store, stored: Stored) -> bytes | None:
    if (fd := cache.open(stored)) is None:
        return None
    with open(fd, "rb") as file:
        return file.read()


def bodies(cache: Store, name: str) -> list[bytes | None]:
    return [body_of(cache, stored) for stored in cache.find(url(name))]


def on_disk(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


@contextmanager
def directory_fd(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
