"""The API's secrets: set, listed without their values, rotated, removed. A value comes in here and goes nowhere out."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import FastAPI
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from sandbox.api.peers import Peer
from sandbox.api.services import Services
from sandbox.core.network import PHASES
from sandbox.core.secrets import PLAIN_PHASES, Grant

type Hosts = Annotated[list[Annotated[str, Field(max_length=2048)]], Field(max_length=100)]
type Place = Literal["header", "query", "body"]
type Phase = Literal["setup", "maintenance", "agent"]


class _Strict(BaseModel):
    # A refusal shows what was refused, unless told otherwise.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)


class RotateRequest(_Strict):
    """Another value."""

    value: SecretStr


class SecretRequest(RotateRequest):
    """A secret: its value, the hosts (each HOST or HOST/path) that get it, and in which header, places and phases.

    `header` is like `Authorization: Bearer {}`; without it any header may hold the value. Without hosts it is a plain secret:
    setup and maintenance have the value in their variable, nobody else.
    """

    hosts: Hosts = Field(default_factory=list, alias="for")
    header: Annotated[str, Field(max_length=1024)] | None = None
    places: Annotated[list[Place], Field(min_length=1)] = ["header"]
    phases: Annotated[list[Phase], Field(min_length=1)] | None = None

    def grant(self) -> Grant:
        """The frozen value of where it may be used."""
        phases = _once(self.phases) if self.phases else PHASES if self.hosts else PLAIN_PHASES
        return Grant(tuple(self.hosts), self.header, _once(self.places), phases)


def _once(words: list[Place] | list[Phase]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(words))


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the secrets' routes into the application."""
    secrets, tell = services.runtime.secrets, services.scheduler.secret_changed

    @app.get("/secrets")
    async def list_secrets(user: Peer) -> Response:
        """The user's secrets, without their values."""
        return JSONResponse({"secrets": secrets.of(user.uid).shown()})

    @app.put("/secrets/{name}")
    async def set_secret(name: str, body: SecretRequest, user: Peer) -> Response:
        """Make a secret, or replace it. In running tasks, too, it is used like this when this is answered."""
        made = secrets.of(user.uid).set(name, body.value.get_secret_value(), body.grant())
        await tell(user.uid, name)
        return JSONResponse(made)

    @app.post("/secrets/{name}/rotate")
    async def rotate_secret(name: str, body: RotateRequest, user: Peer) -> Response:
        """Give a secret another value. In running tasks, too, it is used when this is answered."""
        made = secrets.of(user.uid).rotate(name, body.value.get_secret_value())
        await tell(user.uid, name)
        return JSONResponse(made)

    @app.delete("/secrets/{name}", status_code=204)
    async def remove_secret(name: str, user: Peer) -> Response:
        """Forget a secret. No running task can use it any more when this is answered."""
        secrets.of(user.uid).remove(name)
        await tell(user.uid, name)
        return Response(status_code=204)
