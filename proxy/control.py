"""What the daemon tells a worker: what holds for which sandbox. lines.py carries it.

    {"op": "hello"}  once, first: the CA, whom to trust, what may be private
    {"op": "set"}    a sandbox's policy, new or changed: acknowledged once it is in force
    {"op": "serve"}  once, when all policies have been told: accept
    {"op": "drop"}   a sandbox is gone: acknowledged once all of its records have been sent

An operation that can't be understood changes nothing. What it can do beyond that: nothing, no file, no program.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address

from proxy.addresses import Address, Network
from proxy.lines import BadMessage, Message, private_place, text, texts
from proxy.policy import Policy, parse
from proxy.records import Records
from proxy.sandboxes import Sandboxes

LAST_WORDS_SECONDS = 1.0  # that closed connections may take to be recorded


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


def parse_message(value: Message) -> HelloMessage | SetMessage | DropMessage | ServeMessage:
    """One decoded line; raises ValueError."""
    match value:
        case {"op": "hello"}:
            return HelloMessage(
                text(value, "ca_pem"),
                text(value, "upstream_trust"),
                tuple(private_place(place) for place in texts(value, "private_names")),
                tuple(ip_address(address.partition("%")[0]) for address in texts(value, "host_addresses")),
                bytes.fromhex(text(value, "names_key")),
            )
        case {"op": "set"}:
            return SetMessage(str(IPv4Address(text(value, "sandbox"))), parse(value.get("policy")))
        case {"op": "drop"}:
            return DropMessage(str(IPv4Address(text(value, "sandbox"))))
        case {"op": "serve"}:
            return ServeMessage()
    raise BadMessage(f"there is no operation {value.get('op')!r}, only hello, set, drop and serve")


class Control:
    """Applies messages. `configure` takes the hello, and returns what begins to serve; it may raise ValueError."""

    def __init__(
        self, sandboxes: Sandboxes, records: Records, configure: Callable[[HelloMessage], Callable[[], None]]
    ) -> None:
        self._sandboxes, self._records, self._configure = sandboxes, records, configure
        self._serve: Callable[[], None] | None = None
        self._serving = False

    def apply(self, value: Message) -> Awaitable[None] | None:
        """Obey one message, when what it returns has been waited for; raises ValueError with nothing changed."""
        match parse_message(value):
            case HelloMessage() as hello:
                if self._serve is not None:
                    raise BadMessage("hello was said already: start another filter to change what it said")
                self._serve = self._configure(hello)
            case ServeMessage():
                if self._serve is None or self._serving:
                    raise BadMessage("serve comes once, after hello")
                self._serving = True
                self._serve()
            case SetMessage(sandbox, policy):
                self._sandboxes.set(sandbox, policy)
            case DropMessage(sandbox):
                return self._drop(sandbox)
        return None

    async def _drop(self, sandbox: str) -> None:
        tasks = [closed.task for closed in self._sandboxes.drop(sandbox) if closed.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=LAST_WORDS_SECONDS)
        self._records.forget(sandbox)
