"""Takes the values of plain secrets out of what is kept and shown of a task: output, notices, records. Pure.

What is found is a value as it is, escaped for URLs, JSON or HTML, in base64 or in hex, and of one with several lines each line
that is long enough. What a script has otherwise transformed is not found: it is the user's own script.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final

from proxy.encodings import encoded, written
from proxy.replacing import Replacer

LEAST: Final = 8  # characters: shorter ones occur by chance
SHOWN: Final = b"***"


def spellings(values: Iterable[str]) -> list[bytes]:
    """Everything that a value may look like, the longest first."""
    texts = {text for value in values for text in (value, *value.splitlines()) if len(text) >= LEAST}
    found = {spelling for text in texts for spelling in (*written(text, text), *encoded(text, text))}
    return sorted(found, key=len, reverse=True)


class Hiding:
    """Hides these values."""

    def __init__(self, values: Iterable[str]) -> None:
        self._table = dict.fromkeys(spellings(values), SHOWN)

    def stream(self) -> Replacer:
        """For a stream that comes in pieces."""
        return Replacer(self._table)

    def data(self, data: bytes) -> bytes:
        """For what is whole."""
        return Replacer(self._table).whole(data) if self._table else data

    def json(self, value: dict[str, Any]) -> dict[str, Any]:
        """For an object of JSON types."""
        if not self._table:
            return value
        hidden: dict[str, Any] = json.loads(self.data(json.dumps(value).encode()))
        return hidden


NOTHING: Final = Hiding(())
