"""What a task's sandboxes asked of the network: counted by name, told once, and summed up at the end."""

from __future__ import annotations

import contextlib
from typing import Any, Final

from sandbox.core.journal import Journal

_MAX_NAMES: Final = 500


class NetworkRecord:
    """Collects the filter's records of one task and writes them to its journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._allowed = 0
        self.bytes = 0  # of what has ended, in both directions
        self._denied: dict[tuple[str, str, int | None], dict[str, Any]] = {}

    def add(self, record: dict[str, Any]) -> None:
        """One decision of the filter; a listener of `Sandboxes.open`."""
        if self._journal.closed:
            return
        record = self._journal.hiding.json(record)
        with contextlib.suppress(OSError):  # a full disk: the summary still counts it
            self._journal.network(record)
        self.bytes += int(record.get("bytes") or 0)
        if record.get("decision") == "allow":
            self._allowed += 1
            return
        phase, name, port = str(record.get("phase") or ""), str(record.get("name") or "?"), record.get("port")
        entry = self._denied.get((phase, name, port))
        if entry is not None:
            entry["count"] += 1
            # The first refusal that a rule would have prevented tells more than one that none would.
            if record.get("rule") and not entry["rule"]:
                entry |= _why(record)
        elif len(self._denied) < _MAX_NAMES:
            self._denied[phase, name, port] = {"phase": phase, "name": name, "port": port, "count": 1, **_why(record)}

    def summary(self) -> dict[str, Any]:
        """{"allowed": count, "denied": [{phase, name, port, count, rule, reason}]}."""
        return {"allowed": self._allowed, "denied": list(self._denied.values())}


def _why(record: dict[str, Any]) -> dict[str, Any]:
    return {"rule": record.get("rule"), "reason": record.get("reason")}
