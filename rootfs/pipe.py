"""The pipe between reader and writer, and the writer's end of it: entries, checked, and their data.

Must not touch any other file than the one data is copied to.
"""

import fcntl
import os
from contextlib import suppress

from rootfs.entries import HEAD, BadFrameError, Entry, EntryKind, check, decode_head

_READ = 1 << 20
PIPE_SIZE = 1 << 20


def make_pipe() -> tuple[int, int]:
    """A pipe that holds a megabyte, so that reader and writer seldom wait for each other."""
    read, write = os.pipe()
    with suppress(PermissionError):  # more than the host allows in all; only slower
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    return read, write


class Frames:
    """The pipe, as frames."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._data = b""
        self._at = 0

    def _fill(self, size: int) -> None:
        parts = [self._data[self._at :]]
        there = len(parts[0])
        while there < size:
            part = os.read(self._fd, _READ)
            if not part:
                raise BrokenPipeError  # the reader tells why
            parts.append(part)
            there += len(part)
        self._data, self._at = b"".join(parts), 0

    def take(self, size: int) -> bytes:
        if len(self._data) - self._at < size:
            self._fill(size)
        data = self._data[self._at : self._at + size]
        self._at += size
        return data

    def entry(self) -> Entry:
        """The next entry, checked."""
        kind, mode, uid, gid, mtime, size, path_size, link_size, attributes_size = decode_head(self.take(HEAD.size))
        rest = self.take(path_size + link_size + attributes_size)
        path, link = rest[:path_size], rest[path_size : path_size + link_size]
        try:
            known = EntryKind(kind)
        except ValueError as error:
            raise BadFrameError(f"an entry of the unknown kind {kind}") from error
        return check(Entry(known, path, mode, uid, gid, mtime, size, link, rest[path_size + link_size :]))

    def copy(self, fd: int, size: int) -> None:
        """Write the next `size` bytes to a file."""
        while size:
            if self._at == len(self._data):
                self._data, self._at = b"", 0
                self._fill(1)
            view = memoryview(self._data)[self._at : self._at + size]
            done = os.write(fd, view)
            self._at += done
            size -= done
