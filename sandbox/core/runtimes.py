"""Language runtimes under a task: each version is a layer of its own, built once for an image and from then on only stacked.

    found by its key? ─ no ─▶ [the recipe's script in a sandbox of the image] ─ pruned ─▶ a layer by one rename ─ stored
                      └ yes ▶ stacked over the image's layers, below the system layer

A layer is shared by all tasks, so nothing of one shapes it: neither its variables, secrets and limits nor its network, and nobody
joins that sandbox. It is kept for a month; the next build has the newest patch release.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from rootfs.runtime_recipe import RuntimeVersion, asked_by_variables, find, recipes
from sandbox.core import snapshots
from sandbox.core.images import Base
from sandbox.core.model import Snapshot, TaskSpec
from sandbox.core.phases import PhaseContext, new_writable
from sandbox.core.runtime import Runtime
from sandbox.core.store import Store
from sandbox.host import fault, jobs

LIFETIME: Final = timedelta(days=30).total_seconds()
_PRUNE_TIMEOUT: Final = 600.0


def versions(wanted: Mapping[str, str]) -> list[RuntimeVersion]:
    """These runtimes, in the order of their names. Raises UnknownRuntime."""
    return [find(name, version, os.uname().machine) for name, version in sorted(wanted.items())]


def of_task(spec: TaskSpec, base: Base) -> list[RuntimeVersion]:
    """The runtimes of a task on this image: those asked for, and those that its variables ask for, unless they are meant for the
    image's own entrypoint, which may have other versions. Raises UnknownRuntime.
    """
    variables = {} if base.image.config.entrypoint else asked_by_variables(spec.env)
    return versions({**variables, **spec.runtimes})


def shown(store: Store) -> list[dict[str, Any]]:
    """All runtimes, as the API shows them."""
    labels = {one.runtime for one in store.list_snapshots() if one.runtime}
    return [
        {
            "name": recipe.name,
            "description": recipe.description,
            "versions": list(recipe.versions),
            "exact": recipe.exact,
            "variable": recipe.variable,
            "check": recipe.check,
            "built": sorted(
                version for name, _, version in (label.partition(" ") for label in labels) if name == recipe.name
            ),
        }
        for recipe in recipes().values()
    ]


def key(base: Base, version: RuntimeVersion) -> str:
    """What a layer is found by: the image, and whom its sandboxes trust, are part of it."""
    return version.key(base.image.digest, base.layers[-1])


async def layer(
    runtime: Runtime, context: PhaseContext, version: RuntimeVersion, directory: Path, tell: Callable[[str], None]
) -> str:
    """The layer of a runtime over the context's image, built in `directory` if there is none. Raises PhaseFailed, JobError."""
    own = key(context.base, version)
    async with runtime.building(own):  # two tasks that miss together build once
        found, why = await snapshots.find(runtime, own)
        if why:
            tell(f"runtime {version.label}: {why}; it is built again")
        if found is None:
            found = await _build(runtime, context, version, own, new_writable(directory))
        return found.layer


async def _build(
    runtime: Runtime, context: PhaseContext, version: RuntimeVersion, own: str, writable: Path
) -> Snapshot:
    await context.build_runtime(version, writable)
    upper = writable / "upper"
    request = {
        "upper": str(upper),
        "lower": [str(path) for path in context.layers_top_first],
        "keep": version.keep,
        "drop": version.drop,
    }
    await jobs.run("rootfs.runtime_layer", request, _PRUNE_TIMEOUT)
    fault.at("runtime: pruned")
    layer, created = secrets.token_hex(32), time.time()
    snapshot = Snapshot(
        id=layer,
        key=own,
        image_digest=context.base.image.digest,
        layer=layer,
        repo=None,
        commit=None,
        environment=None,
        checkout=None,
        runtime=version.label,
        inputs={},
        created=created,
        expires=created + LIFETIME,
    )
    async with runtime.changing_layers:
        await asyncio.to_thread(runtime.layers.commit_layer, upper, layer, synced=False)
        fault.at("runtime: layer committed")
        runtime.keep(snapshot)
    return snapshot
