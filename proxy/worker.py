"""A worker: one of the filter's equal processes, each with an event loop that resolves, accepts, decides and carries.

Forked by the master with everything imported. It knows what the daemon tells it, and shares nothing with the others
but the listening sockets, the hints of synthetic.py and the cache's pulse: any of them may die at any time.
"""

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import uvloop

from proxy import lines
from proxy.artifacts.pulse import Pulse
from proxy.control import Control, HelloMessage
from proxy.dial import Dialler
from proxy.front import Front
from proxy.inspect import Inspector
from proxy.records import Records
from proxy.resolver import ResolverProtocol
from proxy.sandboxes import Sandboxes
from proxy.synthetic import Hints, Synthetic
from proxy.tidy import keep_tidy

log = logging.getLogger("proxy")


@dataclass(frozen=True, slots=True)
class Shared:
    """What all processes of one filter have in common, made by the master before it forks."""

    tcp: socket.socket
    dns: socket.socket
    hints: Hints
    hosts: dict[str, list[str]]
    artifacts: socket.socket | None  # takes connections to the artifact cache, one descriptor a datagram
    pulse: Pulse  # the artifact cache's


def run(control: socket.socket, shared: Shared) -> None:
    """Serve until the daemon closes the control socket, or SIGTERM."""
    uvloop.run(_serve(control, shared))


async def _serve(control: socket.socket, shared: Shared) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_and_go_on)
    for each in (control, shared.tcp, shared.dns):
        each.setblocking(False)
    sandboxes, records = Sandboxes(), Records(time.monotonic)
    kept: list[object] = [loop.create_task(keep_tidy())]

    def configure(hello: HelloMessage) -> Callable[[], None]:
        synthetic = Synthetic(hello.names_key, shared.hints)
        dialler = Dialler(shared.hosts, hello.private, hello.host_addresses)
        inspector = Inspector(hello.ca_pem, hello.upstream_trust, dialler, shared.artifacts, shared.pulse)
        front = Front(sandboxes, records, dialler, synthetic, inspector.carry)
        resolver = ResolverProtocol(sandboxes, records, synthetic)

        def serve() -> None:
            front.serve(shared.tcp)
            kept.append(loop.create_task(loop.create_datagram_endpoint(lambda: resolver, sock=shared.dns)))

        return serve

    task = loop.create_task(lines.serve(control, Control(sandboxes, records, configure).apply, records))
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        log.error("the control socket's task failed, ending", exc_info=error)


def _log_and_go_on(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Whatever one connection did, the others go on."""
    log.error("%s", context.get("message"), exc_info=context.get("exception"))  # type: ignore[arg-type]
