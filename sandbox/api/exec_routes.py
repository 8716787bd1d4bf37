"""The API's commands in a running task: start, input, terminal size, signals."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask

from sandbox.api.peers import Peer
from sandbox.api.requests import ExecRequest, ResizeRequest, SignalRequest
from sandbox.api.services import NDJSON, Services, encoded
from sandbox.core import errors


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the commands' routes into the application."""
    scheduler, execs = services.scheduler, services.execs

    @app.post("/tasks/{task}/exec")
    async def start_exec(task: str, body: ExecRequest, user: Peer) -> Response:
        """Run a command in a running task; a stream of its output that ends in its exit code."""
        found = services.task(user, task)
        run = scheduler.run_of(found.id)
        if run is None:
            raise errors.Conflict(f"task {found.id} has ended ({found.state})", "only a running task can be joined")
        events = execs.run(run.context, body.to_spec())
        first = await anext(events)  # so that what can't be started is an error status, not a broken stream

        async def close() -> None:  # for a client that has gone before the stream began
            await events.aclose()

        return StreamingResponse(encoded(events, first), media_type=NDJSON, background=BackgroundTask(close))

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
