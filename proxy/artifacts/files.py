"""The few things that the cache does with files, each below a directory descriptor and with a name of its own making.

It follows no link and opens nothing but ordinary files. Whatever else lies in the directory is removed, or left alone
where that doesn't work.
"""

import errno
import logging
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from proxy.records import printable

log = logging.getLogger(__name__)

_NAME = re.compile(r"([0-9a-f]{32}-[0-9a-f]{16})\.(body|meta|tmp)")
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class NotOurs(Exception):
    """Something under one of the cache's names that the cache has not written so. The message says what."""


@contextmanager
def opened(file: str, directory: int) -> Iterator[int]:
    """A regular file, open for reading; raises NotOurs for a link, a pipe, or a second name of something."""
    try:
        fd = os.open(file, _READ, dir_fd=directory)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise NotOurs("it is no ordinary file") from error
        raise
    try:
        if not _ordinary(os.fstat(fd)):
            raise NotOurs("it is no ordinary file")
        yield fd
    finally:
        os.close(fd)


def create(file: str, directory: int) -> int:
    return os.open(file, _CREATE, 0o600, dir_fd=directory)


def rename(old: str, new: str, directory: int) -> None:
    os.rename(old, new, src_dir_fd=directory, dst_dir_fd=directory)


def remove(file: str, directory: int) -> None:
    try:
        os.unlink(file, dir_fd=directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("removing %s from the artifact cache failed: %s", printable(file), error)


def survey(directory: int) -> list[tuple[str, tuple[int, int]]]:
    """Names of all pairs of a body and a record with their sizes, the least recently used first; removes the rest."""
    files: dict[str, dict[str, os.stat_result]] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            match, status = _NAME.fullmatch(entry.name), entry.stat(follow_symlinks=False)
            if match is None or match[2] == "tmp" or not _ordinary(status):
                remove(entry.name, directory)
            else:
                files.setdefault(match[1], {})[match[2]] = status
    pairs = []
    for name, parts in files.items():
        if len(parts) == 2:
            pairs.append((parts["body"].st_mtime_ns, name, (parts["body"].st_size, parts["meta"].st_size)))
        else:
            remove(f"{name}.{next(iter(parts))}", directory)
    return [(name, sizes) for _, name, sizes in sorted(pairs)]


def _ordinary(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
