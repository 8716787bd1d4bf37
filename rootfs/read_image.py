"""Reads single files and directories of an image through its layers, as overlayfs would show them.

Must not follow a link out of the image, must not mount, and reads regular files only, up to a size.
"""

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rootfs.errors import ImageError, shown
from rootfs.image import Image
from rootfs.store import Store

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_LINKS_MAX = 40
_PARTS_MAX = 1024
_NAME_MAX = 255  # bytes: a link or a config may name what no file can be called
_OPAQUE = "trusted.overlay.opaque"
DEFAULT_LIMIT = 16 << 20


def read_from_image(store: Store, image: Image, path: str, limit: int = DEFAULT_LIMIT) -> bytes | None:
    """The contents of a regular file, or None when the image has no such file. Errors: larger than `limit`, too many links."""
    return read_from_layers(store.layer_paths(image), path, limit)


def read_from_layers(layers: Sequence[Path], path: str, limit: int = DEFAULT_LIMIT) -> bytes | None:
    """Like `read_from_image`, for any stack of directories (bottom first)."""
    with _walk(layers, path) as place:
        if place is None or place.file is None:
            return None
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(place.file, flags, dir_fd=place.owner)
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ImageError(
            f"cannot read {shown(path)} in the image: it has more than {limit} bytes", "use a smaller file"
        )
    return data


def real_path(store: Store, image: Image, path: str) -> str | None:
    """The path below the root without links that leads to the same file or directory; None when there is none."""
    with _walk(store.layer_paths(image), path) as place:
        return None if place is None else place.path


def is_directory(store: Store, image: Image, path: str) -> bool:
    """Whether the path leads to a directory of the image."""
    with _walk(store.layer_paths(image), path) as place:
        return place is not None and place.file is None


def names_in_image(store: Store, image: Image, path: str) -> list[str]:
    """What a directory of the image contains, sorted; nothing when it isn't one."""
    with _walk(store.layer_paths(image), path) as place:
        return [] if place is None or place.file is not None else sorted(place.directory.names())


@dataclass(frozen=True)
class _Place:
    """Where a path leads, without its links: a directory, or a file in it, which `owner` (an open directory) holds."""

    directory: "_Merged"
    path: str
    file: bytes | None = None
    owner: int = -1


@contextmanager
def _walk(layers: Sequence[Path], path: str) -> Iterator[_Place | None]:
    """Open what is needed to look at `path`. Links are resolved here, one part at a time."""
    tops = [os.open(layer, _DIRECTORY) for layer in reversed(layers)]  # topmost first
    stack = [(b"", _Merged(tops))]
    try:
        yield _resolve(stack, path)
    finally:
        for _, merged in stack:
            merged.close()


def _resolve(stack: list[tuple[bytes, "_Merged"]], path: str) -> _Place | None:
    left = deque(os.fsencode(path).split(b"/"))
    links = 0
    while left:
        part = left.popleft()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if len(stack) > 1:
                stack.pop()[1].close()
            continue
        owner = stack[-1][1].owner(part) if len(part) <= _NAME_MAX else None
        if owner is None:
            return None
        directory, mode = owner
        if stat.S_ISLNK(mode):
            links += 1
            target = os.readlink(part, dir_fd=directory)
            if links > _LINKS_MAX or len(left) > _PARTS_MAX:
                raise ImageError(f"cannot read {shown(path)} in the image: too many links", "repair the image")
            left.extendleft(reversed(target.split(b"/")))
            while target.startswith(b"/") and len(stack) > 1:
                stack.pop()[1].close()
        elif stat.S_ISDIR(mode):
            stack.append((part, stack[-1][1].inner(part)))
        else:
            is_last = not any(rest not in (b"", b".") for rest in left)
            return _Place(stack[-1][1], _joined(stack, part), part, directory) if is_last else None
    return _Place(stack[-1][1], _joined(stack))


def _joined(stack: list[tuple[bytes, "_Merged"]], *last: bytes) -> str:
    return os.fsdecode(b"/".join([*(name for name, _ in stack[1:]), *last]))


class _Merged:
    """A directory as the layers together show it: open directories, topmost first, as far down as nothing hides the rest."""

    def __init__(self, directories: list[int]) -> None:
        self._directories = directories

    def close(self) -> None:
        for fd in self._directories:
            os.close(fd)

    def owner(self, name: bytes) -> tuple[int, int] | None:
        """The directory whose entry of that name is seen, and its mode; None when there is none or a whiteout hides it."""
        for fd in self._directories:
            try:
                info = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            return None if _is_whiteout(info) else (fd, info.st_mode)
        return None

    def names(self) -> set[str]:
        """Everything that is seen in it."""
        found = {name for fd in self._directories for name in os.listdir(fd)}
        return {name for name in found if self.owner(os.fsencode(name)) is not None}

    def inner(self, name: bytes) -> "_Merged":
        """The directory of that name, merged from every layer down to the first that isn't one or is opaque."""
        found: list[int] = []
        for fd in self._directories:
            try:
                inner = os.open(name, _DIRECTORY, dir_fd=fd)
            except FileNotFoundError:
                continue
            except OSError:  # a file, a link or a whiteout ends the merge
                break
            found.append(inner)
            if _is_opaque(inner):
                break
        return _Merged(found)


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _is_opaque(directory: int) -> bool:
    try:
        return os.getxattr(directory, _OPAQUE) == b"y"
    except OSError:
        return False
