"""Who is at the other end of a connection: the kernel says it of a Unix socket, once, when the connection is made.

Fails closed: from whom the kernel says nothing of, nothing is taken.
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

from sandbox.api.bounds import HEAD, PATIENCE, Connections
from sandbox.core.access import User
from sandbox.core.errors import Forbidden

_SO_PEERGROUPS: Final = 59
_GROUPS: Final = 1024  # bytes, of four for each: as much as Python takes
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid


_connections: Final = Connections()


class PeerProtocol(HttpToolsProtocol):
    """HTTP, each request of which knows whose connection it came by. Of other users than root it takes a bounded number, whose
    requests begin in time and have a bounded head."""

    _user: User | None = None
    _waiting: asyncio.TimerHandle | None = None
    _head = 0  # bytes of a head that has not come to its end

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Ask the kernel before anything is read."""
        super().connection_made(transport)
        try:
            found = _peer(transport.get_extra_info("socket").fileno())
        except OSError:  # no descriptor is left: of whom nothing is known nothing is taken
            return transport.abort()
        self._user = found["user"]
        self.app_state: dict[str, Any] = {**self.app_state, **found}
        if not _connections.opened(found["user"].uid):
            return transport.abort()
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what was counted."""
        self._heard()
        if self._user is not None:
            _connections.closed(self._user.uid)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came; of a head that has no end not without end."""
        super().data_received(data)
        if self._waiting is not None:
            self._head += len(data)
            if self._head > HEAD:
                self.transport.abort()

    def on_message_begin(self) -> None:
        """Another request begins."""
        self._wait()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head has come."""
        self._heard()
        super().on_headers_complete()

    def _wait(self) -> None:
        if self._waiting is None and self._user is not None and not self._user.is_root:
            self._head = 0
            self._waiting = self.loop.call_later(PATIENCE, self.transport.abort)

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
    """The user who sent a request. Raises Forbidden where nobody knows."""
    found: User | None = getattr(request.state, "user", None)
    if found is None:
        raise Forbidden("cannot tell who asks", "connect again")
    return found


type Peer = Annotated[User, Depends(of_request)]
