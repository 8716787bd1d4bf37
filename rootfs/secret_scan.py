"""The job that looks for secrets in what setup has written: `python -I -m rootfs.secret_scan`, spoken to as in job.py.

Must not follow a link or open anything but regular files. Names, targets of links, attributes and contents are searched, contents
of gzip files too; what is too much to be searched counts as found, since nobody knows.

    {"trees": [DIR], "spellings": {NAME: [base64…]}, "allowed": [pattern]} → {"found": [{"path", "name", "why"}]}
"""

import fnmatch
import os
import stat
import sys
import zlib
from base64 import b64decode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rootfs.job import Progress, run_job
from rootfs.tree import Found, walk

_BLOCK = 1 << 20
_GZIP = b"\x1f\x8b"
_UNPACKED = 1 << 30  # bytes that the gzip files of a tree may have inside, together
_MOST = 20  # places that are told

type Needles = Mapping[str, Sequence[bytes]]


class _Scan:
    def __init__(self, needles: Needles, allowed: Sequence[str]) -> None:
        self._needles = [(name, spelling) for name, spellings in needles.items() for spelling in spellings]
        self._overlap = max((len(spelling) for _, spelling in self._needles), default=1) - 1
        self._allowed = allowed
        self._left = _UNPACKED
        self.found: list[dict[str, str]] = []

    def tree(self, top: Path) -> None:
        fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for entry in walk(fd):
                path = f"/{entry.path}"
                if len(self.found) < _MOST and not any(fnmatch.fnmatchcase(path, rule) for rule in self._allowed):
                    self._entry(entry, path)
        finally:
            os.close(fd)

    def _entry(self, entry: Found, path: str) -> None:
        name = self._in(os.fsencode(entry.name))
        why = "in its name"
        if name is None and stat.S_ISLNK(entry.info.st_mode):
            name, why = self._in(os.fsencode(os.readlink(entry.name, dir_fd=entry.directory))), "in the link's target"
        elif name is None and stat.S_ISREG(entry.info.st_mode):
            name, why = self._file(entry)
        if name is not None:
            self.found.append({"path": path, "name": name, "why": why})

    def _file(self, entry: Found) -> tuple[str | None, str]:
        fd = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=entry.directory)
        with open(fd, "rb", buffering=0) as file:
            for attribute in os.listxattr(fd):
                if name := self._in(os.getxattr(fd, attribute)):
                    return name, "in an attribute"
            if name := self._in_pieces(_data(file)):
                return name, "in its content"
            if os.pread(fd, 2, 0) == _GZIP:
                file.seek(0)
                if name := self._in_pieces(self._unpacked(file)):
                    return name, "in its unpacked content"
                if self._left <= 0:
                    return next(iter(self._needles))[0], "or not: there is more in compressed files than is searched"
        return None, ""

    def _unpacked(self, file: BinaryIO) -> Iterator[bytes]:
        """What gzip members hold, as far as they can be read."""
        inflate = zlib.decompressobj(wbits=31)
        for data in _data(file):
            while data and self._left > 0:
                try:
                    piece = inflate.decompress(data, _BLOCK)
                except zlib.error:
                    return
                self._left -= len(piece)
                yield piece
                data = inflate.unconsumed_tail or inflate.unused_data
                if inflate.eof:
                    inflate = zlib.decompressobj(wbits=31)

    def _in_pieces(self, pieces: Iterator[bytes]) -> str | None:
        rest = b""
        for piece in pieces:
            data = rest + piece
            if name := self._in(data):
                return name
            rest = data[-self._overlap :] if self._overlap else b""
        return None

    def _in(self, data: bytes) -> str | None:
        return next((name for name, spelling in self._needles if spelling in data), None)


def _data(file: BinaryIO) -> Iterator[bytes]:
    """The file's bytes; of its holes nothing, in which nothing can be."""
    fd, at = file.fileno(), 0
    while True:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:  # no data any more
            return
        os.lseek(fd, start, os.SEEK_SET)
        while start < end and (piece := os.read(fd, min(_BLOCK, end - start))):
            start += len(piece)
            yield piece
        if start < end:
            return
        at = end


def job(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    needles = {name: [b64decode(text) for text in texts] for name, texts in request["spellings"].items()}
    scan = _Scan(needles, request.get("allowed", []))
    for tree in request["trees"]:
        scan.tree(Path(tree))
    return {"found": scan.found}


if __name__ == "__main__":
    sys.exit(run_job(job))
