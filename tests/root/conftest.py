"""What tests with root share beyond the general fixtures: a daemon that is to be killed.

Must not be used by tests that need the contents of a real image.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.faults import Victim


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    """A daemon on a state of its own, running, with the image `tiny` and a repository."""
    with Victim.make(tmp_path_factory.mktemp("victim")) as made:
        yield made
