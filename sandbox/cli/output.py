"""How the command line writes: bytes to descriptors at once, JSON, colours, tables, and amounts as people read them.

It must not know tasks or the API, and imports rich only where a table is drawn on a terminal. Nothing here reads input.
"""

from __future__ import annotations

import json
import os
import select
from collections.abc import Sequence
from typing import Any

STDIN, STDOUT, STDERR = 0, 1, 2

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
# Bidirectional controls reorder what stands around them: a name that holds one can forge the rest of its line.
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def write_all(fd: int, data: bytes) -> None:
    """Write all of `data` now, also to a descriptor that somebody made non-blocking."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])


def print_line(text: str, fd: int = STDOUT) -> None:
    """One line of text; file names that are no UTF-8 come out as the bytes they are."""
    write_all(fd, text.encode("utf-8", "surrogateescape") + b"\n")


def print_json(value: Any) -> None:
    """One JSON object on one line of standard output: ASCII, so that no locale and no lone surrogate can break it."""
    write_all(STDOUT, json.dumps(value).encode("ascii") + b"\n")


def colours(fd: int) -> bool:
    """Whether colours belong there: a terminal that can, and nobody said no (NO_COLOR)."""
    return os.isatty(fd) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, fd: int) -> str:
    """`text` in a style ("bold", "red", …) where `fd` shows colours, else unchanged."""
    return f"\x1b[{_CODES[style]}m{text}\x1b[0m" if colours(fd) else text


def printable(text: object) -> str:
    """Text for one line: control and bidirectional characters become '?'. What tenants named comes through here."""
    return "".join("?" if c in _BIDI or c < " " or "\x7f" <= c <= "\x9f" else c for c in str(text))


def plural(count: int, noun: str) -> str:
    """ "1 file", "2 files"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def seconds_text(seconds: float) -> str:
    """A duration as people read it: 0.04 s, 12.3 s, 3 min 5 s, 2 h 10 min."""
    if seconds < 0.1:
        return f"{seconds:.2f} s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], styles: dict[str, str] | None = None) -> None:
    """A table on standard output: drawn by rich on a terminal, plain aligned columns for pipes and files.

    `styles` gives the colour of a cell by its text, for example {"ok": "green"}.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    if os.isatty(STDOUT):
        _draw(headers, rows, styles or {})
        return
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    for row in [headers, *rows]:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _draw(headers: Sequence[str], rows: Sequence[Sequence[str]], styles: dict[str, str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, overflow="fold", no_wrap=header in ("ID", "STATE", "AGE", "TOOK"))
    for row in rows:
        table.add_row(*(Text(cell, style=styles.get(cell, "")) for cell in row))
    console = Console(no_color=not colours(STDOUT))
    with console.capture() as drawn:
        console.print(table)
    write_all(STDOUT, drawn.get().encode("utf-8", "replace"))
