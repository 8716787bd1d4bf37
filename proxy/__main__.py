"""The filter: `python -I -m proxy --control FD --tcp FD --dns FD [--workers N] [--artifacts FD] [--hosts FILE]`.

The daemon starts it. It expects its privileges to be gone already, and refuses to run as root: see launch.py.
"""

import argparse
import faulthandler
import logging
import os
import resource
import socket
import sys
from functools import partial

# Before mitmproxy is imported: it takes SSLKEYLOGFILE and the like as wishes, and nothing of the environment is needed.
os.environ.clear()
# A look-up that is given up here goes on in its thread, until the system gives up too: not for half a minute.
os.environ["RES_OPTIONS"] = "timeout:3 attempts:2"

import uvloop

from proxy import worker
from proxy.artifacts import serve as artifacts
from proxy.artifacts.pulse import Pulse
from proxy.dial import hosts_file
from proxy.master import Master, Role
from proxy.synthetic import Hints


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
    listening = socket.socket(fileno=arguments.tcp), socket.socket(fileno=arguments.dns)
    # The workers' end and the cache's of a socket over which connections are handed on.
    to_artifacts, from_workers = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    to_artifacts.setblocking(False)  # a cache that takes no connections must not stop those who hand them on
    directory: int | None = arguments.artifacts
    pulse = Pulse()
    shared = worker.Shared(*listening, Hints(), hosts, None if directory is None else to_artifacts, pulse)
    # What a sandbox's bytes may take over has no way to the cache's files, nor the cache one to the gateway.
    caches = (from_workers.fileno(), *([] if directory is None else [directory]))
    roles = [Role("worker", number, partial(worker.run, shared=shared), caches) for number in range(arguments.workers)]
    if directory is not None:
        run = partial(_run_artifacts, from_workers, directory, hosts, pulse)
        roles.append(Role("artifacts", 0, run, (to_artifacts.fileno(), *(each.fileno() for each in listening))))
    Master(socket.socket(fileno=arguments.control), roles).run()
    return 0


def _run_artifacts(
    handoff: socket.socket, directory: int, hosts: dict[str, list[str]], pulse: Pulse, control: socket.socket
) -> None:
    uvloop.run(artifacts.run(control, handoff, directory, hosts, pulse))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m proxy", description="Hutch's network filter.")
    parser.add_argument("--control", type=int, required=True, metavar="FD", help="Unix packet socket of the daemon")
    parser.add_argument("--tcp", type=int, required=True, metavar="FD", help="TCP socket listening in the gateway")
    parser.add_argument("--dns", type=int, required=True, metavar="FD", help="UDP socket bound in the gateway")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="how many (one per core)")
    parser.add_argument("--artifacts", type=int, metavar="FD", help="directory that the artifact cache may write to")
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


if __name__ == "__main__":
    sys.exit(main())
