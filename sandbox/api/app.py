"""The HTTP API: each handler turns bytes into a frozen value, asks the core, and turns its answer or error into a response.

No state and no decisions. The OpenAPI document is at /openapi.json.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import ClientDisconnect

from rootfs.errors import ImageError, UnknownImage
from rootfs.image import check_name
from sandbox.api.requests import BuildRequest, ExecRequest, ResizeRequest, SignalRequest, TaskRequest
from sandbox.core import errors, gc, journal
from sandbox.core.execs import Execs
from sandbox.core.relay import Relays
from sandbox.core.runtime import Runtime
from sandbox.core.scheduler import Scheduler
from sandbox.host import doctor, jobs
from sandbox.host.errors import HostError, OutOfResources

_NDJSON = "application/x-ndjson"
_STATUS = {
    errors.BadRequest: 400, errors.NotFound: 404, errors.Conflict: 409, errors.Busy: 503, errors.NotStored: 507,
}  # fmt: skip
_IMAGE_TIMEOUT = 6 * 3600.0


@dataclass(frozen=True)
class Services:
    """What handlers may ask."""

    runtime: Runtime
    scheduler: Scheduler
    execs: Execs
    relays: Relays


def make_app(services: Services) -> FastAPI:
    """The application of one daemon."""
    app = FastAPI(title="Hutch", version=version("hutch"), description="Tasks in fresh, isolated environments.")
    _handle_errors(app)
    _add_host_routes(app, services)
    _add_image_routes(app, services)
    _add_task_routes(app, services)
    _add_exec_routes(app, services)
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
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body")
        reason = str(first["msg"]).removeprefix("Value error, ")
        return _error(400, errors.BadRequest(f"{place}: {reason}" if place else reason, "see /openapi.json"))

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


def _add_host_routes(app: FastAPI, services: Services) -> None:
    @app.get("/health")
    async def health() -> Response:
        """Whether the daemon answers."""
        return JSONResponse({"status": "ok", "version": version("hutch"), "pid": os.getpid()})

    @app.get("/doctor")
    async def examine() -> Response:
        """What this host can and can't do."""
        checks = await asyncio.to_thread(doctor.checks)
        return JSONResponse({"checks": [asdict(check) for check in checks]})

    @app.post("/gc")
    async def collect() -> Response:
        """Drop expired snapshots, unused layers and old tasks."""
        return JSONResponse(await gc.collect(services.runtime, services.scheduler))


def _add_image_routes(app: FastAPI, services: Services) -> None:
    runtime = services.runtime

    @app.get("/images")
    async def list_images() -> Response:
        """All images."""
        return JSONResponse({"images": [image.to_dict() for image in runtime.layers.list_images()]})

    @app.get("/images/{name}")
    async def show_image(name: str) -> Response:
        """One image's record."""
        return JSONResponse(runtime.layers.load(name).to_dict())

    @app.delete("/images/{name}", status_code=204)
    async def remove_image(name: str) -> Response:
        """Forget an image; its layers go with the next collection."""
        runtime.layers.remove(name)
        return Response(status_code=204)

    @app.post("/images/build")
    async def build_image(body: BuildRequest) -> Response:
        """Build an image from a recipe; a stream of progress lines that ends in the image's record."""
        check_name(body.name)
        job = {"state": str(runtime.state), "recipe": body.recipe, "name": body.name}
        return _job(services.relays, "rootfs.build_job", job)

    @app.put("/images/{name}")
    async def import_image(name: str, request: Request) -> Response:
        """Import the archive in the request's body; a stream of progress lines that ends in the image's record."""
        check_name(name)
        stack = contextlib.ExitStack()
        try:
            archive = stack.enter_context(runtime.layers.new_staging()) / "archive"
            with archive.open("wb") as file:
                async for piece in request.stream():
                    await asyncio.to_thread(file.write, piece)
        except OSError as error:
            stack.close()
            raise HostError(f"cannot store the archive: {error.strerror}", "free some space (hutch gc)") from error
        except BaseException:
            stack.close()
            raise
        source = request.headers.get("x-hutch-source", "an archive")
        job = {"state": str(runtime.state), "archive": str(archive), "name": name, "source": source}
        return _job(services.relays, "rootfs.import_job", job, stack)


def _job(
    relays: Relays, module: str, request: Mapping[str, Any], stack: contextlib.ExitStack | None = None
) -> StreamingResponse:
    """Stream a job's lines; a failure is the last of them. `stack` is closed at the job's end."""

    async def told() -> AsyncGenerator[dict[str, Any]]:
        with stack or contextlib.ExitStack():
            try:
                async with contextlib.aclosing(jobs.lines(module, request, _IMAGE_TIMEOUT)) as messages:
                    async for message in messages:
                        yield message
            except HostError as error:
                yield {"error": {"message": error.message, "remedy": error.remedy}}

    return StreamingResponse(_encoded(relays.start(told())), media_type=_NDJSON)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"


def _add_task_routes(app: FastAPI, services: Services) -> None:
    scheduler = services.scheduler

    @app.post("/tasks", status_code=202)
    async def create_task(body: TaskRequest) -> Response:
        """Accept a task."""
        spec = body.to_spec(services.runtime.default_limits)
        await services.runtime.bases.get(spec.image)  # an unknown image is told here or never
        return JSONResponse(scheduler.submit(spec).shown(), 202)

    @app.get("/tasks")
    async def list_tasks() -> Response:
        """All tasks, newest first."""
        return JSONResponse({"tasks": [task.shown() for task in services.runtime.store.list_tasks()]})

    @app.get("/tasks/{task}")
    async def show_task(task: str) -> Response:
        """One task."""
        return JSONResponse(scheduler.current(task).shown())

    @app.get("/tasks/{task}/events")
    async def events(task: str, follow: bool = False) -> Response:
        """The task's journal from its beginning; with `follow`, until its end."""
        found = scheduler.current(task)
        run = scheduler.run_of(found.id) if follow else None
        path = scheduler.directory(found.id) / "events.ndjson"

        def end() -> dict[str, Any] | None:
            with contextlib.suppress(errors.NotFound):  # removed meanwhile
                ended = scheduler.current(found.id)
                return None if ended.active else ended.shown()
            return None

        return StreamingResponse(journal.read_events(path, run.journal if run else None, end), media_type=_NDJSON)

    @app.get("/tasks/{task}/diff")
    async def diff(task: str) -> Response:
        """The task's diff, as `git apply` takes it."""
        found = scheduler.current(task)
        if found.active:
            raise errors.Conflict(f"task {found.id} is {found.state}: it has no diff yet", "wait for its end")
        path = scheduler.directory(found.id) / "diff.patch"
        if not path.exists():
            return Response(b"", media_type="text/x-diff")
        return FileResponse(path, media_type="text/x-diff")

    @app.post("/tasks/{task}/cancel", status_code=202)
    async def cancel(task: str) -> Response:
        """End a task."""
        return JSONResponse(scheduler.cancel(task).shown(), 202)

    @app.delete("/tasks/{task}", status_code=204)
    async def remove_task(task: str) -> Response:
        """Forget a task that has ended."""
        await scheduler.remove(task)
        return Response(status_code=204)


def _add_exec_routes(app: FastAPI, services: Services) -> None:
    scheduler, execs = services.scheduler, services.execs

    @app.post("/tasks/{task}/exec")
    async def start_exec(task: str, body: ExecRequest) -> Response:
        """Run a command in a running task; a stream of its output that ends in its exit code."""
        found = scheduler.current(task)
        run = scheduler.run_of(found.id)
        if run is None:
            raise errors.Conflict(f"task {found.id} has ended ({found.state})", "only a running task can be joined")
        events = execs.run(run.context, body.to_spec())
        first = await anext(events)  # so that what can't be started is an error status, not a broken stream

        async def close() -> None:  # for a client that has gone before the stream began
            await events.aclose()

        return StreamingResponse(_encoded(events, first), media_type=_NDJSON, background=BackgroundTask(close))

    @app.post("/execs/{identity}/stdin", status_code=204)
    async def write_stdin(identity: str, request: Request) -> Response:
        """The command's input; the body's end is the input's end."""
        await execs.write(identity, request.stream())
        return Response(status_code=204)

    @app.post("/execs/{identity}/resize", status_code=204)
    async def resize(identity: str, body: ResizeRequest) -> Response:
        """Set the size of the command's terminal."""
        execs.resize(identity, body.rows, body.cols)
        return Response(status_code=204)

    @app.post("/execs/{identity}/signal", status_code=204)
    async def send_signal(identity: str, body: SignalRequest) -> Response:
        """Send the command a signal."""
        execs.signal(identity, body.signal)
        return Response(status_code=204)


async def _encoded(events: AsyncGenerator[dict[str, Any]], *first: dict[str, Any]) -> AsyncIterator[bytes]:
    async with contextlib.aclosing(events):
        for event in first:
            yield _line(event)
        async for event in events:
            yield _line(event)
