"""Who changed what, when, from where: a line for every request that isn't a mere look, in a file that root alone can read.

Values of secrets and scripts are in bodies, and no body is written here. A line that can't be written is a warning in the log:
a full disk must not keep anybody from ending a task.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Final

from sandbox.api.bounds import App, Message, Receive, Send
from sandbox.core.model import now

_log = logging.getLogger("hutch")
_LOOKS: Final = ("GET", "HEAD", "OPTIONS")
_SIZE: Final = 32 << 20  # bytes, after which the file is set aside as .1, and that one before it as .2 …
_PATH: Final = 512  # characters
_KEPT: Final = 4


class Audit:
    """The application `app`, whose changing requests are written to `path`."""

    def __init__(self, app: App, path: Path) -> None:
        self._app = app
        self._path = path

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _LOOKS:
            return await self._app(scope, receive, send)
        status = 0

        async def told(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._write(scope, status)  # now: the answer may be a stream that goes on for hours
            await send(message)

        try:
            await self._app(scope, receive, told)
        finally:
            if not status:
                self._write(scope, status)

    def _write(self, scope: Message, status: int) -> None:
        state = scope.get("state", {})
        user = state.get("user")
        line = {
            "at": now(),
            "uid": None if user is None else user.uid,
            "pid": state.get("pid"),
            "method": scope["method"],
            "path": scope["path"][:_PATH],
            "status": status,
        }
        try:
            self._rotate()
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, json.dumps(line).encode() + b"\n")
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("cannot write %s: %s: %s", self._path, error.strerror, line)

    def _rotate(self) -> None:
        if not self._path.exists() or self._path.stat().st_size < _SIZE:
            return
        for number in range(_KEPT - 1, 0, -1):
            older = self._path.with_suffix(f".ndjson.{number}")
            if older.exists():
                older.rename(self._path.with_suffix(f".ndjson.{number + 1}"))
        self._path.rename(self._path.with_suffix(".ndjson.1"))
