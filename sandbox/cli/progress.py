"""Progress of long jobs on stderr: a bar that rich draws on a terminal, else a line every few seconds.

It must not write on stdout, nor know what the job is.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

from sandbox.cli.output import STDERR, colours, print_line, printable
from sandbox.units import bytes_text

_EVERY = 3.0  # seconds between two lines that only count


class Progress(Protocol):
    """What a job tells about itself."""

    def uploaded(self, done: int, total: int | None) -> None:
        """So many bytes of so many (None: nobody knows) have been sent."""

    def line(self, line: dict[str, Any]) -> None:
        """A progress line of the daemon: {"progress": text}, perhaps with "done" and "total" of whatever it counts."""


@contextlib.contextmanager
def open_progress() -> Iterator[Progress]:
    """Progress that fits to where stderr goes."""
    if not os.isatty(STDERR):
        yield _Lines()
        return
    with _bar() as bar:
        yield bar


class _Lines:
    """For logs: every new step, and now and then how far the present one is."""

    def __init__(self) -> None:
        self._last_count = time.monotonic()

    def uploaded(self, done: int, total: int | None) -> None:
        if self._due():
            print_line(f"-- sent {bytes_text(done)}" + (f" of {bytes_text(total)}" if total else ""), STDERR)

    def line(self, line: dict[str, Any]) -> None:
        counts = "done" in line
        if not counts or self._due():
            share = f" ({line['done']} of {line['total']})" if counts and line.get("total") else ""
            print_line(f"-- {printable(line['progress'])}{share}", STDERR)

    def _due(self) -> bool:
        now = time.monotonic()
        if now - self._last_count < _EVERY:
            return False
        self._last_count = now
        return True


@contextlib.contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    console = Console(stderr=True, no_color=not colours(STDERR))
    text = TextColumn("{task.description}", markup=False)
    amount = TextColumn("{task.fields[amount]}", markup=False)

    with RichProgress(text, BarColumn(), amount, TimeElapsedColumn(), console=console, transient=True) as rich:
        task = rich.add_task("starting", total=None, amount="")

        class Bar:
            def uploaded(self, done: int, total: int | None) -> None:
                rich.update(task, description="sending", completed=done, total=total, amount=bytes_text(done))

            def line(self, line: dict[str, Any]) -> None:
                description = printable(line["progress"])
                if "done" in line:
                    rich.update(
                        task, description=description, completed=line["done"], total=line.get("total"), amount=""
                    )
                else:
                    rich.console.print(Text(f"-- {description}", style="dim"))
                    rich.update(task, description=description, total=None, amount="")

        yield Bar()
