"""Directory trees that nobody vouches for: walk, measure, digest and delete them.

Must not follow a symlink, leave the file system it started on, recurse, or keep one descriptor per level:
a tenant can nest 5,000 directories and point links anywhere.
"""

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rootfs.errors import ImageError

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH = 4096  # names taken from a directory at once: a directory of ten million entries must not fill the memory
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class Found:
    """One entry met by `walk`. `directory` is an open descriptor that is valid until the next step only."""

    directory: int
    name: str
    path: str  # relative to the top, without a leading slash
    info: os.stat_result


@dataclass(frozen=True, slots=True)
class Removed:
    """What a deletion freed: entries, and bytes on disk (a file with several names counts when its last name goes)."""

    entries: int
    bytes: int


def walk(top: int) -> Iterator[Found]:
    """Every entry below the open directory `top`, parents first, names in byte order. Uses two descriptors.

    Goes back up by '..' and checks that it arrived where it came from; a tree that is changed meanwhile is an
    error. Directories on other file systems are yielded, not entered.
    """
    here = os.dup(top)
    device = os.fstat(top).st_dev
    prefix = ""
    levels: list[tuple[Iterator[str], tuple[int, int], str]] = []
    names = _sorted_names(here)
    try:
        while True:
            name = next(names, None)
            if name is None:
                if not levels:
                    return
                names, identity, prefix = levels.pop()
                here = _replace(here, os.open("..", _DIRECTORY, dir_fd=here))
                if _identity(here) != identity:
                    raise ImageError(
                        f"cannot read the directory {prefix or '/'}", "it was changed while it was being read"
                    )
                continue
            info = os.stat(name, dir_fd=here, follow_symlinks=False)
            yield Found(here, name, prefix + name, info)
            if stat.S_ISDIR(info.st_mode) and info.st_dev == device:
                levels.append((names, _identity(here), prefix))
                here = _replace(here, os.open(name, _DIRECTORY, dir_fd=here))
                names, prefix = _sorted_names(here), f"{prefix}{name}/"
    finally:
        os.close(here)


def _sorted_names(directory: int) -> Iterator[str]:
    return iter(sorted(os.listdir(directory), key=os.fsencode))


def _identity(directory: int) -> tuple[int, int]:
    info = os.fstat(directory)
    return info.st_dev, info.st_ino


def _replace(old: int, new: int) -> int:
    os.close(old)
    return new


@dataclass(frozen=True, slots=True)
class Measured:
    """A tree in two words: sha256 of names, types, modes, owners, targets, attributes and contents (not times), and bytes."""

    digest: str
    bytes: int


def tree_size(path: Path) -> int:
    """Sum of the sizes of the regular files below `path`, each inode once."""
    sizes = _Sizes()
    with _opened(path) as top:
        for found in walk(top):
            sizes.add(found.info)
    return sizes.total


def measure_tree(path: Path) -> Measured:
    """Read the whole tree. Two trees with the same digest differ in nothing but times."""
    digest, sizes = hashlib.sha256(), _Sizes()
    with _opened(path) as top:
        digest.update(_describe(Found(top, ".", ".", os.fstat(top))))
        for found in walk(top):
            sizes.add(found.info)
            digest.update(_describe(found))
    return Measured(digest.hexdigest(), sizes.total)


class _Sizes:
    def __init__(self) -> None:
        self.total = 0
        self._seen: set[int] = set()

    def add(self, info: os.stat_result) -> None:
        if not stat.S_ISREG(info.st_mode) or info.st_ino in self._seen:
            return
        if info.st_nlink > 1:
            self._seen.add(info.st_ino)
        self.total += info.st_size


def _describe(found: Found) -> bytes:
    """Everything of one entry that its layer's name must stand for, unambiguously (each field with its length)."""
    info = found.info
    fields = [os.fsencode(found.path), f"{info.st_mode:o} {info.st_uid} {info.st_gid}".encode()]
    if stat.S_ISLNK(info.st_mode):
        fields.append(os.fsencode(os.readlink(found.name, dir_fd=found.directory)))
    elif stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode):
        fd = os.open(found.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=found.directory)
        with os.fdopen(fd, "rb", closefd=True) if stat.S_ISREG(info.st_mode) else _closing(fd) as handle:
            fields += [part for name in sorted(os.listxattr(fd)) for part in (name.encode(), os.getxattr(fd, name))]
            if not isinstance(handle, int):
                fields.append(hashlib.file_digest(handle, "sha256").digest())
    else:
        fields.append(str(info.st_rdev).encode())
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields) + b"\xff\xff\xff\xff"


class _closing:
    """`with` for a bare descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __enter__(self) -> int:
        return self._fd

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)


def _opened(path: Path) -> _closing:
    return _closing(os.open(path, _DIRECTORY))


def remove_tree(path: Path) -> Removed:
    """Delete `path`, whatever it is and however it was left. A missing path is fine. Idempotent: run it again after a crash.

    The parent of `path` is trusted, nothing below it. A directory found inside is first renamed to the top level
    under a name nobody can guess and only then entered: depth never matters, two descriptors are enough, whoever still
    holds the tree cannot swap a link into the way (everything goes by descriptor and O_NOFOLLOW), and a
    mount point makes the rename fail instead of letting us delete what is mounted there.
    """
    try:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return Removed(0, 0)
    try:
        return _remove_at(parent, path.name)
    except OSError as error:
        raise ImageError(
            f"cannot delete {path}: {error.strerror} ({error.filename})", "see what is mounted or open there"
        ) from error
    finally:
        os.close(parent)


def _remove_at(parent: int, name: str) -> Removed:
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return Removed(0, 0)
    if not stat.S_ISDIR(info.st_mode):
        os.unlink(name, dir_fd=parent)
        return Removed(1, _frees(info))
    top = _enter(parent, name)
    try:
        entries, freed = _empty(top)
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)
    return Removed(entries + 1, freed)


def _empty(top: int) -> tuple[int, int]:
    """Delete everything below `top`; returns entries and bytes."""
    token = secrets.token_hex(8)
    waiting, made, entries, freed = [""], 0, 0, 0  # "" stands for the top itself
    while waiting:
        current = waiting.pop()
        fd = _enter(top, current) if current else os.dup(top)
        try:
            for name, info in _entries_until_empty(fd, f".rm-{token}-"):
                if stat.S_ISDIR(info.st_mode):
                    made += 1
                    if os.geteuid() != 0:
                        os.close(_enter(fd, name))  # without privilege a directory must be writable to be moved
                    os.rename(name, f".rm-{token}-{made}", src_dir_fd=fd, dst_dir_fd=top)
                    waiting.append(f".rm-{token}-{made}")
                else:
                    os.unlink(name, dir_fd=fd)
                    freed += _frees(info)
                entries += 1
        finally:
            os.close(fd)
        if current:
            os.rmdir(current, dir_fd=top)
    return entries, freed


def _entries_until_empty(fd: int, ours: str) -> Iterator[tuple[str, os.stat_result]]:
    """The entries of a directory in batches, read again until only `ours` (already renamed directories) are left."""
    while True:
        batch: list[str] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if not entry.name.startswith(ours):
                    batch.append(entry.name)
                if len(batch) >= _BATCH:
                    break
        for name in batch:
            try:
                yield name, os.stat(name, dir_fd=fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
        if not batch:
            return


def _enter(parent: int, name: str) -> int:
    """Open a directory that is about to be emptied, giving ourselves the rights where they are missing (unprivileged use)."""
    try:
        fd = os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
        try:
            Path(f"/proc/self/fd/{handle}").chmod(stat.S_IRWXU)  # fchmod refuses O_PATH descriptors
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        finally:
            os.close(handle)
    if os.geteuid() != 0:
        os.fchmod(fd, stat.S_IRWXU)
    return fd


def _frees(info: os.stat_result) -> int:
    return info.st_blocks * 512 if info.st_nlink == 1 else 0


def sync_directory(path: Path) -> None:
    """Make a rename inside `path` survive a power cut."""
    with _opened(path) as fd:
        try:
            os.fsync(fd)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems have nothing to sync
                raise
