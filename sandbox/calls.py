"""One call of the daemon's API and its answer: JSON, a job's lines, a stream. client.py knows which calls there are.

It must not know any call. Where the transport fails, a HutchError says so (sandbox/failures.py); here is that one border.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Self

from sandbox import failures
from sandbox.failures import ANSWER_SECONDS, HutchError, JobFailed
from sandbox.wire import Exchange, quote


class Stream:
    """An answer that arrives line by line: iterate over it, and leave its `with` block (or close()) to hang up.

    Each item is one JSON object (a dict). Iterating raises ConnectionLost when the daemon goes away before the end.
    """

    def __init__(self, exchange: Exchange, path: str) -> None:
        self._exchange = exchange
        self._path = path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up. For an exec this kills what runs."""
        self._exchange.close()

    def chunks(self) -> Iterator[bytes]:
        """The answer's bytes as they arrive."""
        pieces = self._exchange.chunks()
        while True:
            try:
                piece = next(pieces)
            except StopIteration:
                return
            except (OSError, EOFError, ValueError) as error:
                raise failures.lost(self._path, error) from error
            yield piece

    def read(self) -> bytes:
        """The whole answer; hangs up afterwards."""
        with self:
            return b"".join(self.chunks())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        rest = b""
        for chunk in self.chunks():
            lines = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
            rest = lines.pop()
            yield from (self.parse(line) for line in lines if line)
        if rest:
            yield self.parse(rest)

    def parse(self, line: bytes) -> dict[str, Any]:
        """One JSON object."""
        try:
            value = json.loads(line)
        except ValueError as error:
            raise failures.lost(self._path, error) from error
        if not isinstance(value, dict):
            raise failures.lost(self._path, ValueError("a line of the answer is no JSON object"))
        return value


class Caller:
    """Makes calls on the daemon's socket: one connection per call, safe in several threads."""

    def __init__(self, socket: str) -> None:
        self.socket = socket

    def _json(
        self, method: str, target: str, body: Any = None, timeout: float | None = ANSWER_SECONDS
    ) -> dict[str, Any]:
        stream = self._stream(method, target, body, timeout=timeout)
        return stream.parse(stream.read())

    def _job(
        self, method: str, target: str, body: Any, headers: dict[str, str] | None = None
    ) -> Iterator[dict[str, Any]]:
        with self._stream(method, target, body, headers, timeout=None) as stream:
            for line in stream:
                if "error" in line:
                    raise JobFailed(*failures.error_text(line))
                yield line
                if "result" in line:
                    return
        raise failures.lost(self.socket, EOFError("the job's answer has no result"))

    def _stream(
        self,
        method: str,
        target: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = ANSWER_SECONDS,
    ) -> Stream:
        """Send one request and return its answer: the one border where the transport's failures become HutchErrors."""
        headers = headers or {}
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        try:
            exchange = Exchange(self.socket, timeout)
        except OSError as error:
            raise failures.unreachable(self.socket, error) from error
        try:
            exchange.send(method, target, headers, body if body is not None else b"")
        except BaseException as error:
            exchange.close()
            if isinstance(error, OSError | EOFError | ValueError):
                raise failures.lost(self.socket, error) from error
            raise
        stream = Stream(exchange, self.socket)
        if exchange.status >= 400:
            raise failures.refused(exchange.status, stream.read())
        return stream


def segment(name: str) -> str:
    """A name as a part of a path."""
    try:
        return quote(name)
    except ValueError as error:
        raise HutchError(str(error), "give a name or an id") from error


def query(values: dict[str, str]) -> str:
    """What follows the path."""
    return "?" + "&".join(f"{name}={segment(value)}" for name, value in values.items())


def header(text: str) -> str:
    """A header's value: what is not printable ASCII is replaced, so that no file name can end the line."""
    return "".join(c if " " <= c <= "~" else "?" for c in text)
