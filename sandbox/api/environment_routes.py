"""The API's environments: made, listed, shown, replaced, removed; what would hold for a task; and their caches."""

from __future__ import annotations

from typing import Annotated

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from sandbox.api.resolving import check, resolve
from sandbox.api.services import Services
from sandbox.api.settings import Settings, SettingsRequest, Strict
from sandbox.core import settings
from sandbox.core.environments import Environments
from sandbox.core.settings import Layer


class EnvironmentRequest(Strict):
    """A new environment."""

    name: Annotated[str, Field(max_length=64)]
    settings: Settings = Field(default_factory=lambda: Settings.model_validate({}))


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the environments' routes into the application."""
    runtime = services.runtime
    environments = Environments(runtime.store)

    @app.get("/environments")
    async def list_environments() -> Response:
        """All environments, in the order of their names."""
        return JSONResponse({"environments": [one.shown() for one in runtime.store.list_environments()]})

    @app.post("/environments", status_code=201)
    async def create_environment(body: EnvironmentRequest) -> Response:
        """Keep settings under a new name."""
        given = _sensible(body.name, body.settings)
        return JSONResponse(environments.create(body.name, given).shown(), 201)

    @app.post("/environments/effective")
    async def show_effective(body: SettingsRequest) -> Response:
        """What would hold for a task with these settings, and where each value is from."""
        return JSONResponse(resolve(environments, body).shown(runtime.default_limits))

    @app.get("/environments/{name}")
    async def show_environment(name: str) -> Response:
        """One environment."""
        return JSONResponse(environments.get(name).shown())

    @app.put("/environments/{name}")
    async def replace_environment(name: str, body: Settings) -> Response:
        """Give an environment other settings: all of them."""
        return JSONResponse(environments.replace(name, _sensible(name, body)).shown())

    @app.delete("/environments/{name}", status_code=204)
    async def remove_environment(name: str) -> Response:
        """Forget an environment and drop its snapshots."""
        environments.remove(name)
        await services.snapshots.reset(name)
        return Response(status_code=204)

    @app.delete("/environments/{name}/cache")
    async def reset_cache(name: str) -> Response:
        """Drop an environment's snapshots: its next task sets up from nothing."""
        environments.get(name)
        return JSONResponse(await services.snapshots.reset(name))


def _sensible(name: str, given: Settings) -> dict[str, object]:
    """An environment's settings as JSON, if they make sense by themselves."""
    values = given.given()
    check(settings.merge([Layer(f"environment {name}", values)]))
    return values
