"""A server that tells what it was sent, in many spellings, and a git that wants a password: to test brokered credentials.

Digests say what arrived in a form that no filter can mask. Must not know which values are secret.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

SPELLINGS: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "base64": b64encode,
    "shifted": lambda data: b64encode(b"x" + data),
    "urlsafe": lambda data: urlsafe_b64encode(b"xy" + data),
    "url": lambda data: quote(data, safe="").encode(),
    "hex": lambda data: data.hex().encode(),
}


def digest(text: str) -> str:
    """How it says that it has received this text."""
    return sha256(text.encode()).hexdigest()


async def mirror(request: Request) -> Response:
    """All that was sent; ?as= a spelling, `lower` or `upper` case, `drip` byte by byte, `gzip` compressed unasked."""
    body = (await request.body()).decode()
    sent = {**request.headers, "query": request.url.query, "body": body}
    told = json.dumps({"sent": sent, "digests": {name: digest(value) for name, value in sent.items()}}).encode()
    fields = {"x-echo": request.headers.get("authorization", "none"), "x-query": request.url.query}
    kind = request.query_params.get("as", "raw")
    if kind == "gzip":
        return Response(gzip.compress(told), headers={**fields, "content-encoding": "gzip"})
    if kind in ("lower", "upper"):
        return Response(told.lower() if kind == "lower" else told.upper(), headers=fields)
    if kind == "drip":
        return StreamingResponse(_drip(told), headers={**fields, "content-length": str(len(told))})
    return Response(SPELLINGS[kind](told), headers=fields)


async def _drip(data: bytes) -> AsyncIterator[bytes]:
    for at in range(len(data)):
        yield data[at : at + 1]


class Guarded:
    """An application for those who come with Basic credentials whose password has this digest."""

    def __init__(self, inner: Any, password_digest: str) -> None:
        self._inner, self._digest = inner, password_digest

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scheme, _, text = Request(scope).headers.get("authorization", "").partition(" ")
        password = b64decode(text).decode().partition(":")[2] if scheme == "Basic" else ""
        if digest(password) == self._digest:
            await self._inner(scope, receive, send)
        else:
            refusal = PlainTextResponse("who are you?\n", 401, {"www-authenticate": "Basic"})
            await refusal(scope, receive, send)


async def farewell(socket: WebSocket) -> None:
    """Tells in a message, and then as the reason of its end, what it was asked with."""
    await socket.accept()
    told = socket.headers.get("authorization", "none")
    await socket.send_text(f"you are {told}")
    await socket.close(4000, told)


async def start_broken(host: str, pem: Path) -> asyncio.Server:
    """On port 8443, a server whose answers are no HTTP, and hold what it was asked with. The path says in which way."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return await asyncio.start_server(_broken, host, 8443, ssl=context)


async def _broken(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    key = next(line.partition(": ")[2] for line in head.split("\r\n") if line.lower().startswith("x-key"))
    answers = {
        "/line": f"HTTP/1.1 200 OK\r\nno field but {key}\r\n\r\n",
        "/status": f"HTTP/1.1 {key} OK\r\n\r\n",
        "/version": f"{key} 200 OK\r\n\r\n",
        "/length": f"HTTP/1.1 200 OK\r\ncontent-length: {key}\r\n\r\n",
        "/field": f"HTTP/1.1 200 OK\r\nx {key}: 1\r\ncontent-length: 0\r\n\r\n",
        "/early": f"HTTP/1.1 103 Early Hints\r\nlink: {key}\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        "/cut": f"HTTP/1.1 200 OK\r\nx-key: {key}",
    }
    writer.write(answers[head.split()[1]].encode())
    writer.close()


GIT_TOKEN = "glpat-Tz7Yq2Ws9Kd4Rf6Vb1Nm"


def routes(git: Any) -> list[BaseRoute]:
    """For a server; `git` is the application behind the guard."""
    return [
        Route("/mirror", mirror, methods=["GET", "POST", "PUT"]),
        Route("/mirror/{rest:path}", mirror, methods=["GET", "POST", "PUT"]),
        WebSocketRoute("/farewell", farewell),
        Mount("/private", Guarded(git, digest(GIT_TOKEN))),
    ]
