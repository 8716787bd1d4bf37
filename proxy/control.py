"""A worker's control socket: the daemon says what holds for which sandbox, a JSON object on a line, each answered.

    {"op": "hello"}  once, first: the CA, whom to trust, what may be private
    {"op": "set"}    a sandbox's policy, new or changed                        {"ack": seq} once it is in force,
    {"op": "serve"}  once, when all policies have been told: accept            {"ack": seq, "error": …} if it isn't
    {"op": "drop"}   a sandbox is gone
    end of file      the daemon is gone ──▶ the worker ends

An operation that can't be understood changes nothing. What it can do beyond that: nothing, no file, no program.
"""

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from proxy.addresses import Address, Network
from proxy.names import canonical
from proxy.policy import BadPolicy, Policy, parse
from proxy.records import Records
from proxy.sandboxes import Sandboxes

log = logging.getLogger(__name__)

MAX_LINE = 4 * 1024 * 1024


class BadMessage(ValueError):
    """A message that can't be understood. The text says what it lacks."""


@dataclass(frozen=True, slots=True)
class HelloMessage:
    """`private`: names and networks that may be private. `names_key`: of the synthetic addresses."""

    ca_pem: str
    upstream_trust: str
    private: tuple[str | Network, ...]
    host_addresses: tuple[Address, ...]
    names_key: bytes


@dataclass(frozen=True, slots=True)
class SetMessage:
    sandbox: str
    policy: Policy


@dataclass(frozen=True, slots=True)
class DropMessage:
    sandbox: str


@dataclass(frozen=True, slots=True)
class ServeMessage:
    pass


Message = HelloMessage | SetMessage | DropMessage | ServeMessage


def parse_message(value: dict[str, Any]) -> Message:
    """One decoded line; raises BadMessage."""
    try:
        match value:
            case {"op": "hello"}:
                return HelloMessage(
                    _text(value, "ca_pem"),
                    _text(value, "upstream_trust"),
                    tuple(private_place(text) for text in _texts(value, "private_names")),
                    tuple(ip_address(text.partition("%")[0]) for text in _texts(value, "host_addresses")),
                    bytes.fromhex(_text(value, "names_key")),
                )
            case {"op": "set"}:
                return SetMessage(str(IPv4Address(_text(value, "sandbox"))), parse(value.get("policy")))
            case {"op": "drop"}:
                return DropMessage(str(IPv4Address(_text(value, "sandbox"))))
            case {"op": "serve"}:
                return ServeMessage()
    except (BadPolicy, ValueError) as error:
        raise BadMessage(str(error)) from error
    raise BadMessage(f"there is no operation {value.get('op')!r}, only hello, set, drop and serve")


def private_place(text: str) -> str | Network:
    """A name (and all below it) or a network that may be private; raises ValueError."""
    try:
        return ip_network(text)
    except ValueError:
        return canonical(text)


def _text(value: dict[str, Any], key: str) -> str:
    if not isinstance(text := value.get(key), str) or not text:
        raise BadMessage(f"{key} is missing or no text")
    return text


def _texts(value: dict[str, Any], key: str) -> list[str]:
    texts = value.get(key, [])
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadMessage(f"{key} is not a list of texts")
    return texts


class Control:
    """Reads, applies and answers. `configure` takes the hello, and returns what begins to serve; it may raise ValueError."""

    def __init__(
        self, sandboxes: Sandboxes, records: Records, configure: Callable[[HelloMessage], Callable[[], None]]
    ) -> None:
        self._sandboxes, self._records, self._configure = sandboxes, records, configure
        self._serve: Callable[[], None] | None = None
        self._serving = False

    async def run(self, control: socket.socket) -> None:
        """Until the daemon closes the socket."""
        reader, writer = await asyncio.open_connection(sock=control, limit=MAX_LINE)
        sender = asyncio.create_task(self._send(writer))
        self._records.answer({"event": "ready"})
        try:
            while line := await reader.readline():
                self._answer(line)
        except (OSError, ValueError) as error:  # ValueError: a line beyond the limit, from which there is no way back
            log.error("reading the control socket failed: %s; ending", error)
        finally:
            sender.cancel()
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        while True:
            writer.write(await self._records.next())
            await writer.drain()

    def _answer(self, line: bytes) -> None:
        seq: Any = None
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise BadMessage("a message is a JSON object")
            seq = value.get("seq")
            self._apply(parse_message(value))
        except ValueError as error:
            self._records.answer({"ack": seq, "error": str(error)})
        except Exception as error:
            log.exception("a control message failed")
            self._records.answer({"ack": seq, "error": f"internal error: {error!r}"})
        else:
            self._records.answer({"ack": seq})

    def _apply(self, message: Message) -> None:
        match message:
            case HelloMessage():
                if self._serve is not None:
                    raise BadMessage("hello was said already: start another filter to change what it said")
                self._serve = self._configure(message)
            case ServeMessage():
                if self._serve is None or self._serving:
                    raise BadMessage("serve comes once, after hello")
                self._serving = True
                self._serve()
            case SetMessage(sandbox, policy):
                self._sandboxes.set(sandbox, policy)
            case DropMessage(sandbox):
                self._sandboxes.drop(sandbox)
                self._records.forget(sandbox)
