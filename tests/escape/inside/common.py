"""The tenant's toolbox: attacks register here, each runs in a child of its own, and what each got is one JSON object.

Standard library only: all files of this directory are copied into a sandbox and run there. Must not decide what is a breach of
which promise: an attack tells what it got, "" for nothing.
"""

from __future__ import annotations

import base64
import ctypes
import errno
import json
import os
import signal
import struct
import sys
import traceback
from collections.abc import Callable
from typing import Any

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
SECONDS = 30

Attack = Callable[[], str]
ATTACKS: dict[str, Attack] = {}
ASKED: dict[str, Any] = {}


def attack(function: Attack) -> Attack:
    """Register an attack under its name. It returns what it got; an OSError on the way means that it got nothing."""
    ATTACKS[function.__name__] = function
    return function


def syscall(number: int, *arguments: Any) -> int:
    """A raw call; raises OSError."""
    ctypes.set_errno(0)
    result = int(LIBC.syscall(ctypes.c_long(number), *(_argument(value) for value in arguments)))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def _argument(value: Any) -> Any:
    return ctypes.c_long(value) if isinstance(value, int) else value


def succeeded(attempts: dict[str, Callable[[], object]]) -> str:
    """The names of those attempts that worked."""
    return ", ".join(name for name, attempt in attempts.items() if works(attempt))


def works(attempt: Callable[[], object]) -> bool:
    try:
        attempt()
    except OSError:
        return False
    return True


def reached(attempts: dict[str, Callable[[], object]]) -> str:
    """The names of those calls that the kernel began to work on: anything but a flat refusal."""
    found = []
    for name, attempt in attempts.items():
        try:
            attempt()
        except OSError as error:
            if error.errno in (errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
                continue
            found.append(f"{name} ({errno.errorcode.get(error.errno or 0, '?')})")
        else:
            found.append(name)
    return ", ".join(found)


def read(path: str, size: int = 65536) -> bytes:
    with open(path, "rb") as file:
        return file.read(size)


def in_child(function: Attack) -> dict[str, str]:
    """{"got": text} or {"error": text} of an attack that may change its process as it likes."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        signal.alarm(SECONDS)
        try:
            answer = {"got": function()}
        except OSError:
            answer = {"got": ""}
        except BaseException:
            answer = {"error": traceback.format_exc()[-1500:]}
        os.write(writer, json.dumps(answer).encode()[:60000])
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as answers:
        said = answers.read()
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    found: dict[str, str] = json.loads(said) if said else {"error": f"the attack was ended by signal {-status}"}
    return found


def main() -> None:
    ASKED.update(json.loads(base64.b64decode(sys.argv[1])))  # as text it would be found where its words are looked for
    names = ASKED.get("only") or list(ATTACKS)
    print(json.dumps({name: in_child(ATTACKS[name]) for name in names}))


def netlink(kind: int, body: bytes, flags: int = 0x0405) -> None:
    """One request to NETLINK_ROUTE; raises the kernel's error."""
    import socket

    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as channel:
        channel.settimeout(5)
        channel.sendto(struct.pack("=IHHII", 16 + len(body), kind, flags, 1, 0) + body, (0, 0))
        code = struct.unpack_from("=i", channel.recv(4096), 16)[0]
        if code:
            raise OSError(-code, os.strerror(-code))


def netlink_attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
