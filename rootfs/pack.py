"""Writes new git objects as one pack with its index: two files to sync instead of thousands.

Must not read a repository, and writes only the two files it is told. (10,000 loose objects took libgit2 1.4 s and 20,000
directory entries, this 0.2 s.) Format: gitformat-pack, version 2 of both, no deltas.
"""

import hashlib
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

COMMIT, TREE, BLOB = 1, 2, 3
_NAMES = {COMMIT: b"commit", TREE: b"tree", BLOB: b"blob"}
_LEVEL = 1  # results are small and read once or twice
_LARGE_OFFSET = 0x80000000


def object_id(kind: int, data: bytes) -> bytes:
    """The 20 bytes of an object's id."""
    digest = hashlib.sha1(b"%s %d\0" % (_NAMES[kind], len(data)), usedforsecurity=False)
    digest.update(data)
    return digest.digest()


class PackWriter:
    """Objects in, a pack out. `close` throws away what was not finished."""

    def __init__(self, directory: Path, name: str) -> None:
        self._path = directory / f"tmp_{name}"
        self._directory = directory
        self._file = self._path.open("w+b")
        self._file.write(b"PACK" + struct.pack(">II", 2, 0))
        self._offset = 12
        self._entries: dict[bytes, tuple[int, int]] = {}  # id -> offset, CRC

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, kind: int, data: bytes, known: bytes | None = None) -> bytes:
        """Add an object unless it is in the pack already; `known` is its id if the caller computed it."""
        name = known or object_id(kind, data)
        if name not in self._entries:
            entry = _header(kind, len(data)) + zlib.compress(data, _LEVEL)
            self._file.write(entry)
            self._entries[name] = (self._offset, zlib.crc32(entry))
            self._offset += len(entry)
        return name

    def finish(self, name: str) -> None:
        """Make the pack visible as pack-<name>: synced, the index last, since a pack counts from its index on."""
        self._file.seek(8)
        self._file.write(struct.pack(">I", len(self._entries)))
        self._file.seek(0)
        digest = hashlib.sha1(usedforsecurity=False)  # over the final header: so it is read once more, from the cache
        while block := self._file.read(1 << 20):
            digest.update(block)
        self._file.write(digest.digest())
        _seal(self._file)
        self._file.close()
        index = self._directory / f"tmp_{name}.idx"
        with index.open("wb") as file:
            file.write(self._index(digest.digest()))
            _seal(file)
        self._path.rename(self._directory / f"pack-{name}.pack")
        index.rename(self._directory / f"pack-{name}.idx")
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Idempotent; a finished pack stays."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _index(self, pack_digest: bytes) -> bytes:
        names = sorted(self._entries)
        counts = [0] * 256
        for name in names:
            counts[name[0]] += 1
        total = 0
        fanout = []
        for count in counts:
            total += count
            fanout.append(total)
        offsets = [self._entries[name][0] for name in names]
        large = [offset for offset in offsets if offset >= _LARGE_OFFSET]
        places = iter(range(len(large)))
        small = [offset if offset < _LARGE_OFFSET else _LARGE_OFFSET | next(places) for offset in offsets]
        body = b"\xfftOc" + struct.pack(">I256I", 2, *fanout) + b"".join(names)
        body += struct.pack(f">{len(names)}I", *(self._entries[name][1] for name in names))
        body += struct.pack(f">{len(small)}I", *small) + struct.pack(f">{len(large)}Q", *large) + pack_digest
        return body + hashlib.sha1(body, usedforsecurity=False).digest()


def _header(kind: int, size: int) -> bytes:
    """Kind and size as git's variable-length number."""
    byte, size = (kind << 4) | (size & 15), size >> 4
    header = bytearray()
    while size:
        header.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    header.append(byte)
    return bytes(header)


def _seal(file: BinaryIO) -> None:
    file.flush()
    os.fchmod(file.fileno(), 0o444)
    os.fsync(file.fileno())
