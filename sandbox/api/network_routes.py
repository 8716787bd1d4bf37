"""The API's networks: what a task's phases may reach, changing it while the agent runs, and what would become of a request."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Query
from fastapi.responses import JSONResponse, Response

from proxy.presets import PRESETS
from sandbox.api.network_requests import OptionsRequest, RulesRequest
from sandbox.api.peers import Peer
from sandbox.api.services import Services
from sandbox.core import policies
from sandbox.core.errors import Conflict
from sandbox.core.model import Task
from sandbox.core.policies import Edit


def add_routes(app: FastAPI, services: Services) -> None:
    """Put the networks' routes into the application."""
    runtime, scheduler = services.runtime, services.scheduler

    @app.get("/presets")
    async def list_presets() -> Response:
        """The presets: names of lists, and their rules. What package managers fetch from joins each but `none`."""
        return JSONResponse({"presets": {name: [rule.text for rule in rules] for name, rules in PRESETS.items()}})

    @app.get("/tasks/{task}/network")
    async def show_network(task: str, user: Peer) -> Response:
        """What the phases of a task may reach, which registries their presets include, and the ceiling above them."""
        found = services.task(user, task)
        registries = await policies.known_registries(runtime, found)
        state = {"task": found.id, "state": found.state, "policy": found.shown()["policy"]}
        return JSONResponse({**state, "registries": registries, "ceiling": asdict(runtime.ceiling)})

    @app.patch("/tasks/{task}/network")
    async def set_network(task: str, body: OptionsRequest, user: Peer) -> Response:
        """Set what the agent of a task may reach. Where it runs, the change is in force when this is answered."""
        return await change(services.task(user, task), body.edit)

    @app.post("/tasks/{task}/network/rules")
    async def add_rules(task: str, body: RulesRequest, user: Peer) -> Response:
        """Allow or deny the agent of a task more. Where it runs, the change is in force when this is answered."""
        return await change(services.task(user, task), body.edit)

    async def change(found: Task, edit: Edit) -> Response:
        run = scheduler.run_of(found.id)
        if run is None:
            raise Conflict(f"task {found.id} has ended ({found.state})", "only a running or queued task can be changed")
        made = await run.change_network(edit)
        answer: dict[str, Any] = {"task": found.id, "agent": asdict(made.spec), "in_force": made.at_once}
        return JSONResponse({**answer, "notices": list(made.notices)})

    @app.get("/tasks/{task}/network/explain")
    async def explain(
        task: str,
        user: Peer,
        url: Annotated[str, Query(min_length=1, max_length=8192)],
        method: Annotated[str, Query(pattern="^[A-Za-z][A-Za-z_-]{0,63}$")] = "GET",
        phase: Literal["setup", "maintenance", "agent"] = "agent",
    ) -> Response:
        """What would become of a request in a phase of a task, and which rule decides or would allow it."""
        found = services.task(user, task)
        decision = await policies.explain_request(runtime, found, phase, url, method.upper())
        asked = {"task": found.id, "state": found.state, "phase": phase, "url": url, "method": method.upper()}
        return JSONResponse({**asked, "allowed": decision.allowed, "rule": decision.rule, "reason": decision.reason})
