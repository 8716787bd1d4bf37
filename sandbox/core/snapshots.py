"""Makes snapshots: setup's upper directory becomes a layer by one rename, after a sync, and then is found by its key."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

from sandbox.core import cache, phases
from sandbox.core.model import Snapshot
from sandbox.core.phases import PhaseContext
from sandbox.core.runtime import Runtime
from sandbox.core.source import Source
from sandbox.host import fault


async def build_snapshot(
    runtime: Runtime, context: PhaseContext, directory: Path, source: Source | None, inputs: Mapping[str, str]
) -> Snapshot:
    """Check out the default branch, run setup, keep the result. A script that fails raises PhaseFailed and leaves no snapshot."""
    script = context.setup_script
    writable = phases.new_writable(directory)
    if source is not None:
        await context.checkout(writable, source.default_commit, source.default_branch)
    await context.script("setup", writable, script)
    fault.at("snapshot: set up")
    layer = secrets.token_hex(32)
    created = time.time()
    snapshot = Snapshot(
        id=layer,
        key=cache.key(inputs),
        image_digest=context.base.image.digest,
        layer=layer,
        repo=source.url if source else None,
        commit=source.default_commit if source else None,
        inputs=dict(inputs),
        created=created,
        expires=created + cache.LIFETIME,
    )
    async with runtime.changing_layers:
        await asyncio.to_thread(runtime.layers.commit_layer, writable / "upper", layer)
        fault.at("snapshot: layer committed")
        runtime.store.add_snapshot(snapshot)
    fault.at("snapshot: stored")
    return snapshot
