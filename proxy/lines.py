"""The lines between the daemon and a process of the filter: a JSON object each, every one of the daemon's answered.

    daemon ──▶ {"op": …, "seq": N, …}
           ◀── {"ack": N} or {"ack": N, "result": …}                    once it is in force
               {"ack": N, "error": "one sentence"}                      if it isn't: then nothing has changed
    end of file on either side: the process ends

It knows no operation: who uses it hands in what applies one.
"""

import asyncio
import inspect
import json
import logging
import socket
import ssl
from collections import deque
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any, Protocol

from proxy.addresses import Network
from proxy.names import canonical

log = logging.getLogger(__name__)

MAX_LINE = 4 * 1024 * 1024

Message = dict[str, Any]


class BadMessage(ValueError):
    """A message that can't be understood. The text says what it lacks."""


class Outgoing(Protocol):
    """What waits to be sent to the daemon, in the order of its making."""

    def answer(self, message: Message) -> None: ...
    async def next(self) -> bytes:
        """The next line, waiting for one if there is none."""


class Answers:
    """The `Outgoing` of a process that has nothing to say but answers."""

    def __init__(self) -> None:
        self._lines: deque[bytes] = deque()
        self._filled = asyncio.Event()

    def answer(self, message: Message) -> None:
        self._lines.append(json.dumps(message).encode() + b"\n")
        self._filled.set()

    async def next(self) -> bytes:
        while not self._lines:
            self._filled.clear()
            await self._filled.wait()
        return self._lines.popleft()


async def serve(control: socket.socket, apply: Callable[[Message], Any], outgoing: Outgoing) -> None:
    """Until the daemon closes the socket: one message after the other. `apply` gives a result, or one to wait for."""
    reader, writer = await asyncio.open_connection(sock=control, limit=MAX_LINE)
    sender = asyncio.create_task(_send(writer, outgoing))
    try:
        while line := await reader.readline():
            outgoing.answer(await _answer(line, apply))
    except (OSError, ValueError) as error:  # ValueError: a line beyond the limit, from which there is no way back
        log.error("reading the control socket failed: %s; ending", error)
    finally:
        sender.cancel()
        writer.close()


async def _send(writer: asyncio.StreamWriter, outgoing: Outgoing) -> None:
    while True:
        writer.write(await outgoing.next())
        await writer.drain()


async def _answer(line: bytes, apply: Callable[[Message], Any]) -> Message:
    seq: Any = None
    try:
        value = json.loads(line)
        if not isinstance(value, dict):
            raise BadMessage("a message is a JSON object")
        seq = value.get("seq")
        result = apply(value)
        if inspect.isawaitable(result):
            result = await result
    except ValueError as error:
        return {"ack": seq, "error": str(error)}
    except Exception as error:
        log.exception("a control message failed")
        return {"ack": seq, "error": f"internal error: {error!r}"}
    return {"ack": seq} if result is None else {"ack": seq, "result": result}


def text(message: Message, key: str) -> str:
    if not isinstance(value := message.get(key), str) or not value:
        raise BadMessage(f"{key} is missing or no text")
    return value


def texts(message: Message, key: str) -> list[str]:
    values = message.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadMessage(f"{key} is not a list of texts")
    return values


def count(message: Message, key: str) -> int:
    if not isinstance(value := message.get(key), int) or isinstance(value, bool) or value < 0:
        raise BadMessage(f"{key} is missing or no number from 0 on")
    return value


def private_place(place: str) -> str | Network:
    """A name (and all below it) or a network that may be private; raises ValueError."""
    try:
        return ip_network(place)
    except ValueError:
        pass
    try:
        return canonical(place)
    except ValueError as error:
        raise BadMessage(f"{place!r}, which is to be private, is neither a network nor a name: {error}") from error


def trust(path: str) -> ssl.SSLContext:
    """Clients' settings for TLS that trust the authorities in the file, at least one; raises BadMessage."""
    try:
        context = ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError) as error:
        raise BadMessage(f"the trusted certificates in {path} can't be read: {error}") from error
    if not context.cert_store_stats()["x509_ca"]:
        raise BadMessage(f"{path} contains no CA certificate, so that no server could be trusted")
    return context
