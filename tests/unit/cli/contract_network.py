"""The networks of contract_server.py's tasks: the settings are the daemon's own, the decisions about requests are made up.

It must not reach anything: there is no filter here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from contract_images import Refusal
from contract_tasks import Running, find
from fastapi import APIRouter, Request

from sandbox.core import network
from sandbox.core.network import DEFAULTS, Edited, NetworkSpec

router = APIRouter()
settings: dict[str, NetworkSpec] = {}


def _agent(task: Running) -> NetworkSpec:
    return settings.setdefault(task.id, network.make("agent", task.spec.get("network", {}).get("agent", {})))


@router.get("/tasks/{task}/network")
async def show(task: str) -> Any:
    found = find(task)
    policy = {phase: asdict(spec) for phase, spec in {**DEFAULTS, "agent": _agent(found)}.items()}
    ceiling = {"deny": ["evil.example"], "agent_access": "limited", "private": ["10.1.0.0/16"], "file": "/ceiling.toml"}
    return {
        "task": found.id,
        "state": found.record["state"],
        "policy": policy,
        "registries": ["index.example"],
        "ceiling": ceiling,
    }


@router.patch("/tasks/{task}/network")
async def set_(task: str, request: Request) -> Any:
    given = await request.json()
    return _change(task, lambda spec: network.with_options(spec, given))


@router.post("/tasks/{task}/network/rules")
async def add_rules(task: str, request: Request) -> Any:
    rules = (await request.json())["rules"]
    return _change(task, lambda spec: network.with_rules(spec, rules))


def _change(task: str, edit: Callable[[NetworkSpec], Edited]) -> Any:
    found = find(task)
    if found.record["ended"]:
        raise Refusal(409, f"task {found.id} has ended", "only a running or queued task can be changed")
    try:
        edited = edit(_agent(found))
    except ValueError as error:
        raise Refusal(400, str(error), "hutch net --help explains rules") from error
    settings[found.id] = edited.spec
    return {"task": found.id, "agent": asdict(edited.spec), "in_force": True, "notices": list(edited.notices)}


@router.get("/tasks/{task}/network/explain")
async def explain(task: str, url: str, method: str = "GET", phase: str = "agent") -> Any:
    found = find(task)
    asked = {"task": found.id, "state": found.record["state"], "url": url, "method": method, "phase": phase}
    if method == "GET":
        return {**asked, "allowed": True, "rule": "example.com", "reason": ""}
    return {**asked, "allowed": False, "rule": f"example.com methods={method}", "reason": f"{method} is barred"}
