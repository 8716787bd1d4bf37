"""Answers one request of a worker from the source that fetch.py has found: head, and the right part of the body.

An answer that can't be completed breaks off with the connection, never with something that looks like its end.
"""

import time

from proxy.artifacts.ask import CACHE_HEADER, REASON_HEADER, Ask, Pairs
from proxy.artifacts.client import Client
from proxy.artifacts.fetch import Fetcher, Growing, Kept, Passing
from proxy.artifacts.ranges import NotModified, Part, Unsatisfiable, Whole, portion
from proxy.artifacts.spool import PIECE, Piece
from proxy.artifacts.upstream import Failure
from proxy.records import printable
from proxy.request import body

_WITH_304 = ("cache-control", "content-location", "date", "etag", "expires", "last-modified", "vary")


async def answer(client: Client, ask: Ask, fetcher: Fetcher) -> None:
    """Raises Gone, BrokenOff or Broken in the middle of an answer: then only closing is left."""
    try:
        source = await fetcher.get(ask)
    except Failure as failure:
        await refuse(client, failure.status, failure.reason)
        return
    try:
        await (_pass_on(client, source) if isinstance(source, Passing) else _serve(client, ask, source))
    finally:
        await source.close()


async def refuse(client: Client, status: int, reason: str) -> None:
    """An answer of the cache's own."""
    text = body(reason, "denied" if status == 403 else "failed")
    ours = ((CACHE_HEADER, "none"), (REASON_HEADER, printable(reason)))
    await client.head(status, (("content-type", "text/plain"), ("content-length", str(len(text))), *ours))
    await client.body(text)
    await client.end()


async def _pass_on(client: Client, source: Passing) -> None:
    head = source.exchange.head
    length = () if head.length is None else (("content-length", str(head.length)),)
    await client.head(head.status, (*head.fields, *length, (CACHE_HEADER, "bypass")))
    async for piece in source.exchange.pieces():
        await client.body(piece)
    await client.end()


async def _serve(client: Client, ask: Ask, source: Kept | Growing) -> None:
    record = source.record
    own: Pairs = ((CACHE_HEADER, source.how), ("age", str(max(0, int(time.time() - record.born)))))
    match portion(ask, record):
        case NotModified():
            await client.head(304, (*(pair for pair in record.fields if pair[0] in _WITH_304), *own))
        case Unsatisfiable():
            await client.head(416, (("content-range", f"bytes */{record.length}"), ("content-length", "0"), *own))
        case Part(start, stop) if isinstance(source, Kept):
            fields = (*record.fields, ("content-range", f"bytes {start}-{stop - 1}/{record.length}"))
            await client.head(206, (*fields, ("content-length", str(stop - start)), *own))
            await _send_file(client, source.fd, start, stop)
        case Whole() | Part():
            length = () if record.length is None else (("content-length", str(record.length)),)
            await client.head(200, (*record.fields, *length, *own))
            await _send_whole(client, source)
    await client.end()


async def _send_whole(client: Client, source: Kept | Growing) -> None:
    if isinstance(source, Kept):
        await _send_file(client, source.fd, 0, source.record.length or 0)
        return
    async for piece in source.reader.pieces():
        await client.body(piece)


async def _send_file(client: Client, fd: int, start: int, stop: int) -> None:
    for offset in range(start, stop, PIECE):
        await client.body(Piece(fd, offset, min(PIECE, stop - offset)))
