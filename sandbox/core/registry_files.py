"""The files of an image, and those of this host, as proxy.registries looks at them: as data, bounded, each read once.

Must not let one bad file spoil the others: what can't be read says nothing. Links are followed inside the image only.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from rootfs.errors import ImageError
from rootfs.image import Image
from rootfs.read_image import names_in_image, read_from_image
from rootfs.store import Store

_CONFIGURATION: Final = 64 << 10  # bytes
_SOURCE: Final = 8 << 20
_REMEMBERED: Final = 1024  # questions; a task's variables may name any path


class _Remembered(ABC):
    """What was asked once is remembered: an image never changes, and of a host only its programs matter here."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], object] = {}

    def text(self, path: str) -> str:
        return self._once("text", path, lambda: self._read(path, _CONFIGURATION))

    def find(self, path: str, pattern: re.Pattern[str]) -> tuple[str, ...] | None:
        def search() -> tuple[str, ...] | None:
            found = pattern.search(self._read(path, _SOURCE))
            return found.groups() if found else None

        return self._once(pattern.pattern, path, search)

    def names(self, directory: str) -> list[str]:
        return self._once("names", directory, lambda: self._names(directory))

    def _once[T](self, question: str, path: str, answer: Callable[[], T]) -> T:
        key = (question, path)
        with suppress(KeyError):
            return self._known[key]  # type: ignore[return-value]
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        found = self._known[key] = answer()
        return found

    @abstractmethod
    def _read(self, path: str, most: int) -> str: ...

    @abstractmethod
    def _names(self, directory: str) -> list[str]: ...


class ImageFiles(_Remembered):
    """The files of one image."""

    def __init__(self, store: Store, image: Image) -> None:
        super().__init__()
        self._store, self._image = store, image

    def _read(self, path: str, most: int) -> str:
        try:
            return (read_from_image(self._store, self._image, path, most) or b"").decode("utf-8", "replace")
        except (ImageError, OSError, ValueError):  # too large, a loop of links, a name that no file can have
            return ""

    def _names(self, directory: str) -> list[str]:
        try:
            return names_in_image(self._store, self._image, directory)
        except (ImageError, OSError, ValueError):
            return []


class HostFiles(_Remembered):
    """This host's own files, which are trusted; only for what its package managers' programs say of themselves."""

    def _read(self, path: str, most: int) -> str:
        with suppress(OSError):
            return Path("/", path).read_text(encoding="utf-8", errors="replace")
        return ""

    def _names(self, directory: str) -> list[str]:
        with suppress(OSError):
            return sorted(os.listdir(Path("/", directory)))
        return []
