"""The API's tasks: create, list, show, follow, diff, cancel, remove."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from sandbox.api.peers import Peer
from sandbox.api.requests import TaskRequest
from sandbox.api.resolving import task_spec
from sandbox.api.services import NDJSON, Services
from sandbox.core import errors, journal, runtimes


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the tasks' routes into the application."""
    scheduler = services.scheduler

    @app.post("/tasks", status_code=202)
    async def create_task(body: TaskRequest, user: Peer) -> Response:
        """Accept a task."""
        runtime = services.runtime
        spec = runtime.ceiling.capped(task_spec(services.environments, user, body, runtime.default_limits))
        runtime.secrets.of(spec.owner, spec.lent).check(spec.secrets)
        for phase, setting in spec.network.items():
            runtime.ceiling.check(phase, setting)
        # An unknown image or runtime is told here or never.
        runtimes.of_task(spec, await runtime.bases.get(spec.image))
        services.environments.check_still(user, spec)  # what was awaited took its time
        return JSONResponse(scheduler.submit(spec, user).shown(), 202)

    @app.get("/tasks")
    async def list_tasks(user: Peer) -> Response:
        """The user's tasks, newest first; to root, everybody's."""
        return JSONResponse({"tasks": [task.listed() for task in services.runtime.store.list_tasks(user.sees_only)]})

    @app.get("/tasks/{task}")
    async def show_task(task: str, user: Peer) -> Response:
        """One task."""
        return JSONResponse(services.task(user, task).shown())

    @app.get("/tasks/{task}/events")
    async def events(task: str, user: Peer, follow: bool = False, only: Literal["network"] | None = None) -> Response:
        """The task's journal from its beginning; with `follow`, until its end. `only` leaves all other types out."""
        found = services.task(user, task)
        run = scheduler.run_of(found.id) if follow else None
        path = scheduler.directory(found.id) / "events.ndjson"

        def end() -> dict[str, Any] | None:
            with contextlib.suppress(errors.NotFound):  # removed meanwhile
                ended = scheduler.current(found.id)
                return None if ended.active else ended.shown()
            return None

        found_events = journal.read_events(path, run.journal if run else None, end)
        return StreamingResponse(journal.of_type(only, found_events) if only else found_events, media_type=NDJSON)

    @app.get("/tasks/{task}/diff")
    async def diff(task: str, user: Peer) -> Response:
        """The task's diff, as `git apply` takes it."""
        found = services.task(user, task)
        if found.active:
            raise errors.Conflict(f"task {found.id} is {found.state}: it has no diff yet", "wait for its end")
        path = scheduler.directory(found.id) / "diff.patch"
        if not path.exists():
            return Response(b"", media_type="text/x-diff")
        return FileResponse(path, media_type="text/x-diff")

    @app.post("/tasks/{task}/cancel", status_code=202)
    async def cancel(task: str, user: Peer) -> Response:
        """End a task."""
        return JSONResponse(scheduler.cancel(services.task(user, task).id).shown(), 202)

    @app.delete("/tasks/{task}", status_code=204)
    async def remove_task(task: str, user: Peer) -> Response:
        """Forget a task that has ended."""
        await scheduler.remove(services.task(user, task).id)
        return Response(status_code=204)
