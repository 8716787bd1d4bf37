"""The cache's process: takes connections from the workers and orders from the daemon, until the daemon is gone.

    handoff ══ tenant, one descriptor ══▶ Client ─ ask ─ answer ─ ask ─ …     a fault ends one connection, no other
    control ══ hello, artifacts-list, artifacts-clear ══▶                        the rest is acknowledged and ignored

Nothing is taken from a worker before hello: until then their connections wait in the socket, and the pulse tells workers
to hand on no more.
"""

import asyncio
import logging
import os
import signal
import socket
import ssl
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address
from typing import Any

from proxy import lines
from proxy.artifacts.answer import answer, refuse
from proxy.artifacts.ask import BadAsk
from proxy.artifacts.client import Client, Gone
from proxy.artifacts.fetch import Fetcher
from proxy.artifacts.pulse import BEAT_SECONDS, Pulse
from proxy.artifacts.spool import BrokenOff
from proxy.artifacts.store import Store
from proxy.artifacts.upstream import Upstream
from proxy.artifacts.wire import Broken
from proxy.dial import Dialler
from proxy.lines import BadMessage, Message

log = logging.getLogger(__name__)

MAX_CLIENTS, MAX_CLIENTS_OF_ONE = 8_192, 512
AT_ONCE = 64  # connections taken before others get their turn


async def run(
    control: socket.socket, handoff: socket.socket, directory: int, hosts: Mapping[str, list[str]], pulse: Pulse
) -> None:
    """Serve until the daemon closes `control`, or SIGTERM. Closes neither of the sockets nor the directory.

    `handoff`: our end of a SOCK_SEQPACKET pair. `hosts`: names resolved by a file, as for the workers.
    `pulse`: beats as long as connections are taken.
    """
    pulse.stop()  # the former one's, which was killed
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_and_go_on)
    control.setblocking(False)
    handoff.setblocking(False)
    cache = Cache(handoff, directory, hosts, pulse)
    task = loop.create_task(lines.serve(control, cache.apply, lines.Answers()))
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.wait([task])
    loop.remove_signal_handler(signal.SIGTERM)
    cache.close()
    if not task.cancelled() and (error := task.exception()):
        log.error("the control socket's task failed, ending", exc_info=error)


class Cache:
    """Applies what the daemon says, and attends to the workers' connections."""

    def __init__(self, handoff: socket.socket, directory: int, hosts: Mapping[str, list[str]], pulse: Pulse) -> None:
        self._handoff, self._directory, self._hosts, self._pulse = handoff, directory, hosts, pulse
        self._next_beat: asyncio.TimerHandle | None = None
        self._fetcher: Fetcher | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._clients_of: Counter[str] = Counter()  # by tenant: a sandbox's address

    def apply(self, message: Message) -> Any:
        match message.get("op"):
            case "hello":
                self._hello(message)
                return None
            case "artifacts-list":
                return self._greeted().store.listing()
            case "artifacts-clear":
                return self._greeted().clear()
            case "set" | "drop" | "serve":
                return None  # for those who decide
        raise BadMessage(f"there is no operation {message.get('op')!r}, only hello, artifacts-list and artifacts-clear")

    def _hello(self, message: Message) -> None:
        if self._fetcher is not None:
            raise BadMessage("hello was said already: start another filter to change what it said")
        private = [lines.private_place(place) for place in lines.texts(message, "private_names")]
        own = [ip_address(text.partition("%")[0]) for text in lines.texts(message, "host_addresses")]
        trust = lines.trust(lines.text(message, "upstream_trust"))
        trust.set_alpn_protocols(["http/1.1"])
        # Python's own addition, which refuses certificates of private registries that every other client takes.
        trust.verify_flags &= ~ssl.VERIFY_X509_STRICT
        try:
            store = Store(self._directory, lines.count(message, "artifact_bytes"))
        except OSError as error:
            raise BadMessage(f"the directory of the artifact cache can't be read: {error}") from error
        self._fetcher = Fetcher(store, Upstream(Dialler(self._hosts, private, own), trust))
        asyncio.get_running_loop().add_reader(self._handoff, self._take, self._fetcher)
        self._beat()

    def _beat(self) -> None:
        self._pulse.beat()
        self._next_beat = asyncio.get_running_loop().call_later(BEAT_SECONDS, self._beat)

    def _greeted(self) -> Fetcher:
        if self._fetcher is None:
            raise BadMessage("hello comes first")
        return self._fetcher

    def close(self) -> None:
        if self._next_beat is not None:
            self._next_beat.cancel()
        self._pulse.stop()
        asyncio.get_running_loop().remove_reader(self._handoff)
        for task in self._clients:
            task.cancel()

    # ── connections ──────────────────────────────────────────────────────────────────────────────────────────────

    def _take(self, fetcher: Fetcher) -> None:
        """Some of the connections that wait in the socket."""
        for _ in range(AT_ONCE):
            try:
                data, fds, _, _ = socket.recv_fds(self._handoff, 64, 1, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError as error:
                log.error("taking a connection from a worker failed: %s", error)
                return
            if not data and not fds:  # all other ends have been closed
                asyncio.get_running_loop().remove_reader(self._handoff)
                return
            for fd in fds:
                self._attend(fd, data.decode("latin-1"), fetcher)

    def _attend(self, fd: int, tenant: str, fetcher: Fetcher) -> None:
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            os.close(fd)
            return
        too_many = len(self._clients) >= MAX_CLIENTS or self._clients_of[tenant] >= MAX_CLIENTS_OF_ONE
        if too_many or (sock.family, sock.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
            sock.close()
            return
        sock.setblocking(False)
        task = asyncio.get_running_loop().create_task(_serve(Client(sock, tenant), fetcher))
        self._clients.add(task)
        self._clients_of[tenant] += 1
        task.add_done_callback(lambda task: self._gone(task, tenant))

    def _gone(self, task: asyncio.Task[None], tenant: str) -> None:
        self._clients.discard(task)
        self._clients_of -= Counter([tenant])  # which keeps no zeros


async def _serve(client: Client, fetcher: Fetcher) -> None:
    """All requests of one connection. What goes wrong in the middle of an answer ends it."""
    try:
        while (ask := await client.ask()) is not None:
            await answer(client, ask, fetcher)
    except BadAsk as error:
        with suppress(Gone):
            await refuse(client, 400, str(error))
    except (Gone, Broken, BrokenOff) as error:
        log.info("an answer broke off: %s", error)
    except Exception:
        log.exception("a connection to the artifact cache failed")
    finally:
        client.close()


def _log_and_go_on(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Whatever one connection did, the others go on."""
    log.error("%s", context.get("message"), exc_info=context.get("exception"))  # type: ignore[arg-type]
