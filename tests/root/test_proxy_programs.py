"""Long and large: gigabytes through the filter while its memory is watched, and programs that wait for hours.

Must not depend on what a sandbox has inside (tests/e2e/test_programs.py does). HUTCH_TEST_TRANSFER=10000000000 makes it longer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.filter_lab import Lab, lab

SIZE = int(os.environ.get("HUTCH_TEST_TRANSFER", "600000000"))
MEGABYTE = 1_000_000
GROWTH = 60 * MEGABYTE  # of all processes together, whatever the size


@pytest.fixture(scope="module")
def net() -> Iterator[Lab]:
    with lab(sandboxes=1) as laboratory:
        yield laboratory


@contextmanager
def watched(net: Lab) -> Iterator[list[int]]:
    """How much memory the filter has, ten times a second."""
    seen, stop = [net.filter.memory()], threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            seen.append(net.filter.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        watcher.join()


@pytest.mark.timeout(120 + SIZE / (10 * MEGABYTE))
@pytest.mark.parametrize("access", ["limited", "unrestricted"])
def test_gigabytes_cost_no_memory(net: Lab, access: str) -> None:
    net.policy(access, "up.test")
    assert net.curl("https://up.test/").returncode == 0
    seconds = 60 + SIZE / (20 * MEGABYTE)
    with watched(net) as seen:
        speeds = "%{size_download} %{speed_download} %{speed_upload}\n"
        down = net.curl("--http1.1", "-o", "/dev/null", "-w", speeds, f"https://up.test/bytes/{SIZE}", seconds=seconds)
        assert down.stdout.split()[0] == str(SIZE), down
        upload = f'head -c {SIZE} /dev/zero | curl -sS --http1.1 -T - -w "{speeds.strip()}" https://up.test/'
        up = net.run("sh", "-c", upload, seconds=seconds)
        assert up.stdout.startswith(f"got {SIZE}\n"), up
    print(
        f"{access}: down {down.stdout.split()[1]} B/s, up {up.stdout.split()[-1]} B/s, memory {seen[0]} to {max(seen)}"
    )
    assert max(seen) - seen[0] < GROWTH
