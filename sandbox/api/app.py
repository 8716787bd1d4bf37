"""The HTTP API: each handler turns bytes into a frozen value, asks the core, and turns its answer or error into a response.

No state and no decisions. Here are the errors and the host's routes; every noun has a file of its own. The OpenAPI document is
at /openapi.json.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import asdict
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from rootfs.errors import ImageError, UnknownImage
from sandbox.api import (
    cache_routes,
    environment_routes,
    exec_routes,
    image_routes,
    network_routes,
    secret_routes,
    snapshot_routes,
    task_routes,
    usage_routes,
)
from sandbox.api.peers import Peer
from sandbox.api.requests import CollectRequest
from sandbox.api.resolving import first_error
from sandbox.api.services import Services
from sandbox.core import errors, gc
from sandbox.host import doctor
from sandbox.host.errors import HostError, OutOfResources

_NOUNS = (
    image_routes, task_routes, exec_routes, network_routes, secret_routes, environment_routes, snapshot_routes,
    cache_routes, usage_routes,
)  # fmt: skip
_STATUS = {
    errors.BadRequest: 400, errors.Forbidden: 403, errors.NotFound: 404, errors.Conflict: 409, errors.Busy: 503,
    errors.NotStored: 507,
}  # fmt: skip


def make_app(services: Services) -> FastAPI:
    """The application of one daemon."""
    app = FastAPI(title="Hutch", version=version("hutch"), description="Tasks in fresh, isolated environments.")
    _handle_errors(app)
    _add_host_routes(app, services)
    for noun in _NOUNS:
        noun.add_routes(app, services)
    return app


def _handle_errors(app: FastAPI) -> None:
    @app.exception_handler(errors.TaskError)
    async def task_error(_: Request, error: Exception) -> Response:
        return _error(next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500), error)

    @app.exception_handler(HostError)
    async def host_error(_: Request, error: Exception) -> Response:
        return _error(503 if isinstance(error, OutOfResources) else 500, error)

    @app.exception_handler(ImageError)
    async def image_error(_: Request, error: Exception) -> Response:
        return _error(404 if isinstance(error, UnknownImage) else 400, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        place, reason = first_error(error.errors())
        return _error(
            400,
            errors.BadRequest(f"{place}: {reason}" if place else reason, "see the command's --help, or /openapi.json"),
        )

    @app.exception_handler(StarletteHTTPException)
    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        return _error(error.status_code, errors.TaskError(error.detail, "see /openapi.json"))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: Exception) -> Response:
        return _error(400, error)  # to nobody; but no fault that the log should tell of

    @app.exception_handler(Exception)
    async def fault(_: Request, error: Exception) -> Response:
        return _error(
            500, errors.TaskError(f"the daemon failed: {error!r}", "please report this; its log has the details")
        )


def _error(status: int, error: Exception) -> JSONResponse:
    message = getattr(error, "message", str(error))
    return JSONResponse({"error": {"message": message, "remedy": getattr(error, "remedy", "")}}, status)


class _Examined:
    """What the doctor found. He starts a sandbox of his own: one at a time, and all who ask meanwhile have the same answer."""

    def __init__(self) -> None:
        self._running: asyncio.Task[list[doctor.Check]] | None = None

    async def checks(self) -> list[doctor.Check]:
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(asyncio.to_thread(doctor.checks))
        return await asyncio.shield(self._running)


def _add_host_routes(app: FastAPI, services: Services) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Whether the daemon answers."""
        return JSONResponse({"status": "ok", "version": version("hutch"), "pid": os.getpid()})

    examined = _Examined()

    @app.get("/doctor")
    async def examine() -> Response:
        """What this host can and can't do."""
        return JSONResponse({"checks": [asdict(check) for check in await examined.checks()]})

    @app.post("/gc")
    async def collect(body: CollectRequest, user: Peer) -> Response:
        """Drop expired snapshots, unused layers and old tasks, and what else is asked for."""
        user.must_be_root("collect garbage of all users")
        return JSONResponse(await gc.collect(services.runtime, services.scheduler, body.wanted()))
