"""The master: forks the filter's processes, and forks another at once where one has died. It decides nothing.

    daemon ══control══ master ─fork─┬─ worker 0 ══ its own stream ══ daemon
                                    ├─ worker 1 ══ …
                                    └─ artifacts ══ …

It has imported and allocated everything that they need, so a fork costs milliseconds and its memory is shared. It holds
the listening sockets, never an event loop, thread or connection. It tells the daemon of each process in one packet,
with the other end of that process's control stream and a pidfd, by which the daemon may kill it and nothing else.
"""

import gc
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

log = logging.getLogger("proxy")

# One that dies at once is started again ever more slowly; one that has lived this long, at once.
_LIVED, _FIRST_PAUSE, _LAST_PAUSE = 2.0, 0.05, 5.0


@dataclass(frozen=True, slots=True)
class Role:
    """A kind of process: its name, which of its kind it is, and what it runs with its end of the control stream.

    `closed`: descriptors that are other kinds' only.
    """

    kind: str
    number: int
    run: Callable[[socket.socket], None]
    closed: tuple[int, ...] = ()


@dataclass(slots=True)
class _Child:
    role: Role
    pid: int
    pidfd: int
    started: float


class Master:
    def __init__(self, control: socket.socket, roles: list[Role]) -> None:
        self._control, self._roles = control, roles
        self._children: dict[int, _Child] = {}  # by pidfd
        self._pauses: dict[tuple[str, int], float] = {}
        self._due: list[tuple[float, Role]] = []

    def run(self) -> None:
        """Keep the processes running until the daemon closes the control socket. Returns in the master only."""
        gc.collect()
        gc.freeze()  # else the first collection in each child would write to, and so copy, every shared page
        for role in self._roles:
            self._fork(role)
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            for child in self._children.values():
                poll.register(child.pidfd, select.POLLIN)
            ready = {fd for fd, _ in poll.poll(self._timeout())}
            if self._control.fileno() in ready:
                return
            for fd in ready:
                poll.unregister(fd)
                self._bury(self._children.pop(fd))
            self._fork_what_is_due()

    def _timeout(self) -> float | None:
        """Milliseconds until the next process is due."""
        return max(0.0, min(when for when, _ in self._due) - time.monotonic()) * 1000 if self._due else None

    def _bury(self, child: _Child) -> None:
        os.close(child.pidfd)
        _, status = os.waitpid(child.pid, 0)
        lived = time.monotonic() - child.started
        log.warning("%s %d (process %d) has ended: %d", child.role.kind, child.role.number, child.pid, status)
        place = (child.role.kind, child.role.number)
        pause = 0.0 if lived > _LIVED else min(_LAST_PAUSE, max(_FIRST_PAUSE, self._pauses.get(place, 0.0) * 2))
        self._pauses[place] = pause
        self._due.append((time.monotonic() + pause, child.role))

    def _fork_what_is_due(self) -> None:
        now = time.monotonic()
        due, self._due = [role for when, role in self._due if when <= now], [e for e in self._due if e[0] > now]
        for role in due:
            self._fork(role)

    def _fork(self, role: Role) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            try:
                pid = os.fork()
            except OSError as error:  # no memory, or no process left: later, perhaps
                log.error("starting %s %d failed: %s; trying again", role.kind, role.number, error)
                self._due.append((time.monotonic() + 1.0, role))
                return
            if pid == 0:
                ours.close()
                self._become(role, theirs)
            pidfd = os.pidfd_open(pid)
            self._children[pidfd] = _Child(role, pid, pidfd, time.monotonic())
            told = {"event": "process", "kind": role.kind, "number": role.number, "pid": pid}
            socket.send_fds(self._control, [json.dumps(told).encode()], [ours.fileno(), pidfd])

    def _become(self, role: Role, control: socket.socket) -> None:
        """Run the role in the child; never returns."""
        code = 1
        try:
            # Whoever holds the master's socket keeps it open: the daemon must see its end when the master dies.
            self._control.close()
            for fd in (*self._children, *role.closed):
                os.close(fd)
            signal.set_wakeup_fd(-1)
            gc.set_threshold(20_000, 20, 100)  # connections are made and forgotten by the thousand: look less often
            role.run(control)
            code = 0
        except BaseException:
            log.exception("%s %d failed", role.kind, role.number)
        finally:
            sys.stderr.flush()
            os._exit(code)
