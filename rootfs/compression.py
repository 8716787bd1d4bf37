"""Bytes of an archive, plain or compressed with gzip, xz or zstd, as one bounded stream.

Must not trust the data: every step has a limit on memory, on the size that comes out and on the ratio, and a stream that ends
early is an error even where the library would call it the end.
"""

import hashlib
import lzma
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import zstandard

from rootfs.errors import ArchiveError

_MAGIC = ((b"\x1f\x8b", "gzip"), (b"\xfd7zXZ\x00", "xz"), (b"\x28\xb5\x2f\xfd", "zstd"))
_READ = 1 << 20
_ZSTD_READ = 4096  # its decoder takes no output limit: 4 KiB can become 128 MiB at the very most
_PIECE = 1 << 20
_XZ_MEMORY = 256 << 20
_ZSTD_WINDOW = 128 << 20
_RATIO_MAX = 200
_RATIO_FROM = 256 << 20  # below this size any ratio is harmless: a small image may well be mostly zeros


def detect(head: bytes) -> str:
    """'gzip', 'xz', 'zstd', 'zstd' also for skippable frames, or '' for anything else."""
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    if len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return "zstd"
    return ""


@dataclass(frozen=True, slots=True)
class Region:
    """A part of an open file, read by position so that the descriptor can be shared."""

    fd: int
    offset: int
    size: int

    def read_at(self, position: int, size: int) -> bytes:
        return os.pread(self.fd, max(0, min(size, self.size - position)), self.offset + position)


class Stream(Protocol):
    """What the tar reader reads: bytes in order."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""

    def skip(self, size: int) -> int:
        """Pass over bytes; returns how many there were."""


class RegionStream:
    """A plain region; skipping costs nothing. No digest."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self.position = 0

    def read(self, size: int) -> bytes:
        data = self._region.read_at(self.position, size)
        self.position += len(data)
        return data

    def skip(self, size: int) -> int:
        there = max(0, min(size, self._region.size - self.position))
        self.position += there
        return there


class DigestStream:
    """The decompressed bytes of a region, with the sha256 of both sides and what was consumed so far."""

    def __init__(self, region: Region, limit: int) -> None:
        self.consumed = 0  # bytes of the region
        self.produced = 0  # bytes that came out
        self.compression = detect(region.read_at(0, 16))
        self._outer = hashlib.sha256()
        self._inner = hashlib.sha256()
        self._limit = limit
        self._pieces = self._checked(_decoded(self.compression, self._raw(region)))
        self._piece = b""
        self._at = 0

    def _raw(self, region: Region) -> Iterator[bytes]:
        while data := region.read_at(self.consumed, _READ):
            self.consumed += len(data)
            if self.compression:
                self._outer.update(data)
            yield data

    def _checked(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self.produced += len(piece)
            if self.produced > self._limit:
                raise ArchiveError(
                    f"it unpacks to more than {self._limit} bytes", "make room, or leave something out of it"
                )
            if self.compression and self.produced > _RATIO_FROM and self.produced > _RATIO_MAX * self.consumed:
                raise ArchiveError(
                    f"it unpacks to more than {_RATIO_MAX} times its size, like a decompression bomb",
                    "if it is meant to, import it uncompressed",
                )
            self._inner.update(piece)
            yield piece

    def read(self, size: int) -> bytes:
        end = self._at + size
        if end <= len(self._piece):  # nearly always
            data = self._piece[self._at : end]
            self._at = end
            return data
        parts = [self._piece[self._at :]]
        missing = size - len(parts[0])
        self._piece, self._at = b"", 0
        while missing:
            self._piece = next(self._pieces, b"")
            if not self._piece:
                break
            parts.append(self._piece[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def read_some(self, most: int) -> memoryview:
        """At least one byte and up to `most` of what is at hand, without copying; empty at the end."""
        if self._at == len(self._piece):
            self._piece, self._at = next(self._pieces, b""), 0
        view = memoryview(self._piece)[self._at : self._at + most]
        self._at += len(view)
        return view

    def skip(self, size: int) -> int:
        left = size
        while left and (view := self.read_some(left)):
            left -= len(view)
        return size - left

    def finish(self) -> tuple[str, str]:
        """Read to the end; returns the digests of the region's bytes and of the decompressed ones (64 hex digits)."""
        while self.read_some(_PIECE):
            pass
        inner = self._inner.hexdigest()
        return (self._outer.hexdigest() if self.compression else inner), inner


def _decoded(compression: str, raw: Iterator[bytes]) -> Iterator[bytes]:
    try:
        if compression == "gzip":
            yield from _gunzip(raw)
        elif compression == "xz":
            yield from _unxz(raw)
        elif compression == "zstd":
            yield from _unzstd(raw)
        else:
            yield from raw
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, EOFError) as error:
        raise ArchiveError(f"its {compression} data is damaged ({error})", "fetch or make it again") from error


def _gunzip(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Any number of members; zero bytes may follow the last one."""
    decoder = zlib.decompressobj(31)
    started = False
    for data in raw:
        while data:
            if not started and not data.strip(b"\0"):
                break  # padding
            piece = decoder.decompress(data, _PIECE)
            started = True
            if piece:
                yield piece
            data = decoder.unconsumed_tail
            if decoder.eof:
                data, decoder, started = decoder.unused_data, zlib.decompressobj(31), False
    if started:
        tail = decoder.flush()
        if not decoder.eof:
            raise _cut_off()
        if tail:
            yield tail


def _unxz(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Any number of streams; zero bytes may stand between and after them."""
    decoder: lzma.LZMADecompressor | None = None
    for data in raw:
        while data or (decoder is not None and not decoder.needs_input):
            if decoder is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
            piece = decoder.decompress(data, _PIECE)
            data = b""
            if piece:
                yield piece
            if decoder.eof:
                data, decoder = decoder.unused_data, None
    if decoder is not None:
        raise _cut_off()


def _unzstd(raw: Iterator[bytes]) -> Iterator[bytes]:
    """Any number of frames, skippable ones too."""
    factory = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW)
    decoder = None
    for block in raw:
        for start in range(0, len(block), _ZSTD_READ):
            data = block[start : start + _ZSTD_READ]
            while data:
                decoder = decoder or factory.decompressobj()
                piece = decoder.decompress(data)
                if piece:
                    yield piece
                if not decoder.eof:
                    break
                data, decoder = decoder.unused_data, None
    if decoder is not None:
        raise _cut_off()


def _cut_off() -> EOFError:
    return EOFError("it ends too early")
