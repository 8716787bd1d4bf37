"""What tests with root share beyond the general fixtures: a daemon that is to be killed; users of the host.

Must not be used by tests that need the contents of a real image.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import Daemon
from tests.support.faults import Victim
from tests.support.users import ALICE, BOB, GAMES, HostUser, open_directory


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A daemon on a state of its own, running, with the image `tiny` and a repository."""
    with Victim.make(tmp_path_factory.mktemp("victim")) as made:
        yield made


@pytest.fixture
def alice(daemon: Daemon) -> HostUser:
    """A user who may use the socket of the module's daemon."""
    return HostUser(daemon.socket, ALICE, (daemon.socket.stat().st_gid,))


@pytest.fixture
def bob(daemon: Daemon) -> HostUser:
    """Another one, who is also in the group games."""
    return HostUser(daemon.socket, BOB, (daemon.socket.stat().st_gid, GAMES))


@pytest.fixture
def place() -> Iterator[Path]:
    """Where repositories of users lie."""
    path = open_directory("hutch-users-")
    yield path
    shutil.rmtree(path)
