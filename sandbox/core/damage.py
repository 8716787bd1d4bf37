"""Damage: whether a snapshot's files look as they did when it was kept. A crash of the host may have changed them, or a hand.

    kept for good                           ─ digest stored with it
    first use by this daemon, or each hour  ─ the same digest? ─ yes ▶ used
                                                               └ no  ▶ dropped, and built again by who asked

The digest is of names, types, owners, sizes and times (rootfs/layer_digest.py). Contents are not read: that takes too long.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from sandbox.core.model import Snapshot
from sandbox.host import jobs
from sandbox.host.errors import HostError

if TYPE_CHECKING:
    from sandbox.core.runtime import Runtime

_log = logging.getLogger("hutch")
_TIMEOUT: Final = 60.0


async def digest(layer: Path, *, gently: bool) -> str | None:
    """What a layer's files look like; "" if they can't be read, None if nobody can tell. `gently`: nobody waits for it."""
    request = {"layer": str(layer), "gently": gently}
    try:
        return str((await jobs.run("rootfs.layer_digest", request, _TIMEOUT))["digest"])
    except (HostError, OSError) as error:
        _log.warning("cannot look at the files of the layer %s: %s", layer.name[:12], error)
        return None


async def is_damaged(runtime: Runtime, snapshot: Snapshot, *, again: bool = False) -> bool:
    """Whether its files differ from those that were kept; asked once in a daemon's life unless `again`.

    What can't be told (no digest was kept, looking takes too long) is no damage.
    """
    if snapshot.digest is None or (snapshot.id in runtime.looked_at and not again):
        return False
    with runtime.using(snapshot.layer):
        found = await digest(runtime.layers.layer_path(snapshot.layer), gently=again)
    runtime.looked_at.add(snapshot.id)
    return found not in (None, snapshot.digest)
