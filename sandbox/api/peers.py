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

from sandbox.api.bounds import FIRST_REQUEST, Connections
from sandbox.core.access import User

_SO_PEERGROUPS: Final = 59
_GROUPS: Final = 1024  # bytes, of four for each: as much as Python takes
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid
_NOBODY: Final = User(2**32 - 1)  # (uid_t)-1, which no process has


_connections: Final = Connections()


class PeerProtocol(HttpToolsProtocol):
    """HTTP, each request of which knows whose connection it came by. Of other users than root it takes a bounded number, and none
    that says nothing."""

    _peer: User = _NOBODY
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel before anything is read."""
        super().connection_made(transport)
        found = _peer(transport.get_extra_info("socket").fileno())
        self._peer = found["user"]
        self.app_state: dict[str, Any] = {**self.app_state, **found}
        if not _connections.opened(self._peer.uid):
            transport.abort()
        elif not self._peer.is_root:
            self._waiting = self.loop.call_later(FIRST_REQUEST, transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what was counted."""
        self._heard()
        if self._peer is not _NOBODY:
            _connections.closed(self._peer.uid)
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        """The request has come."""
        self._heard()
        super().on_headers_complete()

    def _heard(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


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
