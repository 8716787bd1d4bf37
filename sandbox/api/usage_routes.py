"""The API's view of what runs: the walls of a sandbox, what tasks use, the daemon's totals."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from sandbox.api.peers import Peer
from sandbox.api.services import Services
from sandbox.core import errors, usage
from sandbox.host import inspection


def add_routes(app: FastAPI, services: Services) -> None:
    """Put these routes into the application."""
    runtime, scheduler = services.runtime, services.scheduler

    @app.get("/tasks/{task}/sandbox")
    async def inspect(task: str, user: Peer) -> Response:
        """The walls of a running task's sandbox, read back from the kernel."""
        found = services.task(user, task)
        run = scheduler.run_of(found.id)
        if run is None:
            raise errors.Conflict(f"task {found.id} has ended ({found.state})", "only a running task has a sandbox")
        sandbox, phase = run.context.running(), run.context.phase
        walls = await asyncio.to_thread(inspection.in_force, sandbox)
        return JSONResponse({"task": found.id, "phase": phase, **walls})

    @app.get("/usage")
    async def show_usage(user: Peer) -> Response:
        """What the user's tasks use right now; to root, everybody's."""
        return JSONResponse({"tasks": await asyncio.to_thread(usage.of_tasks, runtime, scheduler, user)})

    @app.get("/metrics")
    async def show_metrics(user: Peer) -> Response:
        """The daemon's totals, as Prometheus reads them."""
        user.must_be_root("read the totals of all users")
        tasks = await asyncio.to_thread(usage.of_tasks, runtime, scheduler, user)
        text = usage.metrics(runtime, scheduler, tasks)
        return Response(text, media_type="text/plain; version=0.0.4")
