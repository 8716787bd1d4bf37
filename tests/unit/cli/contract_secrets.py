"""contract_server.py's secrets and cache of downloads: the daemon's own routes and store, beside a filter that is made up.

It must not reach anything: nobody is told a value here.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from sandbox.api.app import make_app
from sandbox.core.sealing import Sealer
from sandbox.core.secrets import Secrets
from sandbox.core.store import Store

URL = "https://files.example/packages/one-1.0.whl"


class Downloads:
    """What the filter would say of the downloads that it keeps."""

    def __init__(self) -> None:
        self._items: list[dict[str, Any]] = [{"url": URL, "bytes": 5 << 20, "validated": 0}]

    async def artifacts(self) -> dict[str, Any]:
        kept = len(self._items)
        return {"entries": 2 * kept, "bytes": kept * 6 << 20, "limit": 10 << 30, "items": self._items}

    async def clear_artifacts(self) -> dict[str, Any]:
        freed = {"entries": 2 * len(self._items), "bytes": len(self._items) * 6 << 20}
        self._items = []
        return freed


def app(state: Path) -> FastAPI:
    """An application in which only /secrets and /cache work."""

    async def told(_: str) -> None:
        pass

    secrets = Secrets(Store(state / "hutch.db"), Sealer.load(state))
    runtime = SimpleNamespace(secrets=secrets, sandboxes=SimpleNamespace(filter=Downloads()))
    services: Any = SimpleNamespace(
        runtime=runtime, scheduler=SimpleNamespace(secret_changed=told), execs=None, relays=None
    )
    return make_app(services)
