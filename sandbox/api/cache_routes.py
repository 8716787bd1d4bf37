"""The API's cache of package downloads, which the filter keeps: what is in it, and emptying it."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from sandbox.api.peers import Peer
from sandbox.api.services import Services


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the cache's routes into the application."""
    egress = services.runtime.sandboxes.filter

    @app.get("/cache")
    async def list_artifacts(user: Peer) -> Response:
        """The downloads that the filter keeps, those used last first."""
        user.must_be_root("list the downloads of all users")
        return JSONResponse(await egress.artifacts())

    @app.delete("/cache")
    async def clear_artifacts(user: Peer) -> Response:
        """Drop them all; what that freed."""
        user.must_be_root("drop the downloads of all users")
        return JSONResponse(await egress.clear_artifacts())
