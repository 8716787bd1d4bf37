"""The servers of tests/support/internet.py, as one program in a network namespace: what real programs talk to.

`python internet_servers.py DIRECTORY` serves DIRECTORY/files and DIRECTORY/git with DIRECTORY/server.pem and says so on stdout.
Must not know anything of filters or sandboxes: to it, they are clients like all others.

    .251  HTTP/1.1, HTTP/2, WebSocket, server-sent events, ranges, git    .252  gRPC    .253  git over ssh
    .254  TLS 1.2 only    .255  TLS 1.3 only
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncssh
import grpc
from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.websockets import WebSocket, WebSocketDisconnect

from tests.support import mirror

NETWORK = "198.51.100"
CHUNK = bytes(range(256)) * 256


async def hello(request: Request) -> Response:
    agent = request.headers.get("user-agent", "").split("/")[0]
    return PlainTextResponse(f"hello {request.url.hostname} HTTP/{request.scope['http_version']} {agent}\n")


async def give(request: Request) -> Response:
    count = request.path_params["count"]

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, count, len(CHUNK)):
            yield CHUNK[: count - start]

    return StreamingResponse(chunks(), headers={"content-length": str(count)})


async def take(request: Request) -> Response:
    total = 0
    with suppress(ClientDisconnect):
        async for chunk in request.stream():
            total += len(chunk)
    return PlainTextResponse(f"got {total}\n")


async def events(request: Request) -> Response:
    """Five server-sent events, each with the moment at which it was sent."""

    async def some() -> AsyncIterator[str]:
        for number in range(5):
            yield f"id: {number}\ndata: {time.time()}\n\n"
            await asyncio.sleep(0.4)

    return StreamingResponse(some(), media_type="text/event-stream")


async def echo(socket: WebSocket) -> None:
    await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
    with suppress(WebSocketDisconnect, KeyError):
        while (message := await socket.receive())["type"] == "websocket.receive":
            await socket.send({**message, "type": "websocket.send"})


async def moved(request: Request) -> Response:
    return RedirectResponse(f"https://{request.query_params['to']}/")


class Git:
    """git http-backend as an ASGI application."""

    def __init__(self, top: Path) -> None:
        self._env = {
            "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(top), "GIT_HTTP_EXPORT_ALL": "1", "GIT_CONFIG_COUNT": "2",
            "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            "GIT_CONFIG_KEY_1": "http.receivepack", "GIT_CONFIG_VALUE_1": "true",
        }  # fmt: skip

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        request = Request(scope, receive)
        given = request.headers
        env = self._env | {
            "PATH_INFO": scope["path"].removeprefix(scope["root_path"]),
            "QUERY_STRING": request.url.query, "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": given.get("content-type", ""), "REMOTE_ADDR": "192.0.2.200",
            "HTTP_CONTENT_ENCODING": given.get("content-encoding", ""), "HTTP_GIT_PROTOCOL": given.get("git-protocol", ""),
        }  # fmt: skip
        body = await request.body()
        pipe = asyncio.subprocess.PIPE
        backend = await asyncio.create_subprocess_exec(
            "git", "http-backend", env={**env, "CONTENT_LENGTH": str(len(body))}, stdin=pipe, stdout=pipe
        )
        head, _, content = (await backend.communicate(body))[0].partition(b"\r\n\r\n")
        fields = dict(line.decode().split(": ", 1) for line in head.split(b"\r\n") if line)
        status = int(fields.pop("Status", "200").split()[0])
        await Response(content, status, fields)(scope, receive, send)


def application(directory: Path) -> Starlette:
    anything = ["GET", "POST", "PUT", "DELETE", "OPTIONS"]
    routes = [
        Route("/", hello, methods=anything),
        Route("/hello/{who}", hello, methods=anything),
        Route("/bytes/{count:int}", give),
        Route("/moved", moved),
        Route("/upload", take, methods=["POST", "PUT"]),
        Route("/events", events),
        WebSocketRoute("/echo", echo),
        Mount("/files", StaticFiles(directory=directory / "files")),
        Mount("/git", Git(directory / "git")),
        *mirror.routes(Git(directory / "git")),
    ]
    return Starlette(routes=routes)


class Https(Config):
    """hypercorn on one address: plain HTTP on port 80, and TLS on 443 of these versions."""

    def __init__(self, host: int, pem: Path, least: ssl.TLSVersion, most: ssl.TLSVersion) -> None:
        super().__init__()
        self.bind, self.insecure_bind = [f"{NETWORK}.{host}:443"], [f"{NETWORK}.{host}:80"]
        self.certfile = self.keyfile = str(pem)
        self.keep_alive_timeout = self.graceful_timeout = 0.5
        self.errorlog = None
        self._versions = least, most

    def create_ssl_context(self) -> ssl.SSLContext | None:
        context = super().create_ssl_context()
        assert context is not None
        context.minimum_version, context.maximum_version = self._versions
        return context


class Calls(grpc.GenericRpcHandler):
    """gRPC without a schema: messages are bytes, and each call ends with a trailer of its own."""

    def service(self, details: Any) -> Any:
        makers = {
            "/test.Echo/Unary": (grpc.unary_unary_rpc_method_handler, self._one),
            "/test.Echo/Down": (grpc.unary_stream_rpc_method_handler, self._down),
            "/test.Echo/Up": (grpc.stream_unary_rpc_method_handler, self._up),
            "/test.Echo/Both": (grpc.stream_stream_rpc_method_handler, self._both),
            "/test.Echo/Fail": (grpc.unary_unary_rpc_method_handler, self._fail),
        }
        make, method = makers[details.method]
        return make(method)

    async def _one(self, request: bytes, context: Any) -> bytes:
        context.set_trailing_metadata((("x-trailer", "one"),))
        return request[::-1]

    async def _down(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            yield f"{number} {time.time()}".encode()
            await asyncio.sleep(0.2)
        context.set_trailing_metadata((("x-trailer", "down"),))

    async def _up(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        total = 0
        async for request in requests:
            total += len(request)
        context.set_trailing_metadata((("x-trailer", "up"),))
        return str(total).encode()

    async def _both(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request[::-1]
        context.set_trailing_metadata((("x-trailer", "both"),))

    async def _fail(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked", (("x-trailer", "fail"),))
        return b""


async def start_grpc(pem: bytes) -> grpc.aio.Server:
    server = grpc.aio.server(handlers=[Calls()])
    server.add_secure_port(f"{NETWORK}.252:443", grpc.ssl_server_credentials([(pem, pem)]))
    await server.start()
    return server


class Anybody(asyncssh.SSHServer):
    def begin_auth(self, username: str) -> bool:
        return False  # let in without


async def start_ssh(top: Path) -> asyncssh.SSHAcceptor:
    async def run(process: asyncssh.SSHServerProcess[bytes]) -> None:
        pipe = asyncio.subprocess.PIPE
        command = (process.command or "true").replace("'/", f"'{top}/")
        child = await asyncio.create_subprocess_shell(command, stdin=pipe, stdout=pipe, stderr=pipe)
        await process.redirect(stdin=child.stdin, stdout=child.stdout, stderr=child.stderr)
        process.exit(await child.wait())

    keys = [asyncssh.generate_private_key("ssh-ed25519")]
    return await asyncssh.listen(
        f"{NETWORK}.253", 22, server_factory=Anybody, server_host_keys=keys, process_factory=run, encoding=None
    )


async def main(directory: Path) -> None:
    pem, stop = directory / "server.pem", asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    app, two, three = application(directory), ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    configs = [Https(251, pem, two, three), Https(254, pem, two, two), Https(255, pem, three, three)]
    calls, shells = await start_grpc(pem.read_bytes()), await start_ssh(directory / "git")
    broken = await mirror.start_broken(f"{NETWORK}.251", pem)
    async with asyncio.TaskGroup() as group:
        for config in configs:
            group.create_task(serve(app, config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
        print("ready", flush=True)
        await stop.wait()
        await calls.stop(0)
        shells.close()
        broken.close()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
