"""Clients that ask through the filter for what is allowed and for what is not, over new connections, while it is hurt.

Must not judge: it tells what each of them was answered, and when; what arrived is seen at the upstream.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.filter_lab import PUBLIC, Lab
from tests.support.tasks import wait_for

# What it must not get has the path /denied: a denied name by every way to ask for one, and an allowed name's real address.
LOAD = """
import json, socket, ssl, sys, threading, time
public, trust, asks, over = sys.argv[1], ssl.create_default_context(), [], threading.Event()
address = socket.gethostbyname("up.test")

def get(to, host, path, tls):
    connection = socket.create_connection((to, 443 if tls else 80), 15)
    with trust.wrap_socket(connection, server_hostname=host) if tls else connection as stream:
        stream.sendall(f"GET {path} HTTP/1.1\\r\\nHost: {host}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        answer = b""
        while not answer.endswith(b"None\\n") and (piece := stream.recv(9999)):
            answer += piece
    return answer[9:12].decode() if answer.endswith(b"\\n") else "broken off"

def go_on(allowed, to, *what):
    while not over.is_set():
        began = time.monotonic()
        try:
            outcome = get(to or socket.gethostbyname(what[0]), *what)
        except OSError as error:
            outcome = repr(error)
        asks.append((allowed, began, time.monotonic(), outcome))
        over.wait(0.02)

ways = 2 * [(True, address, "up.test", "/", tls) for tls in (False, True)]
ways += [(False, to, host, "/denied", tls) for tls in (False, True)
         for to, host in ((address, "other.test"), ("", "other.test"), (public, "up.test"))]
threads = [threading.Thread(target=go_on, args=way) for way in ways]
for thread in threads:
    thread.start()
print("going", flush=True)
sys.stdin.readline()
over.set()
for thread in threads:
    thread.join()
print(json.dumps(asks))
"""


@dataclass(frozen=True)
class Ask:
    """One request: when it began and ended (time.monotonic()), and the status of a whole answer, or what went wrong."""

    allowed: bool
    began: float
    ended: float
    outcome: str


class Load:
    """Clients in sandbox 0 that ask without pause until `end`."""

    def __init__(self, net: Lab) -> None:
        self._client = net.popen(LOAD, PUBLIC)
        assert self._client.stdout is not None
        assert self._client.stdout.readline() == "going\n"

    def end(self) -> list[Ask]:
        output, errors = self._client.communicate("\n", timeout=40)
        assert errors == ""
        return [Ask(*ask) for ask in json.loads(output)]

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.kill()
        self._client.communicate(timeout=10)


def kill(*pids: int) -> float:
    """Kill them all; the time when that was done."""
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def wait_for_others(net: Lab, former: list[int], count: int = 2, seconds: float = 20) -> float:
    """Wait until workers serve that are none of the former ones; the time when they did."""
    deadline = time.monotonic() + seconds
    while len(set(net.filter.workers()) - set(former)) < count:
        assert time.monotonic() < deadline, f"no {count} other workers serve"
        time.sleep(0.005)
    return time.monotonic()


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    """They run no further in the block; afterwards those that still exist go on."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        for pid in pids:
            wait_for(lambda pid=pid: state(pid) in "TZ", f"{pid} to stop", 5)
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def state(pid: int) -> str:
    """The letter that /proc has for it; Z also when there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def wait_for_the_end(pids: list[int], seconds: float = 10) -> None:
    wait_for(lambda: all(state(pid) == "Z" for pid in pids), f"the end of {pids}", seconds)
