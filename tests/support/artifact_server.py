"""A registry to fetch from: an HTTP(S) server on loopback whose every answer a test writes down. For the artifact cache.

Must not know what the cache does: it only keeps what it was asked.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

FRESH = "Cache-Control: max-age=600"
MEBI = 1024 * 1024


@dataclass(frozen=True)
class Asked:
    """A request as the server saw it; names of fields in lower case."""

    target: str
    fields: dict[str, str]
    connection: int


@dataclass
class Page:
    """What is answered: a head as text lines, then bytes; `steps` are sent one by one, waiting for `go` in between."""

    body: bytes = b""
    fields: list[str] = field(default_factory=list)
    status: str = "200 OK"
    framing: str = "length"  # length, chunked, close, or short: half of the length, then the end
    steps: int = 1
    go: threading.Event | None = None
    silent: bool = False


Answer = Page | Callable[[Asked], Page]


def with_etag(body: bytes, *fields: str) -> Callable[[Asked], Page]:
    """A page whose tag is the length of its body, in quotes; 304 for who has it."""

    def answer(asked: Asked) -> Page:
        tag = f'"{len(body)}"'
        if asked.fields.get("if-none-match") == tag:
            return Page(b"", [f"ETag: {tag}", *fields], status="304 Not Modified")
        return Page(body, [f"ETag: {tag}", *fields])

    return answer


class Registry:
    """`pages` by target; `asked` in order. Closes idle connections when told to."""

    def __init__(self) -> None:
        self.pages: dict[str, Answer] = {}
        self.asked: list[Asked] = []
        self.before_answer: threading.Event | None = None  # what every answer waits for
        self.port = 0
        self.connections = 0
        self._ending = False
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()

    def url(self, target: str, host: str = "registry.test", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{target}"

    def asked_for(self, target: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.target == target]

    def forget(self) -> None:
        self.pages.clear()
        self.asked.clear()
        self.before_answer = None

    def close_idle(self) -> None:
        """As servers do, at any time."""
        done = threading.Event()

        def close() -> None:
            for writer in self._writers:
                writer.close()
            done.set()

        self._loop.call_soon_threadsafe(close)
        assert done.wait(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        number = self.connections
        self._writers.add(writer)
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1"):
                first, *lines = head.split("\r\n")[:-2]
                fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                asked = Asked(first.split(" ")[1], fields, number)
                self.asked.append(asked)
                answer = self.pages.get(asked.target, Page(b"not here\n", status="404 Not Found"))
                page = answer(asked) if callable(answer) else answer
                if self.before_answer is not None:
                    await asyncio.to_thread(self.before_answer.wait, 20)
                if not await _send(writer, page):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            (writer.transport.abort if self._ending else writer.close)()
            with suppress(OSError):
                await writer.wait_closed()

    @contextmanager
    def running(self, context: ssl.SSLContext | None = None) -> Iterator[Registry]:
        thread = threading.Thread(target=self._loop.run_forever)
        thread.start()
        server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context))
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            self._call(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()

    async def _end(self) -> None:
        self._ending = True
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def _call[T](self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(10)


async def _send(writer: asyncio.StreamWriter, page: Page) -> bool:
    """Whether the connection can go on."""
    if page.silent:
        await asyncio.sleep(3600)
    framing = {"chunked": ["Transfer-Encoding: chunked"], "close": ["Connection: close"]}
    length = framing.get(page.framing, [f"Content-Length: {len(page.body)}"])
    lines = [f"HTTP/1.1 {page.status}", *page.fields, *([] if page.status.startswith("304") else length)]
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    body = page.body[: len(page.body) // 2] if page.framing == "short" else page.body
    size = max(1, -(-len(body) // page.steps))
    for step, start in enumerate(range(0, len(body), size)):
        if step and page.go is not None:
            await asyncio.to_thread(page.go.wait, 20)
        piece = body[start : start + size]
        writer.write(b"%x\r\n%s\r\n" % (len(piece), piece) if page.framing == "chunked" else piece)
        await writer.drain()
    if page.framing == "chunked":
        writer.write(b"0\r\n\r\n")
    await writer.drain()
    return page.framing in ("length", "chunked")
