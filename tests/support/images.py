"""Importing from a test: one call that must succeed, one that must be refused and leave nothing.

Must not know what the archives contain.
"""

from __future__ import annotations

import pytest

from rootfs.errors import ImageError
from rootfs.image import Image
from rootfs.import_job import import_archive
from rootfs.store import Store
from tests.support.archives import write


def quiet(text: str, done: int | None = None, total: int | None = None) -> None:
    """A progress function for those who don't care."""


def load(store: Store, data: bytes, form: str = "", name: str = "x") -> Image:
    archive = write(store.root.parent / "archive", data, form)
    return import_archive(store, str(archive), name, "archive", quiet)  # type: ignore[arg-type]


def refused(store: Store, data: bytes, words: str, form: str = "") -> None:
    """The import fails with one sentence, and leaves nothing."""
    with pytest.raises(ImageError, match=words) as caught:
        load(store, data, form)
    message = str(caught.value)
    assert message.startswith("cannot import 'archive': ")
    assert "\n" not in message
    assert store.list_images() == []
    assert list(store.staging.iterdir()) == []
