"""Two sandboxes of one daemon, side by side: nothing that one makes or serves is to be found in the other.

Judged on the side that would be reached, too: a packet that leaks one way can't be seen by its sender.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import pytest

from tests.support import tasks
from tests.support.daemon import Daemon

LEAVE = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
assert libc.shmget(4242, 4096, 0o1666) >= 0 and libc.semget(4242, 1, 0o1666) >= 0 and libc.msgget(4242, 0o1666) >= 0
assert libc.syscall(240, b"escape", os.O_CREAT | os.O_RDWR, 0o666, None) >= 0
open("/dev/shm/escape", "w").write("x")
abstract = socket.socket(socket.AF_UNIX); abstract.bind("\\0escape"); abstract.listen()
tcp = socket.create_server(("0.0.0.0", 8000)); udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(("0.0.0.0", 9999))
route = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); route.connect(("1.1.1.1", 9))
print(route.getsockname()[0], flush=True)
sys.stdin.readline()  # until the other one has tried
def arrived(sock, take):
    sock.settimeout(0.2)
    count = 0
    while True:
        try: take(); count += 1
        except TimeoutError: return count
print(json.dumps([arrived(abstract, abstract.accept), arrived(tcp, tcp.accept), arrived(udp, lambda: udp.recv(99))]))
"""
FIND = """
import ctypes, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
found = []
for name, call in (("shm", lambda: libc.shmget(4242, 0, 0)), ("sem", lambda: libc.semget(4242, 0, 0)),
                   ("msg", lambda: libc.msgget(4242, 0)), ("mq", lambda: libc.syscall(240, b"escape", os.O_RDWR, 0, None))):
    if call() >= 0: found.append(name)
if os.path.exists("/dev/shm/escape"): found.append("file")
def reach(family, kind, address):
    with socket.socket(family, kind) as sock:
        sock.settimeout(0.5)
        try: sock.connect(address); sock.send(b"escape"); sock.recv(10)
        except OSError: pass
reach(socket.AF_UNIX, socket.SOCK_STREAM, "\\0escape")
reach(socket.AF_INET, socket.SOCK_STREAM, (sys.argv[1], 8000))
reach(socket.AF_INET, socket.SOCK_DGRAM, (sys.argv[1], 9999))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def pair(daemon: Daemon) -> Iterator[tuple[str, str]]:
    unrestricted = {"agent": {"access": "unrestricted"}}
    with tasks.running(daemon, network=unrestricted) as one, tasks.running(daemon, network=unrestricted) as other:
        yield one, other


@pytest.mark.holds(
    "a neighbour's objects and servers", "ipc, network and mount namespaces; links lead to the gateway only"
)
def test_nothing_of_one_is_found_in_the_other(daemon: Daemon, pair: tuple[str, str]) -> None:
    one, other = pair
    with daemon.client.exec(one, ["python3", "-c", LEAVE], stdin=True) as stream:
        told = iter(stream)
        started, first = next(told), next(told)
        address = base64.b64decode(first["data"]).decode().strip()
        here = json.loads(tasks.execute(daemon, one, "python3", "-c", FIND, "127.0.0.1").stdout)
        there = json.loads(tasks.execute(daemon, other, "python3", "-c", FIND, address).stdout)
        daemon.client.exec_stdin(started["exec"], iter([b"\n"]))
        arrived = json.loads(tasks.collect(told).stdout)
    assert here == ["shm", "sem", "msg", "mq", "file"], "where they were made they are found: the search works"
    assert there == []
    assert arrived == [1, 1, 1], "what came to the three servers came from their own sandbox"


@pytest.mark.holds("a neighbour's identity", "a range of host ids for each running sandbox")
def test_no_host_id_is_shared(daemon: Daemon, pair: tuple[str, str]) -> None:
    ranges = {tasks.execute(daemon, task, "cat", "/proc/self/uid_map").text for task in pair}
    assert len(ranges) == 2
