"""What all tasks of a daemon share: the state directory, the stores, the host's part. A value, not a place for logic."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from weakref import WeakValueDictionary

from rootfs.store import Store as LayerStore
from sandbox.core.ceiling import Ceiling
from sandbox.core.images import Bases
from sandbox.core.registries import Registries
from sandbox.core.secrets import Secrets
from sandbox.core.store import Store
from sandbox.host.cgroup import Limits
from sandbox.host.sandbox import Sandboxes


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
    _used: Counter[str] = field(default_factory=Counter)
    _building: WeakValueDictionary[str, asyncio.Lock] = field(default_factory=WeakValueDictionary)

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
