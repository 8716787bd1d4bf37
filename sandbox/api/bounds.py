"""How much of the daemon one user may take: bytes of a request, connections, and time until a request's head has come.

root has no bounds of connections: who administers must come through when somebody else takes all that he can get.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[Message, Receive, Send], Awaitable[None]]

BODY: Final = 16 << 20  # bytes; two scripts at their longest, twice
CONNECTIONS: Final = 256  # of one user
PATIENCE: Final = 10.0  # seconds, until a request's head has come
HEAD: Final = 64 << 10  # bytes of a request before its body
_TOO_LARGE: Final = {
    "error": {
        "message": f"the request is larger than {BODY >> 20} MiB",
        "remedy": "keep what is large in the repository",
    }
}


class Bounded:
    """The application `app`, to which no body comes that is too large for memory."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer 413 before the body is read if its length is told, else as soon as it is too long."""
        if scope["type"] != "http" or _is_stream(scope["method"], scope["path"]):
            return await self._app(scope, receive, send)
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or len(length) > 18 or int(length) > BODY:
            return await _refuse(send)
        read, refused = 0, False

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            # As though the client had gone: what the application answers then is replaced below.
            return message if read <= BODY else {"type": "http.disconnect"}

        async def told(message: Message) -> None:
            nonlocal refused
            if read <= BODY:
                await send(message)
            elif not refused:
                refused = True
                await _refuse(send)

        await self._app(scope, bounded, told)


def _is_stream(method: str, path: str) -> bool:
    """Whether a handler reads the body as it comes, and keeps nothing of it in memory."""
    image = method == "PUT" and path.startswith("/images/")
    return image or (method == "POST" and path.startswith("/execs/") and path.endswith("/stdin"))


async def _refuse(send: Send) -> None:
    body = json.dumps(_TOO_LARGE).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Connections:
    """How many each user has."""

    def __init__(self) -> None:
        self._open: Counter[int] = Counter()

    def opened(self, uid: int) -> bool:
        """Count one more; False if it is too many."""
        self._open[uid] += 1
        return uid == 0 or self._open[uid] <= CONNECTIONS

    def closed(self, uid: int) -> None:
        """Count one less."""
        self._open[uid] -= 1
        if self._open[uid] <= 0:
            del self._open[uid]
