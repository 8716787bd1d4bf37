"""The API's images: list, show, remove, build, import; and the language runtimes that are stacked on them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Mapping
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from rootfs.image import check_name
from sandbox.api.peers import Peer
from sandbox.api.requests import BuildRequest, PullRequest
from sandbox.api.services import NDJSON, Services, encoded
from sandbox.core import runtimes
from sandbox.core.relay import Relays
from sandbox.host import jobs
from sandbox.host.errors import HostError

_CHANGE: Final = "change the images that all users' tasks stand on"
_IMAGE_TIMEOUT: Final = 6 * 3600.0
_WRITTEN: Final = 1 << 20  # bytes of an upload that are written at once


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the images' routes into the application."""
    runtime = services.runtime

    @app.get("/images")
    async def list_images() -> Response:
        """All images."""
        return JSONResponse({"images": [image.to_dict() for image in runtime.layers.list_images()]})

    @app.get("/runtimes")
    async def list_runtimes() -> Response:
        """The language runtimes that a task may ask for, and the versions that have layers already."""
        await runtime.kept()
        return JSONResponse({"runtimes": runtimes.shown(runtime.store)})

    @app.get("/images/{name}")
    async def show_image(name: str) -> Response:
        """One image's record."""
        return JSONResponse(runtime.layers.load(name).to_dict())

    @app.delete("/images/{name}", status_code=204)
    async def remove_image(name: str, user: Peer) -> Response:
        """Forget an image; its layers go with the next collection."""
        user.must_be_root(_CHANGE)
        runtime.layers.remove(name)
        return Response(status_code=204)

    @app.post("/images/build")
    async def build_image(body: BuildRequest, user: Peer) -> Response:
        """Build an image from a recipe; a stream of progress lines that ends in the image's record."""
        user.must_be_root(_CHANGE)
        check_name(body.name)
        job = {"state": str(runtime.state), "recipe": body.recipe, "name": body.name}
        return _job(services.relays, "rootfs.build_job", job)

    @app.post("/images/pull")
    async def pull_image(body: PullRequest, user: Peer) -> Response:
        """Fetch an image from a registry; a stream of progress lines that ends in the image's record."""
        user.must_be_root(_CHANGE)
        check_name(body.name)
        job = {
            "state": str(runtime.state),
            "reference": body.reference,
            "name": body.name,
            "entrypoint": body.entrypoint,
        }
        return _job(services.relays, "rootfs.pull_job", job)

    @app.put("/images/{name}")
    async def import_image(name: str, request: Request, user: Peer, entrypoint: bool = True) -> Response:
        """Import the archive in the request's body; a stream of progress lines that ends in the image's record."""
        user.must_be_root(_CHANGE)
        check_name(name)
        stack = contextlib.ExitStack()
        try:
            archive = stack.enter_context(runtime.layers.new_staging()) / "archive"
            with archive.open("wb") as file:
                async for piece in _gathered(request.stream()):
                    await asyncio.to_thread(file.write, piece)
        except OSError as error:
            stack.close()
            raise HostError(f"cannot store the archive: {error.strerror}", "free some space (hutch gc)") from error
        except BaseException:
            stack.close()
            raise
        source = request.headers.get("x-hutch-source", "an archive")
        job = {"state": str(runtime.state), "archive": str(archive), "name": name, "source": source}
        return _job(services.relays, "rootfs.import_job", {**job, "entrypoint": entrypoint}, stack)


async def _gathered(pieces: AsyncIterable[bytes]) -> AsyncGenerator[bytes]:
    """The same bytes in larger pieces: they come by 64 KiB, and handing one to a thread takes as long as writing it."""
    waiting: list[bytes] = []
    async for piece in pieces:
        waiting.append(piece)
        if sum(map(len, waiting)) >= _WRITTEN:
            yield b"".join(waiting)
            waiting = []
    yield b"".join(waiting)


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

    return StreamingResponse(encoded(relays.start(told())), media_type=NDJSON)
