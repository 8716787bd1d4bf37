"""A journal that a crash or a full disk has cut: what is whole stays readable, and a reader always hears of the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sandbox.core.journal import Journal, read_events

ENDED = {"id": "x", "state": "lost"}


def events(path: Path, end: Callable[[], dict[str, Any] | None]) -> list[dict[str, Any]]:
    async def read() -> bytes:
        return b"".join([piece async for piece in read_events(path, None, end)])

    return [json.loads(line) for line in asyncio.run(read()).splitlines()]


def test_a_torn_last_line_is_cut_off_before_more_is_written(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b'{"type": "notice", "text": "whole"}\n{"type": "outp')
    journal = Journal(path)
    journal.end(ENDED)
    journal.close()
    assert [event["type"] for event in events(path, lambda: None)] == ["notice", "end"]


@pytest.mark.parametrize("written", [b"", b'{"type": "notice"}\n', b'{"type": "end"'])
def test_a_journal_of_one_line_or_none_is_no_exception(written: bytes, tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(written)
    journal = Journal(path)
    journal.end(ENDED)
    journal.close()
    assert events(path, lambda: None)[-1] == {"type": "end", "task": ENDED}


def test_a_missing_end_is_made_of_the_task(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    assert events(path, lambda: ENDED) == [{"type": "end", "task": ENDED}]
    path.write_bytes(b'{"type": "notice"}\n')
    assert events(path, lambda: ENDED)[1:] == [{"type": "end", "task": ENDED}]
    assert len(events(path, lambda: None)) == 1, "a task that runs has no end yet"


def test_an_end_is_told_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.ndjson")
    for _ in range(2000):
        journal.output("agent", "stdout", b"x" * 200)  # more than a reader takes at a time
    journal.end({"id": "x" * 300_000})
    journal.close()
    assert [e["type"] for e in events(journal.path, lambda: ENDED)].count("end") == 1


@contextlib.contextmanager
def small_files() -> Iterator[None]:
    """Files of at most 1000 bytes: the kernel then takes a part of a write, as a disk does that has just become full.

    Within the test's body only: pytest's own report may go to a file that is longer already.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_tears_no_line(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "events.ndjson")
    with small_files(), pytest.raises(OSError, match=r"space|large"):  # noqa: PT012 - which write fails is the disk's to say
        for _ in range(100):
            journal.notice("x" * 77)
    journal.close()
    found = events(journal.path, lambda: ENDED)
    assert [event["type"] for event in found] == ["notice"] * (len(found) - 1) + ["end"]
    assert len(found) > 5
