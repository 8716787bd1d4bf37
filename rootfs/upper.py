"""A task's overlay upper directory, and the layers below it, read as data: what overlayfs would show, without a mount.

Must not follow a link, open anything but regular files and directories, recurse, or write. What overlayfs never makes with
metacopy=off is refused, not guessed: then a file's content would be somewhere else.

    character device 0:0                       whiteout: the name is gone
    directory with trusted.overlay.opaque=y    opaque: nothing of it comes from below
    directory with trusted.overlay.redirect    was moved: what is below stands under another name (`b`, in the same directory)
                                               or path (`/a/b`, from the root); only in the upper, see inside/mounts.py
    any other directory                        merged with the directories of its name below, down to the first that is
                                               opaque or no directory

A directory that was moved is read whole, what is below included: all of it is new where it stands now.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Self

_PREFIX = "trusted.overlay."
_REDIRECT = _PREFIX + "redirect"
# Bookkeeping of overlayfs that says nothing about content. `metacopy` would.
_HARMLESS = frozenset(_PREFIX + name for name in ("opaque", "origin", "impure", "nlink", "upper", "uuid", "protattr"))
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: should a fifo stand there after all, opening it must not wait for a writer.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class UpperError(Exception):
    """The directory holds what overlayfs with our options doesn't make; one sentence."""


class TooLarge(Exception):
    """A file is larger than the caller's limit."""


class Kind(Enum):
    FILE = "file"
    LINK = "symbolic link"
    DIRECTORY = "directory"
    WHITEOUT = "whiteout"
    FIFO = "named pipe"
    SOCKET = "socket"
    DEVICE = "device"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in an upper directory. Names are bytes: a tenant needn't write UTF-8."""

    name: bytes
    kind: Kind


def kind_of(info: os.stat_result) -> Kind:
    """The kind of an entry, whiteouts told from devices."""
    if stat.S_ISCHR(info.st_mode) and info.st_rdev == 0:
        return Kind.WHITEOUT
    kinds = {stat.S_IFREG: Kind.FILE, stat.S_IFLNK: Kind.LINK, stat.S_IFDIR: Kind.DIRECTORY}
    kinds |= {stat.S_IFIFO: Kind.FIFO, stat.S_IFSOCK: Kind.SOCKET}
    return kinds.get(stat.S_IFMT(info.st_mode), Kind.DEVICE)


class Directory:
    """One directory of the stack: its upper part and the parts below it that still show. Owns their descriptors."""

    def __init__(self, upper: int, lowers: Sequence[int], way: "Way | None" = None, moved: bool = False) -> None:
        self.upper = upper
        self.lowers = tuple(lowers)
        self._way = way or Way(self.lowers, b"")
        self._parts = (upper, *self.lowers) if moved else (upper,)  # those whose entries count as the upper's
        self._moved = moved

    @classmethod
    def open(cls, upper: str | os.PathLike[str], lowers: Sequence[str | os.PathLike[str]]) -> Self:
        """The root of a stack: paths that the daemon names, `lowers` top first."""
        fds: list[int] = []
        try:
            for path in (upper, *lowers):
                fds.append(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            opaque = _is_opaque(fds[0], os.fsencode(upper))
        except BaseException:
            _close(fds)
            raise
        if opaque:
            _close(fds[1:])
        return cls(fds[0], [] if opaque else fds[1:])

    def close(self) -> None:
        _close([self.upper, *self.lowers])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def entries(self, limit: int) -> list[Entry]:
        """What the upper has, in byte order of the names; TooLarge if that is more than `limit`."""
        found: dict[str, Entry] = {}
        for part in self._parts:
            with os.scandir(part) as entries:
                for entry in entries:
                    if len(found) >= limit:
                        raise TooLarge
                    if entry.name not in found:
                        found[entry.name] = Entry(os.fsencode(entry.name), _kind_of_entry(entry))
        return sorted(found.values(), key=lambda entry: entry.name)

    def kind(self, name: bytes) -> Kind | None:
        """What the upper has under `name`, None for nothing."""
        found = self._holder(name)
        return kind_of(found[1]) if found else None

    def _holder(self, name: bytes) -> tuple[int, os.stat_result] | None:
        """Where among the upper's parts `name` is (an index), and what it is."""
        for index, part in enumerate(self._parts):
            if info := _stat(part, name):
                return index, info
        return None

    def _part(self, name: bytes) -> int:
        found = self._holder(name)
        return self._parts[found[0]] if found else self.upper

    def child(self, name: bytes) -> "Directory":
        """The directory `name` of the upper with what still shows of the layers below it."""
        index = (self._holder(name) or (0, None))[0]
        fd = os.open(name, _DIRECTORY, dir_fd=self._parts[index])
        lowers: list[int] = []
        try:
            redirect = _redirect(fd, name) if index == 0 else None
            moved = self._moved or (redirect is not None and not self._way.is_here(redirect, name))
            if _is_opaque(fd, name, redirect is not None):
                pass
            elif redirect is not None and redirect.startswith(b"/"):
                self._way.collect(redirect, lowers)
            else:
                _collect(self.lowers[index:], redirect or name, lowers)
        except BaseException:
            _close([fd, *lowers])
            raise
        return Directory(fd, lowers, self._way.to(name), moved)

    def below(self, name: bytes) -> os.stat_result | None:
        """What the layers below show under `name`, None for nothing; nothing where they count as the upper's."""
        for fd in () if self._moved else self.lowers:
            info = _stat(fd, name)
            if info:
                return None if kind_of(info) is Kind.WHITEOUT else info
        return None

    def exists(self, name: bytes) -> bool:
        """Whether `name` is there in the merged view."""
        kind = self.kind(name)
        return kind is not Kind.WHITEOUT if kind else self.below(name) is not None

    def read(self, name: bytes, limit: int) -> tuple[bytes, bool]:
        """The content of the upper's regular file `name`, and whether it is executable; TooLarge beyond `limit`."""
        return _read(self._part(name), name, limit)

    def read_merged(self, name: bytes, limit: int) -> bytes | None:
        """The content of `name` in the merged view; None if it is not there or no regular file (links aren't followed)."""
        for fd in (self.upper, *self.lowers):
            info = _stat(fd, name)
            if info:
                return _read(fd, name, limit)[0] if stat.S_ISREG(info.st_mode) else None
        return None

    def target(self, name: bytes) -> bytes:
        """Where the upper's symbolic link `name` points; it is not looked up."""
        return os.readlink(name, dir_fd=self._part(name))


@dataclass(frozen=True, slots=True)
class Way:
    """Where a directory stands: its path from the root, and the roots of the layers below, which must stay open."""

    roots: tuple[int, ...]
    path: bytes  # with a slash before each name

    def to(self, name: bytes) -> "Way":
        """The way to an entry of the directory."""
        return Way(self.roots, self.path + b"/" + name)

    def is_here(self, redirect: bytes, name: bytes) -> bool:
        """Whether a directory was moved away and back again."""
        return redirect in (name, self.path + b"/" + name)

    def collect(self, path: bytes, into: list[int]) -> None:
        """Open the directories `path` of the layers below, top first, until one hides the rest."""
        at = [os.dup(root) for root in self.roots]
        try:
            for name in path[1:].split(b"/"):
                found: list[int] = []
                try:
                    _collect(at, name, found)
                finally:
                    _close(at)
                    at = found
        except BaseException:
            _close(at)
            raise
        into += at


def _kind_of_entry(entry: os.DirEntry[str]) -> Kind:
    """The directory itself tells files and links, without another system call for each."""
    if entry.is_file(follow_symlinks=False):
        return Kind.FILE
    return Kind.LINK if entry.is_symlink() else kind_of(entry.stat(follow_symlinks=False))


def _redirect(fd: int, name: bytes) -> bytes | None:
    """Where what is below a directory of the upper stands, if it was moved."""
    try:
        value = os.getxattr(fd, _REDIRECT)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOTSUP):
            return None
        raise
    names = value[1:].split(b"/") if value.startswith(b"/") else [value]
    if any(part in (b"", b".", b"..") or b"/" in part for part in names):
        raise UpperError(f"cannot read {_shown(name)}: its overlay attribute 'redirect' is {value!r}, which is no path")
    return value


def _collect(lowers: Sequence[int], name: bytes, into: list[int]) -> None:
    """Open the directories `name` below, top first, until one hides the rest."""
    for fd in lowers:
        info = _stat(fd, name)
        if info is None:
            continue
        if not stat.S_ISDIR(info.st_mode):
            return
        into.append(os.open(name, _DIRECTORY, dir_fd=fd))
        if _is_opaque(into[-1], name):
            return


def _stat(fd: int, name: bytes) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _read(directory: int, name: bytes, limit: int) -> tuple[bytes, bool]:
    fd = os.open(name, _FILE, dir_fd=directory)
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise UpperError(f"cannot read {_shown(name)}: it stopped being a regular file while it was read")
        _check_attributes(fd, name)
        if info.st_size > limit:
            raise TooLarge
        # One byte more than there should be: a file gives less than asked for at its end only.
        wanted = info.st_size + 1
        data = os.read(fd, wanted)
        while len(data) < info.st_size and (part := os.read(fd, wanted - len(data))):
            data += part
    finally:
        os.close(fd)
    if len(data) > info.st_size:
        raise UpperError(f"cannot read {_shown(name)}: it grew while it was read")
    return data, bool(info.st_mode & 0o100)


def _is_opaque(fd: int, name: bytes, redirected: bool = False) -> bool:
    if _PREFIX + "opaque" not in _check_attributes(fd, name, redirected):
        return False
    value = os.getxattr(fd, _PREFIX + "opaque")
    if value != b"y":
        raise UpperError(
            f"cannot read {_shown(name)}: its overlay attribute 'opaque' is {value!r}, which Hutch doesn't make"
        )
    return True


def _check_attributes(fd: int, name: bytes, redirected: bool = False) -> list[str]:
    """The extended attributes; UpperError if one says that content is kept elsewhere, unless that is known."""
    try:
        attributes = os.listxattr(fd)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENODATA):
            return []
        raise
    for attribute in attributes:
        known = attribute in _HARMLESS or (redirected and attribute == _REDIRECT)
        if attribute.startswith(_PREFIX) and not known:
            raise UpperError(
                f"cannot read {_shown(name)}: it has the overlay attribute {attribute}, which Hutch doesn't make"
            )
    return attributes


def _shown(name: bytes) -> str:
    return ascii(os.fsdecode(name))[:120]


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
