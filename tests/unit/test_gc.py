"""Which snapshots a collection drops, as a table."""

from __future__ import annotations

import pytest

from sandbox.core.gc import Wanted, unwanted
from sandbox.core.model import Snapshot

NOW = 1000.0


def snapshot(name: str, age: float, environment: str = "e", lifetime: float = 500.0) -> Snapshot:
    return Snapshot(name, "k", "i", name, "r", None, environment, None, {}, NOW - age, NOW - age + lifetime)


SNAPSHOTS = [
    snapshot("new", 1),
    snapshot("other", 2, "f"),
    snapshot("middle", 100),
    snapshot("old", 400),
    snapshot("expired", 600),
]


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(), "expired"),
        (Wanted(older_than=50), "middle old expired"),
        (Wanted(keep=1), "middle old expired"),
        (Wanted(keep=2), "old expired"),
        (Wanted(keep=0), "new other middle old expired"),
        (Wanted(older_than=200, keep=5), "old expired"),
    ],
)
def test_what_goes(wanted: Wanted, names: str) -> None:
    assert " ".join(one.id for one in unwanted(SNAPSHOTS, wanted, NOW)) == names
