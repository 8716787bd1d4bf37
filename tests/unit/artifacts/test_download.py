"""When a download that nobody waits for is ended, and when it is too late for that. Must not ask any server."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from proxy.artifacts.download import Download
from proxy.artifacts.record import Record
from proxy.artifacts.store import Store

URL = "https://up.test:443/a-1.0.whl"


class Given:
    """An exchange whose body is what is put in; None ends it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def pieces(self) -> AsyncIterator[bytes]:
        while (piece := await self.queue.get()) is not None:
            yield piece

    async def close(self) -> None:
        pass


def begun(store: Store) -> tuple[Download, Given]:
    given = Given()
    draft = store.begin(URL, None)
    assert draft is not None
    return Download(given, Record(URL, (), (), 0.0, None), draft, store), given  # type: ignore[arg-type]


async def _left_and_ended(store: Store) -> None:
    """The last client leaves in the moment in which the end comes: a thread may be storing it already."""
    download, given = begun(store)
    reader = download.reader()
    assert reader is not None
    given.queue.put_nowait(b"whole")
    await asyncio.sleep(0.01)
    given.queue.put_nowait(None)  # which the download sees before anything that is asked for from here on
    download.leave(reader)
    await download.task
    assert [stored.record.length for stored in store.find(URL)] == [5]


async def _left_and_wanted(store: Store) -> None:
    download, _ = begun(store)
    reader = download.reader()
    assert reader is not None
    await asyncio.sleep(0)
    download.leave(reader)
    following = download.reader()
    assert following is not None
    await asyncio.sleep(0.01)
    assert not download.task.done(), "somebody has come for it"
    download.leave(following)
    await asyncio.wait([download.task])
    assert download.task.cancelled()
    assert store.find(URL) == []


def test_a_download_that_somebody_leaves(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    for case in (_left_and_ended, _left_and_wanted):
        store = Store(directory, 1 << 24)
        asyncio.run(case(store))
        store.clear()
        assert list(tmp_path.iterdir()) == []
        assert store.listing()["bytes"] == store._reserved == 0
    os.close(directory)
