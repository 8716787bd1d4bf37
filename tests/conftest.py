"""What all tests share: time limits, loud skips, the leak check, a daemon with the base image. Plain hooks, no plugin.

Must not hide a failure: a skip is printed with its reason and fails with HUTCH_MUST_WORK=1, a leak always fails.

    @pytest.mark.timeout(seconds)   another limit than 120 s for one test
    daemon      (module)   a running daemon on the shared state, with the image `base`
    new_daemon  (function) a not yet started daemon on an empty state of its own
    state       (session)  the shared state directory: HUTCH_TEST_STATE, or /var/tmp/hutch-test, kept between runs
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support import leaks  # the line above makes it importable however pytest was started

if TYPE_CHECKING:
    from tests.support.daemon import Daemon

DEFAULT_LIMIT = 120.0
IMAGE_SECONDS = 1200.0
MUST_WORK = os.environ.get("HUTCH_MUST_WORK") == "1"
HERE = Path(__file__).parent
AS_ROOT = ("root", "escape", "e2e")
ORDER = ("unit", "fuzz", "root", "escape", "e2e")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout(seconds): how long the test's body may take (120 s unless said)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: ORDER.index(folder_of(item)) if folder_of(item) in ORDER else len(ORDER))
    for item in items:
        if folder_of(item) in AS_ROOT and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With several processes: one of them runs all tests that need root, since each would see the others' as its leaks."""
    from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]

    class Scheduler(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return "machine" if Path(path).parent.name in AS_ROOT else path

    return Scheduler(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    marker = item.get_closest_marker("timeout")
    seconds = float(marker.args[0]) if marker else DEFAULT_LIMIT

    def too_late(signum: int, frame: FrameType | None) -> None:
        pytest.fail(f"the test took longer than {seconds:g} s")

    former = signal.signal(signal.SIGALRM, too_late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if MUST_WORK and report.skipped and not hasattr(report, "wasxfail"):
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    if MUST_WORK and report.skipped:
        refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"HUTCH_MUST_WORK=1 allows no skip, but: {reason}"


def folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0] if item.path.is_relative_to(HERE) else ""


@pytest.fixture(autouse=True)
def no_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test that needs root leaves namespaces, links, rules, cgroups, mounts, processes and fds as they were."""
    if folder_of(request.node) not in AS_ROOT:
        yield
        return
    # The daemon whose pool of leases may be filled again at any time.
    name = next((name for name in ("daemon", "other_daemon") if name in request.fixturenames), None)
    daemon: Daemon | None = request.getfixturevalue(name) if name else None
    before = leaks.look(daemon.pid if daemon else None)
    yield
    left = leaks.settled_difference(before, daemon.pid if daemon and daemon.process else None)
    if left:
        pytest.fail("the test left behind:\n  " + "\n  ".join(left))


@pytest.fixture(scope="session")
def state() -> Path:
    """The shared state directory. Tests must not write into it but through a daemon."""
    path = Path(os.environ.get("HUTCH_TEST_STATE", "/var/tmp/hutch-test"))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="session")
def base_image(state: Path) -> str:
    """The name of the base image in the shared state; built when it isn't there, which takes minutes."""
    from tests.support.daemon import Daemon

    if not (state / "images" / "base.json").exists():
        with Daemon(state) as daemon:
            built = daemon.hutch("image", "build", "base", timeout=IMAGE_SECONDS)
            assert built.returncode == 0, built.stderr.decode(errors="replace")
    return "base"


@pytest.fixture(scope="module")
def daemon(state: Path, base_image: str) -> Iterator[Daemon]:
    """A running daemon with the base image, shared by a module's tests; whose end leaves nothing behind."""
    from tests.support.daemon import Daemon

    before = leaks.look()
    with Daemon(state) as daemon:
        yield daemon
        log = daemon.log
    left = leaks.settled_difference(before)
    assert not left, "the daemon left behind:\n  " + "\n  ".join(left) + f"\nits log:\n{log}"


@pytest.fixture
def new_daemon(tmp_path: Path) -> Iterator[Daemon]:
    """A daemon on an empty state, not started yet; stopped and removed at the end if the test didn't."""
    from tests.support.daemon import Daemon

    daemon = Daemon(tmp_path / "state")
    try:
        yield daemon
    finally:
        if daemon.process is not None:
            daemon.stop()
        daemon.remove_directory()
