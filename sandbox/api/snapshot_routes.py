"""The API's snapshots: listed, shown, dropped."""

from __future__ import annotations

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response

from sandbox.api.peers import Peer
from sandbox.api.services import Services


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the snapshots' routes into the application."""
    snapshots = services.snapshots

    @app.get("/snapshots")
    async def list_snapshots(user: Peer) -> Response:
        """The snapshots that the user may see, newest first."""
        return JSONResponse({"snapshots": await snapshots.shown(user)})

    @app.get("/snapshots/{snapshot}")
    async def show_snapshot(snapshot: str, user: Peer) -> Response:
        """One snapshot, by an unambiguous beginning of its id."""
        return JSONResponse(await snapshots.show(user, snapshot))

    @app.delete("/snapshots/{snapshot}")
    async def remove_snapshot(snapshot: str, user: Peer) -> Response:
        """Drop a snapshot: the next task that would use it sets up from nothing."""
        return JSONResponse(await snapshots.remove(user, snapshot))
