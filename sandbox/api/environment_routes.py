"""The API's environments: made, listed, shown, replaced, removed; what would hold for a task; and their caches."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from sandbox.api.peers import Peer
from sandbox.api.resolving import check, resolve
from sandbox.api.services import Services
from sandbox.api.settings import Settings, SettingsRequest, Strict
from sandbox.core import settings
from sandbox.core.access import LEVELS, Member
from sandbox.core.settings import Layer


class EnvironmentRequest(Strict):
    """A new environment."""

    name: Annotated[str, Field(max_length=64)]
    settings: Settings = Field(default_factory=lambda: Settings.model_validate({}))


class MemberRequest(Strict):
    """A user or a group (`user:NAME` or `group:NAME`) of the host, and what it may do with an environment."""

    member: Annotated[str, Field(max_length=300)]
    may: Literal["see", "use", "change"] = "use"


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the environments' routes into the application. A NAME may be OWNER:NAME."""
    runtime, environments = services.runtime, services.environments

    @app.get("/environments")
    async def list_environments(user: Peer) -> Response:
        """The environments that the user may see, in the order of their names."""
        return JSONResponse({"environments": [one.shown(user.uid) for one in environments.of(user)]})

    @app.post("/environments", status_code=201)
    async def create_environment(body: EnvironmentRequest, user: Peer) -> Response:
        """Keep settings under a new name of the user's."""
        given = _sensible(body.name, body.settings)
        return JSONResponse(environments.create(user, body.name, given).shown(user.uid), 201)

    @app.post("/environments/effective")
    async def show_effective(body: SettingsRequest, user: Peer) -> Response:
        """What would hold for a task with these settings, and where each value is from."""
        return JSONResponse(resolve(environments, user, body, "see").shown(runtime.default_limits))

    @app.get("/environments/{name}")
    async def show_environment(name: str, user: Peer) -> Response:
        """One environment."""
        return JSONResponse(environments.get(user, name, "see").shown(user.uid))

    @app.put("/environments/{name}")
    async def replace_environment(name: str, body: Settings, user: Peer) -> Response:
        """Give an environment other settings: all of them."""
        return JSONResponse(environments.replace(user, name, _sensible(name, body)).shown(user.uid))

    @app.delete("/environments/{name}", status_code=204)
    async def remove_environment(name: str, user: Peer) -> Response:
        """Forget an environment and drop its snapshots."""
        gone = environments.remove(user, name)
        services.scheduler.end_tasks_of_former_members(replace(gone, members=()))
        await services.snapshots.reset(gone.id)
        return Response(status_code=204)

    @app.post("/environments/{name}/members")
    async def share_environment(name: str, body: MemberRequest, user: Peer) -> Response:
        """Let a user or a group see, use or change an environment."""
        member = Member.named(body.member, body.may)
        changed = environments.share(user, name, member)
        services.scheduler.end_tasks_of_former_members(changed)  # it may be less than before
        return JSONResponse(changed.shown(user.uid))

    @app.delete("/environments/{name}/members/{member}")
    async def unshare_environment(name: str, member: str, user: Peer) -> Response:
        """Take that back."""
        gone = Member.named(member, LEVELS[0])
        changed = environments.unshare(user, name, gone)
        services.scheduler.end_tasks_of_former_members(changed)
        return JSONResponse(changed.shown(user.uid))

    @app.delete("/environments/{name}/cache")
    async def reset_cache(name: str, user: Peer) -> Response:
        """Drop an environment's snapshots: its next task sets up from nothing."""
        return JSONResponse(await services.snapshots.reset(environments.renew(user, name).id))


def _sensible(name: str, given: Settings) -> dict[str, object]:
    """An environment's settings as JSON, if they make sense by themselves."""
    values = given.given()
    check(settings.merge([Layer(f"environment {name}", values)]))
    return values
