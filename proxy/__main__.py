"""The filter process: `python -I -m proxy --control FD --tcp FD --dns FD [--hosts FILE]`; the daemon starts it.

It expects its privileges to be gone already, and refuses to run as root: see launch.py for the command.
"""

import argparse
import asyncio
import faulthandler
import logging
import os
import resource
import signal
import socket
import sys
import time

# Before mitmproxy is imported: it takes SSLKEYLOGFILE and the like as wishes, and nothing of the environment is needed.
os.environ.clear()

import uvloop

from proxy.control import Control, HelloMessage
from proxy.dial import Dialler, hosts_file
from proxy.front import Front
from proxy.inspect import Inspector
from proxy.records import Records
from proxy.resolver import ResolverProtocol
from proxy.sandboxes import Sandboxes

log = logging.getLogger("proxy")


def main() -> int:
    arguments = _arguments()
    _log_to_stderr()
    if os.geteuid() == 0:
        print("filter: running as root is refused: start it by the command that proxy.launch makes", file=sys.stderr)
        return 1
    _limits()
    try:
        hosts = hosts_file(arguments.hosts)
    except OSError as error:
        print(f"filter: reading the hosts file {arguments.hosts} failed: {error.strerror}", file=sys.stderr)
        return 1
    with (
        socket.socket(fileno=arguments.control) as control,
        socket.socket(fileno=arguments.tcp) as tcp,
        socket.socket(fileno=arguments.dns) as dns,
    ):
        uvloop.run(_serve(control, tcp, dns, hosts))
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proxy", description="Hutch's network filter.")
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="Unix stream socket of the daemon")
    parser.add_argument("--tcp", type=int, required=True, metavar="FD", help="TCP socket listening in the gateway")
    parser.add_argument("--dns", type=int, required=True, metavar="FD", help="UDP socket bound in the gateway")
    parser.add_argument("--hosts", metavar="FILE", help="names to resolve by this file, in the format of /etc/hosts")
    return parser.parse_args()


class _Calm(logging.Filter):
    """Lets a limited number of messages through: what a tenant can provoke must not fill the daemon's log."""

    MESSAGES, SECONDS = 20, 10.0

    def __init__(self) -> None:
        super().__init__()
        self._until, self._left = 0.0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        if record.created >= self._until:
            self._until, self._left = record.created + self.SECONDS, self.MESSAGES
        self._left -= 1
        return self._left >= 0


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_Calm())
    logging.basicConfig(level=logging.WARNING, format="filter: %(levelname)s: %(message)s", handlers=[handler])
    faulthandler.enable()


def _limits() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold the CA's key
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(control: socket.socket, tcp: socket.socket, dns: socket.socket, hosts: dict[str, list[str]]) -> None:
    """Serve until the daemon is gone (end of file) or SIGTERM."""
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(_log_and_go_on)
    for each in (control, tcp, dns):
        each.setblocking(False)
    sandboxes, records = Sandboxes(), Records(time.monotonic)
    serving: set[asyncio.Task[object]] = set()

    def start_serving(hello: HelloMessage) -> None:
        dialler = Dialler(hosts, hello.private_names, hello.host_addresses)
        inspector = Inspector(hello.ca_pem, hello.upstream_trust, dialler)
        front = Front(sandboxes, records, dialler, inspector.carry)
        resolver = loop.create_datagram_endpoint(lambda: ResolverProtocol(sandboxes, records), sock=dns)
        serving.update((loop.create_task(front.serve(tcp)), loop.create_task(resolver)))

    task = loop.create_task(Control(sandboxes, records, start_serving).run(control))
    loop.add_signal_handler(signal.SIGTERM, task.cancel)
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()):
        log.error("the control socket's task failed, ending", exc_info=error)
    for task_ in serving:
        task_.cancel()


def _log_and_go_on(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Whatever one connection did, the others go on."""
    log.error("%s", context.get("message"), exc_info=context.get("exception"))  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
