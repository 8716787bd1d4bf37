"""contract_server.py's secrets, environments, snapshots, cache of downloads: the daemon's own routes and store, beside a filter
that is made up.

It must not reach anything: nobody is told a value here.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI

from rootfs.store import Store as LayerStore
from sandbox.api.app import make_app
from sandbox.api.peers import of_request
from sandbox.core.access import ROOT
from sandbox.core.environments import Environments
from sandbox.core.model import Snapshot
from sandbox.core.sealing import Sealer
from sandbox.core.secrets import Secrets
from sandbox.core.snapshots import Snapshots
from sandbox.core.store import Store
from sandbox.host.cgroup_layout import Limits

SNAPSHOT = "5a" * 32
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
    """An application in which only /secrets, /environments, /snapshots and /cache work."""

    async def told(*_: object) -> None:
        pass

    store = Store(state / "hutch.db")
    runtime: Any = SimpleNamespace(
        store=store,
        secrets=Secrets(store, Sealer.load(state)),
        sandboxes=SimpleNamespace(filter=Downloads()),
        default_limits=Limits(8 << 30, 2.0, 4096),
        layers=LayerStore(state / "layers"),
        layers_in_use=set,
        looked_at=set(),
        bases=SimpleNamespace(layers_in_use=set),
        changing_layers=asyncio.Lock(),
        kept=told,
    )
    _add_snapshot(store, runtime.layers)
    services: Any = SimpleNamespace(
        runtime=runtime,
        scheduler=SimpleNamespace(secret_changed=told, end_tasks_of_former_members=lambda _: None),
        execs=None,
        relays=None,
        snapshots=Snapshots(runtime),
        environments=Environments(store),
    )
    made = make_app(services)
    made.dependency_overrides[of_request] = lambda: ROOT
    return made


def _add_snapshot(store: Store, layers: LayerStore) -> None:
    with layers.new_staging() as staging:
        tree = staging / "layer"
        tree.mkdir()
        (tree / "file").write_bytes(b"x" * 3000)
        layers.commit_layer(tree, SNAPSHOT)
    url = "https://git.example/team/web"
    store.add_snapshot(Snapshot(SNAPSHOT, "k" * 64, "sha256:i", SNAPSHOT, url, "c" * 40, None, None, {}, 1e9, 4e9))
