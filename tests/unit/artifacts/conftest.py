"""Fixtures of the artifact cache's tests: a registry, the process before it, and one way to ask it.

Needs no root. Must not leave loopback: the names are in the hosts table that the process gets.

    registry   a server whose every answer a test writes down         lab       a process of its own for each test
    get        ask the process that all tests of a module share       shared    that process, on both event loops, cleared
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest

from tests.support.artifact_lab import Get, Lab, cache
from tests.support.artifact_server import Registry


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    with Registry().running() as server:
        yield server


@pytest.fixture
def registry(served: Registry) -> Registry:
    served.forget()
    return served


@pytest.fixture(scope="module", params=["uvloop", "asyncio"])
def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with cache(tmp_path_factory.mktemp("artifacts"), Path(certifi.where()), loop=request.param) as laboratory:
        yield laboratory


@pytest.fixture
def shared(running: Lab) -> Lab:
    assert "error" not in running.ask(op="artifacts-clear")
    return running


@pytest.fixture
def get(shared: Lab, registry: Registry) -> Get:
    return lambda target, **fields: shared.get(
        registry.url(target), {name.replace("_", "-"): value for name, value in fields.items()}
    )


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    with cache(tmp_path, Path(certifi.where())) as laboratory:
        yield laboratory
