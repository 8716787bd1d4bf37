"""Asks package indexes where their downloads are, by a process without privilege: what they answer is strangers' bytes.

Must not believe that process either: what it says is checked as though the index itself had said it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxy.registries.answers import Answer, believed
from proxy.registries.ask import SECONDS
from proxy.registries.index import Index
from sandbox.host import jobs
from sandbox.host.errors import HostError
from sandbox.host.trusted import host_addresses

_MODULE: Final = "proxy.registries"
_START: Final = 5.0  # seconds that the process itself may take beside its questions


@dataclass(frozen=True)
class IndexQuestions:
    """`uid`: the host id that asks. The others as the filter has them: what it reaches is what is asked."""

    uid: int
    hosts_file: Path | None
    private: tuple[str, ...]
    trust: Path

    async def __call__(self, indexes: Sequence[Index]) -> list[Answer]:
        """An answer for each. Raises HostError or TimeoutError when there is no process to ask."""
        request = {
            "indexes": [[index.kind, index.url] for index in indexes],
            "hosts": str(self.hosts_file) if self.hosts_file else None,
            "private": list(self.private),
            "own": await asyncio.to_thread(host_addresses),
            "trust": str(self.trust),
        }
        limit = SECONDS + _START
        async with asyncio.timeout(limit):  # for both times that a job is tried
            answers = (await jobs.run(_MODULE, request, limit, self.uid)).get("answers")
        if not isinstance(answers, list) or len(answers) != len(indexes):
            raise HostError("the process that asks package indexes did not answer for each", "try again")
        return [believed(answer) for answer in answers]
