"""The cache's files after a kill at any step: whole bodies only, nothing left over. No root, no process.

A kill is an exception at a step of the store's own that no cleanup of its own survives.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxy.artifacts import files, store
from proxy.artifacts.store import Store
from tests.support.artifact_files import bodies, directory_fd, on_disk, put, url


class Killed(BaseException):
    """Nothing of the store's may run after this."""


class Mortal:
    """The os module, of which the n-th change of a file doesn't happen, nor any after it."""

    CHANGES = ("open", "write", "rename", "unlink", "ftruncate", "fdatasync", "posix_fallocate", "utime")

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.CHANGES:
            return real

        def change(*args: Any, **named: Any) -> Any:
            self.steps -= 1
            if self.steps < 0:
                raise Killed
            return real(*args, **named)

        return change


Op = tuple[str, str, int]
OPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put unknown", "use", "refresh", "clear"]),
        st.sampled_from("abc"),
        st.integers(0, 90_000),
    ),
    max_size=8,
)


def apply(cache: Store, op: Op, written: dict[str, set[bytes]]) -> None:
    kind, name, size = op
    match kind:
        case "put" | "put unknown":
            body = f"{name}{size}".encode() * (size // 8)
            written.setdefault(name, set()).add(body)
            put(cache, name, body, known=kind == "put")
        case "use":
            bodies(cache, name)
        case "refresh":
            for stored in cache.find(url(name)):
                cache.refresh(stored, stored.record)
        case "clear":
            cache.clear()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ops=OPS, steps=st.integers(0, 60))
def test_killed_at_any_step_it_starts_with_whole_bodies_only(
    tmp_path_factory: pytest.TempPathFactory, ops: list[Op], steps: int
) -> None:
    directory = tmp_path_factory.mktemp("artifacts")
    written: dict[str, set[bytes]] = {}
    with directory_fd(directory) as fd, pytest.MonkeyPatch.context() as patch:
        cache = Store(fd, 400_000)
        mortal = Mortal(steps)
        patch.setattr(store, "os", mortal)
        patch.setattr(files, "os", mortal)
        try:
            for op in ops:
                apply(cache, op, written)
        except Killed:
            pass
        mortal.steps = 1_000_000
        after = Store(fd, 400_000)
        for name in "abc":
            assert set(bodies(after, name)) <= written.get(name, set())
            assert len(bodies(after, name)) <= 2  # a newer one, and one that it hadn't replaced yet
        names = on_disk(directory)
        assert {Path(name).suffix for name in names} <= {".body", ".meta"}
        assert len(names) == 2 * after.listing()["entries"]
        assert sum((directory / name).stat().st_blocks * 512 for name in names) <= after.listing()["bytes"] <= 400_000
        put(after, "a", b"works")
        assert b"works" in bodies(after, "a")
