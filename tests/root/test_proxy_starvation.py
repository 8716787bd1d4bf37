"""One tenant that does its worst: its neighbour is still served, no worker ends, and all that it held is given back.

Must not measure speed: a stall is a failure, a busy machine is not.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support import floods, neighbour
from tests.support.filter_lab import REAL_GATEWAY_RULES, Lab, lab
from tests.support.filter_watch import Watch, errors_into

SECONDS = 1.8
MEMORY = 250_000_000  # bytes of all processes of the filter, whatever it has gone through
STALL = 5.0  # seconds
FLOODS, NEIGHBOUR = (Path(module.__file__).read_text() for module in (floods, neighbour))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("filter") / "log"


@pytest.fixture(scope="module")
def net(log: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        with errors_into(log):
            laboratory = stack.enter_context(lab(rules=REAL_GATEWAY_RULES))
        yield laboratory


@pytest.mark.parametrize("flood", floods.FLOODS)
def test_the_neighbour_is_served(net: Lab, log: Path, flood: str) -> None:
    net.policy("limited", "up.test", sandbox=0)
    net.policy("unrestricted", "up.test mode=inspect", sandbox=1)
    asked_before = answers(net, 0.3)
    assert failures(asked_before) == []
    watch = Watch(net, log)
    hostile = net.popen(FLOODS, flood, str(SECONDS), sandbox=0)
    try:
        took = answers(net, SECONDS - 0.5)
    finally:
        said, complaint = hostile.communicate(timeout=60)
    assert hostile.returncode == 0, complaint
    assert said != "{}\n", "it did something"
    assert failures(took) == []
    for what, seconds in by_kind(took).items():
        assert max(seconds) < STALL, (what, max(seconds))
    watch.assert_whole()
    net.filter.drop(net.address(0))
    net.filter.forget_records()
    watch.assert_given_back(MEMORY - watch.memory, seconds=20)


def answers(net: Lab, seconds: float) -> list[tuple[str, float, str]]:
    """What the neighbour asked for, how long it took, and its errors."""
    found: list[tuple[str, float, str]] = json.loads(net.python(NEIGHBOUR, str(seconds), sandbox=1))
    return found


def failures(took: list[tuple[str, float, str]]) -> list[tuple[str, str]]:
    return [(what, error) for what, _, error in took if error]


def by_kind(took: list[tuple[str, float, str]]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = defaultdict(list)
    for what, seconds, _ in took:
        found[what].append(seconds)
    return found
