"""What every handler may ask, and how it answers with a stream of lines. Not a place for logic."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sandbox.core.access import User
from sandbox.core.environments import Environments
from sandbox.core.execs import Execs
from sandbox.core.model import Task
from sandbox.core.relay import Relays
from sandbox.core.runtime import Runtime
from sandbox.core.scheduler import Scheduler
from sandbox.core.snapshots import Snapshots

NDJSON: Final = "application/x-ndjson"


@dataclass(frozen=True)
class Services:
    """What handlers may ask."""

    runtime: Runtime
    scheduler: Scheduler
    execs: Execs
    relays: Relays
    snapshots: Snapshots
    environments: Environments

    def task(self, user: User, prefix: str) -> Task:
        """A user's task by an unambiguous beginning of its id; to root, anybody's. Raises NotFound, BadRequest."""
        return self.scheduler.current(prefix, user.sees_only)


async def encoded(events: AsyncGenerator[dict[str, Any]], *first: dict[str, Any]) -> AsyncIterator[bytes]:
    """Each event as a line; `first` ones before the others."""
    async with contextlib.aclosing(events):
        for event in first:
            yield _line(event)
        async for event in events:
            yield _line(event)
            # A hang-up is told by a cancellation, which reaches only who waits: events that are always there already, sent to
            # somebody who has gone, would go on for ever.
            await asyncio.sleep(0)


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode() + b"\n"
