"""What all tasks of a daemon share: the state directory, the stores, the host's part. A value, not a place for logic."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from weakref import WeakValueDictionary

from rootfs.store import Store as LayerStore
from sandbox.core import damage
from sandbox.core.ceiling import Ceiling
from sandbox.core.errors import TaskError
from sandbox.core.images import Bases
from sandbox.core.model import Snapshot
from sandbox.core.registries import Registries
from sandbox.core.secrets import Secrets
from sandbox.core.store import Store
from sandbox.host import fault
from sandbox.host.cgroup import Limits
from sandbox.host.sandbox import Sandboxes

_log = logging.getLogger("hutch")


@dataclass
class Runtime:
    """The daemon's parts, and which layers and cache keys are in use right now."""

    state: Path
    store: Store
    layers: LayerStore
    bases: Bases
    sandboxes: Sandboxes
    default_limits: Limits
    ceiling: Ceiling
    registries: Registries
    secrets: Secrets
    # Held while a layer has come to the disk but nothing names it yet, and while layers that nothing names are removed.
    changing_layers: asyncio.Lock
    pending: dict[str, Snapshot] = field(default_factory=dict)  # by key, those whose files are on their way to the disk
    looked_at: set[str] = field(default_factory=set)  # ids of those known to be whole since this daemon has started
    _keeping: set[asyncio.Task[None]] = field(default_factory=set)
    _used: Counter[str] = field(default_factory=Counter)
    _building: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

    def keep(self, snapshot: Snapshot) -> None:
        """Have other tasks find a snapshot: at once while this daemon lives, and for good once its files are on the disk."""
        self.pending[snapshot.key] = snapshot
        task = asyncio.create_task(self._keep(snapshot))
        self._keeping.add(task)
        task.add_done_callback(self._keeping.discard)

    async def _keep(self, snapshot: Snapshot) -> None:
        with self.using(snapshot.layer):
            try:
                await asyncio.to_thread(self.layers.sync_layers)
                digest = await damage.digest(self.layers.layer_path(snapshot.layer), gently=True)
                self.looked_at.add(snapshot.id)
                self.store.add_snapshot(replace(snapshot, digest=digest or None))
                fault.at("snapshot: stored")
            except (TaskError, OSError) as error:
                _log.warning("cannot keep the snapshot %s: %s", snapshot.id[:12], error)
            finally:
                if self.pending.get(snapshot.key) is snapshot:
                    del self.pending[snapshot.key]

    async def kept(self) -> None:
        """Wait until every snapshot is kept for good that is to be."""
        await asyncio.gather(*self._keeping, return_exceptions=True)

    @contextlib.contextmanager
    def using(self, *layers: str) -> Iterator[None]:
        """Keep layers from being collected."""
        self._used.update(layers)
        try:
            yield
        finally:
            self._used.subtract(layers)

    def layers_in_use(self) -> set[str]:
        """Layers that running tasks stand on."""
        return {layer for layer, count in self._used.items() if count > 0}

    @contextlib.asynccontextmanager
    async def building(self, key: str) -> AsyncIterator[None]:
        """Hold the right to build the snapshot of `key`."""
        lock = self._building.setdefault(key, asyncio.Lock())
        async with lock:
            yield
