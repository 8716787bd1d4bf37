"""How plans and answers cross the sockets between the daemon, the spawner, keepers and processes that stand by.

plan:     one message; its first descriptor is a memfd with the plan's JSON, the others are what the plan refers to by index
failure:  {"step", "subject", "errno", "message"}, on a status pipe or a standby's socket
"""

from __future__ import annotations

import array
import json
import os
import socket

from sandbox.inside.plan import JoinPlan, Plan, decode, encode

READY = b"ready"  # of a process that stands by, before its plan
EXEC = b"+"  # on the status pipe: exec comes next. A failure may follow; without it, the process was killed before
GO = b"go"  # to a sandbox's pid 1, after its plan: nothing of the tenant runs before
_MAX_FDS = 253  # SCM_MAX_FD of the kernel


def receive(channel: socket.socket) -> list[int]:
    """The descriptors of the next message, close-on-exec; none when the other side has hung up."""
    size = array.array("i").itemsize
    _, ancillary, _, _ = channel.recvmsg(4096, socket.CMSG_LEN(_MAX_FDS * size), socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % size])
    return list(fds)


def read_plan(fds: list[int]) -> Plan:
    """The plan of a message."""
    return decode(os.pread(fds[0], os.fstat(fds[0]).st_size, 0))


def rehearse() -> None:
    """Read a plan of no meaning: the memory that this takes is shared with the parent until it is written to, which is now."""
    fd = os.memfd_create("rehearsal", os.MFD_CLOEXEC)
    os.write(fd, encode(JoinPlan(0, (0, 0), ("",), {"": ""}, "")))
    read_plan([fd])
    os.close(fd)


def failure(step: str, error: BaseException, subject: str | None = None) -> bytes:
    """What went wrong at `step`."""
    number = error.errno if isinstance(error, OSError) else None
    subject = subject or (error.filename if isinstance(error, OSError) else None)
    return json.dumps({"step": step, "subject": subject, "errno": number, "message": f"{error}"}).encode()
