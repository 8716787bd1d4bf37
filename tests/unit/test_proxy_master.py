"""The master's forks: what a child holds, and that another follows it. Must not start a filter."""

from __future__ import annotations

import json
import os
import socket

from proxy.master import Master, Role


def _report(control: socket.socket) -> None:
    control.sendall(json.dumps([fd for fd in range(1024) if os.path.lexists(f"/proc/self/fd/{fd}")]).encode())


def _children(ours: socket.socket, count: int) -> list[tuple[str, set[int]]]:
    """Kind and open descriptors of the first children, as each tells of itself."""
    found = []
    for _ in range(count):
        told, fds, _, _ = socket.recv_fds(ours, 4096, 2)
        with socket.socket(fileno=fds[0]) as stream:
            found.append((json.loads(told)["kind"], set(json.loads(stream.recv(65_536)))))
        os.close(fds[1])
    return found


def test_a_process_holds_nothing_of_another_kind() -> None:
    one, other = os.pipe()
    control, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    roles = [Role("a", 0, _report, (one,)), Role("b", 0, _report, (other,))]
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            Master(control, roles).run()
            os._exit(0)
        master = control.fileno()
        control.close()
        found = _children(ours, 4)  # each a second time, after its end
    os.waitpid(pid, 0)
    assert sorted(kind for kind, _ in found) == ["a", "a", "b", "b"]
    for kind, fds in found:
        assert (one in fds, other in fds) == (kind == "b", kind == "a")
        assert master not in fds, "the daemon would not see the master's end"
    os.close(one)
    os.close(other)
