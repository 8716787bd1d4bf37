"""Who is at the other end of a connection: the kernel says it of a Unix socket, once, when the connection is made.

Fails closed: of whom the kernel says nothing is nobody, and may nothing.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
import struct
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from sandbox.core.access import User

_SO_PEERGROUPS: Final = 59
_GROUPS: Final = 1024  # bytes, of four for each: as much as Python takes
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_NOBODY: Final = User(2**32 - 1)  # (uid_t)-1, which no process has


class PeerProtocol(HttpToolsProtocol):
    """HTTP, each request of which knows whose connection it came by."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel before anything is read."""
        super().connection_made(transport)
        self.app_state: dict[str, Any] = {**self.app_state, **_peer(transport.get_extra_info("socket").fileno())}


def _peer(connection: int) -> dict[str, Any]:
    with socket.socket(fileno=os.dup(connection)) as peer:
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        groups = array.array("I")
        with contextlib.suppress(
            OSError
        ):  # he has more than fit: those of the kernel's that we can't read give him nothing
            groups.frombytes(peer.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS))
    pid, uid, gid = _CREDENTIALS.unpack(credentials)
    return {"user": User(uid, frozenset((gid, *groups))), "pid": pid}


def of_request(request: Request) -> User:
    """The user who sent a request."""
    found: User = getattr(request.state, "user", _NOBODY)
    return found


type Peer = Annotated[User, Depends(of_request)]
