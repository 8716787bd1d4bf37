"""Snapshots: setup's upper directory becomes a layer by one rename, and is found by its key from when it is on the disk; and what
of them is shown and dropped."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rootfs.errors import ImageError
from sandbox.core import cache, damage, gc, phases
from sandbox.core.access import User, shown_scope
from sandbox.core.environments import Environments, keeps_for_others
from sandbox.core.errors import BadRequest, NotFound
from sandbox.core.model import Snapshot, TaskSpec, without_login
from sandbox.core.phases import PhaseContext
from sandbox.core.runtime import Runtime
from sandbox.core.source import Source
from sandbox.host import fault


async def find(runtime: Runtime, key: str) -> tuple[Snapshot | None, str]:
    """The snapshot of a key; else in words why one that there is can't be used. What is found must be in use (`Runtime.using`)
    before anything else is awaited: until then it can be collected."""
    found = runtime.pending.get(key) or runtime.store.snapshot(key)
    if found is None:
        return None, ""
    if not runtime.layers.has_layer(found.layer):
        return None, "the files of its snapshot are gone"
    if await damage.is_damaged(runtime, found):
        await gc.drop_damaged(runtime, found)
        return None, "the files of its snapshot are damaged"
    return found, ""


async def set_up(context: PhaseContext, script: str, directory: Path, source: Source | None) -> Path:
    """Check out the default branch and run setup; the directory of what that wrote. Raises PhaseFailed for a failing script."""
    writable = phases.new_writable(directory, large=True)
    await _check_out(context, writable, source)
    await context.script("setup", writable, script)
    await context.refuse_secrets("setup", writable)
    await _check_out(context, writable, source)  # again: a task of this commit then has nothing to do
    fault.at("snapshot: set up")
    return writable / "upper"


async def keep_snapshot(
    runtime: Runtime, context: PhaseContext, spec: TaskSpec, upper: Path, source: Source | None, inputs: Mapping[str, str]
) -> Snapshot:  # fmt: skip
    """Have other tasks find what setup wrote; unless its environment was reset or taken from its owner meanwhile: then the layer
    is this task's, and goes with the next collection."""
    layer = secrets.token_hex(32)
    created = time.time()
    snapshot = Snapshot(
        id=layer,
        key=cache.key(inputs),
        image_digest=context.base.image.digest,
        layer=layer,
        repo=source.url if source else None,
        commit=source.default_commit if source else None,
        environment=spec.scope,
        checkout=source.default_checkout if source else None,
        inputs=dict(inputs),
        created=created,
        expires=created + (cache.LIFETIME if spec.cache_lifetime is None else spec.cache_lifetime),
    )
    async with runtime.changing_layers:
        await asyncio.to_thread(runtime.layers.commit_layer, upper, layer, synced=False)
        fault.at("snapshot: layer committed")
        if keeps_for_others(runtime.store, spec):
            runtime.keep(snapshot)
    return snapshot


async def _check_out(context: PhaseContext, writable: Path, source: Source | None) -> None:
    if source is not None:
        await context.checkout(writable, source.default_commit, source.default_branch)


class Snapshots:
    """The snapshots of this installation, for people."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._environments = Environments(runtime.store)
        self._sizes: dict[str, int] = {}  # bytes by layer: one never changes

    async def shown(self, user: User) -> list[dict[str, Any]]:
        """Those that a user may see, newest first, as the API shows them."""
        await self._runtime.kept()
        keys = self._runtime.store.cache_keys()
        return [await self._shown(one, user, keys) for one in self._of(user)]

    async def show(self, user: User, prefix: str) -> dict[str, Any]:
        """One, by an unambiguous beginning of its id. Raises NotFound, BadRequest."""
        await self._runtime.kept()
        return await self._shown(self._find(user, prefix), user, self._runtime.store.cache_keys())

    async def remove(self, user: User, prefix: str) -> dict[str, int]:
        """Drop one. Raises NotFound, BadRequest, Forbidden."""
        await self._runtime.kept()
        found = self._find(user, prefix)
        if found.runtime:
            user.must_be_root("drop the layer of a language runtime, which all tasks share")
        elif name := shown_scope(found.environment, user.uid):
            self._environments.get(user, name, "change")
        return await gc.drop(self._runtime, [found])

    async def reset(self, environment: str) -> dict[str, int]:
        """Drop those of an environment, by its id; returns how many, and the bytes freed."""
        await self._runtime.kept()
        return await gc.drop(
            self._runtime, [one for one in self._runtime.store.list_snapshots() if one.environment == environment]
        )

    def _of(self, user: User) -> list[Snapshot]:
        found = self._runtime.store.list_snapshots()
        if user.is_root:
            return found
        scopes = {f"{one.owner}:{one.name}" for one in self._environments.of(user)} | {f"{user.uid}:"}
        return [one for one in found if one.runtime or one.environment in scopes]

    def _find(self, user: User, prefix: str) -> Snapshot:
        found = [one for one in self._of(user) if one.id.startswith(prefix)]
        if not found:
            raise NotFound(f"there is no snapshot {prefix!r}", "hutch snapshot ls shows what there is")
        if len(found) > 1:
            raise BadRequest(f"the snapshot id {prefix!r} is ambiguous", "give more of its letters")
        return found[0]

    async def _shown(self, one: Snapshot, user: User, keys: Mapping[str, int]) -> dict[str, Any]:
        if one.layer not in self._sizes and self._runtime.layers.has_layer(one.layer):
            with contextlib.suppress(OSError, ImageError):  # it is being removed
                self._sizes[one.layer] = await asyncio.to_thread(self._runtime.layers.layer_size, one.layer)
        return {
            "id": one.id[:12],
            "key": one.key,
            "environment": shown_scope(one.environment, user.uid),
            "runtime": one.runtime,
            "repo": without_login(one.repo) if one.repo else None,
            "commit": one.commit,
            "created": _time(one.created),
            "expires": _time(one.expires),
            "bytes": self._sizes.get(one.layer),
            "in_use": one.layer in self._runtime.layers_in_use(),
            "tasks": keys.get(one.key, 0),
        }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
