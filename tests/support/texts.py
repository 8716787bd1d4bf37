"""Files of an image as a table of texts, for what only looks at files (proxy.registries.index.Files).

Must not touch the disk.
"""

from __future__ import annotations

import re
from collections.abc import Mapping


class Texts:
    """`files`: path without its first / → text."""

    def __init__(self, files: Mapping[str, str]) -> None:
        self._files = files

    def text(self, path: str) -> str:
        assert not path.startswith("/"), path
        return self._files.get(path, "")

    def find(self, path: str, pattern: re.Pattern[str]) -> tuple[str, ...] | None:
        found = pattern.search(self.text(path))
        return found.groups() if found else None

    def names(self, directory: str) -> list[str]:
        below = [path.removeprefix(f"{directory}/") for path in self._files if path.startswith(f"{directory}/")]
        return sorted({path.partition("/")[0] for path in below})
