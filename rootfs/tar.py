"""Tar headers, read with care: bytes in, one `Member` after the other out.

Must not touch the file system and must not guess: where two tar programs would see different things (sizes that disagree,
a link with data, bytes after the end), the archive is refused. Knows ustar, pax and GNU's long names, numbers and sparse files.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache

from rootfs.compression import Stream
from rootfs.errors import ArchiveError, shown

BLOCK = 512
_ZEROS = bytes(BLOCK)
_LONG_NAME_MAX = 4097
_PAX_MAX = 1 << 20
_SPARSE_MAX = 65536  # segments of one file
_XATTR_VALUE_MAX = 65536
_XATTRS_MAX = 128
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,7}) ")
_PAX_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]{0,30}))?")
_AGAIN = "make the archive again, with GNU tar or `docker save`"
# Keys of a global header would apply to every later member; two readers seldom agree on them.
_NOT_GLOBAL = (b"path", b"linkpath", b"size", b"uid", b"gid", b"GNU.sparse.", b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s6s2s32s32s8s8s155s12s")


class Kind(Enum):
    """What a member is, independent of the letter that says so."""

    FILE = "file"
    LINK = "hard link"
    SYMLINK = "symbolic link"
    DEVICE = "device node"
    DIRECTORY = "directory"
    FIFO = "fifo"


_KINDS = {
    b"\0": Kind.FILE,
    b"0": Kind.FILE,
    b"7": Kind.FILE,
    b"S": Kind.FILE,
    b"1": Kind.LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, slots=True)
class Member:
    """One entry. `size` bytes of data follow in the stream (already without a sparse map); names are as written."""

    name: bytes
    kind: Kind
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    sparse: tuple[tuple[int, int], ...] | None = None  # (offset, length) of the stored pieces
    real_size: int = 0  # of a sparse file, holes included


def members(stream: Stream, *, must_end: bool = True) -> Iterator[Member]:
    """All members. The caller consumes exactly `size` bytes of `stream` after each; padding is passed over here.

    With `must_end`, a missing end mark means that the archive is cut off; where a digest vouches for the bytes it may be missing.
    """
    pax: dict[bytes, bytes] = {}
    gnu: dict[bytes, bytes] = {}
    while (raw := stream.read(BLOCK)) != _ZEROS:
        if not raw and not must_end and not pax and not gnu:
            return
        if len(raw) < BLOCK:
            raise ArchiveError("it is cut off", "fetch or make it again")
        header = _HEADER.unpack(raw)
        kind = header[7]
        _verify_checksum(raw, header)
        size = _number(header[4], "size")
        if kind in b"xgLK":
            data = _extra_data(stream, kind, size)
            if kind == b"x":
                pax = _pax_records(data)
            elif kind == b"g":
                _refuse_global(_pax_records(data))
            else:
                gnu[kind] = data.split(b"\0", 1)[0]
            continue
        if kind == b"V":  # a volume label names the archive
            continue
        member = _member(stream, header, pax, gnu, raw)
        stored = member.size
        yield member
        _skip_padding(stream, stored)
        pax, gnu = {}, {}
    _refuse_trailing(stream, bool(pax or gnu))


def _verify_checksum(raw: bytes, header: tuple[bytes, ...]) -> None:
    stated = _number(header[6], "checksum")
    total = sum(raw) - sum(raw[148:156]) + 256
    if stated == total:
        return
    high = sum(1 for byte in raw[:148] + raw[156:] if byte > 127)  # some old tars summed signed bytes
    if stated != total - 256 * high:
        raise ArchiveError(
            "it isn't a tar archive, or a header in it is damaged (wrong checksum)", "fetch or make it again"
        )


@lru_cache(4096)  # modes, owners and many times repeat; this is the hottest line of an import
def _number(field_: bytes, what: str) -> int:
    """Octal text, or base-256 when the first bit is set. Negative numbers occur only as times."""
    if field_[0] & 0x80:
        value = int.from_bytes(field_, "big") & ((1 << (8 * len(field_) - 1)) - 1)
        if field_[0] & 0x40:
            value -= 1 << (8 * len(field_) - 1)
        if value < 0 and what != "time":
            raise ArchiveError(f"a header in it has a negative {what}", _AGAIN)
        return value
    text = field_.split(b"\0", 1)[0].strip(b" ")
    try:
        if text and not text.isdigit():
            raise ValueError(text)
        return int(text or b"0", 8)
    except ValueError as error:
        raise ArchiveError(
            f"a header in it has the {what} {shown(text)}, which isn't an octal number", _AGAIN
        ) from error


def _extra_data(stream: Stream, kind: bytes, size: int) -> bytes:
    most = _PAX_MAX if kind in b"xg" else _LONG_NAME_MAX
    if size > most:
        raise ArchiveError(f"an extended header in it has {size} bytes (the limit is {most})", _AGAIN)
    data = stream.read(size)
    if len(data) < size:
        raise ArchiveError("it is cut off", "fetch or make it again")
    _skip_padding(stream, size)
    return data


def _skip_padding(stream: Stream, size: int) -> None:
    padding = -size % BLOCK
    if padding and stream.skip(padding) < padding:
        raise ArchiveError("it is cut off", "fetch or make it again")


def _refuse_trailing(stream: Stream, dangling: bool) -> None:
    """After the end mark only zeros may follow; otherwise another reader would go on and see more."""
    if dangling:
        raise ArchiveError("it ends after an extended header that belongs to nothing", _AGAIN)
    while block := stream.read(BLOCK * 128):
        if block.strip(b"\0"):
            raise ArchiveError("data follows its end mark", _AGAIN)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        found = _PAX_LENGTH.match(data, position)
        end = position + int(found[1]) if found else 0
        if not found or end > len(data) or end <= found.end() or data[end - 1] != 0x0A:
            raise ArchiveError("an extended header in it is damaged", _AGAIN)
        key, equals, value = data[found.end() : end - 1].partition(b"=")
        if not equals or not key or b"\0" in key:
            raise ArchiveError("an extended header in it is damaged", _AGAIN)
        if key in records and key not in (b"comment",) and records[key] != value:
            raise ArchiveError(f"an extended header in it states {shown(key)} twice", _AGAIN)
        records[key] = value
        position = end
    return records


def _refuse_global(records: dict[bytes, bytes]) -> None:
    for key in records:
        if key.startswith(_NOT_GLOBAL):
            raise ArchiveError(f"a global header in it sets {shown(key)} for all members", _AGAIN)


def _member(
    stream: Stream, header: tuple[bytes, ...], pax: dict[bytes, bytes], gnu: dict[bytes, bytes], raw: bytes
) -> Member:
    kind = _KINDS.get(header[7])
    name = _name(header, pax, gnu)
    if kind is None:
        raise ArchiveError(f"its member {shown(name)} has the unknown type {shown(header[7])}", _AGAIN)
    if header[7] == b"\0" and name.endswith(b"/"):
        kind = Kind.DIRECTORY  # before POSIX there was no letter for directories
    if kind is Kind.FILE and name.endswith(b"/"):
        raise ArchiveError(f"its member {shown(name)} is a file whose name ends like a directory's", _AGAIN)
    size = _pax_number(pax, b"size", _number(header[4], "size"))
    if kind is not Kind.FILE and size:
        raise ArchiveError(f"its member {shown(name)} is a {kind.value} with data", _AGAIN)
    member = Member(
        name=name,
        kind=kind,
        mode=_number(header[1], "mode") & 0o7777,
        uid=_pax_number(pax, b"uid", _number(header[2], "owner")),
        gid=_pax_number(pax, b"gid", _number(header[3], "group")),
        mtime_ns=_mtime(header, pax),
        size=size,
        target=_target(kind, header, pax, gnu),
        xattrs=_xattrs(pax) if pax else {},
    )
    return _sparse_member(stream, member, header, pax, raw)


def _name(header: tuple[bytes, ...], pax: dict[bytes, bytes], gnu: dict[bytes, bytes]) -> bytes:
    if b"GNU.sparse.name" in pax:
        name = pax[b"GNU.sparse.name"]
    elif b"path" in pax:
        name = pax[b"path"]
    elif b"L" in gnu:
        name = gnu[b"L"]
    else:
        name = header[0].split(b"\0", 1)[0]
        prefix = header[15].split(b"\0", 1)[0] if header[9] == b"ustar\0" else b""
        name = prefix + b"/" + name if prefix else name
    if not name or b"\0" in name:
        raise ArchiveError("a member in it has no usable name", _AGAIN)
    return name


def _target(kind: Kind, header: tuple[bytes, ...], pax: dict[bytes, bytes], gnu: dict[bytes, bytes]) -> bytes:
    if kind not in (Kind.LINK, Kind.SYMLINK):
        return b""
    target = pax.get(b"linkpath", gnu.get(b"K", header[8].split(b"\0", 1)[0]))
    if not target or b"\0" in target:
        raise ArchiveError("a link in it leads to nothing", _AGAIN)
    return target


def _pax_number(pax: dict[bytes, bytes], key: bytes, otherwise: int) -> int:
    if key not in pax:
        return otherwise
    if not pax[key].isdigit() or len(pax[key]) > 18:
        raise ArchiveError(f"an extended header in it has the {key.decode()} {shown(pax[key])}", _AGAIN)
    return int(pax[key])


def _mtime(header: tuple[bytes, ...], pax: dict[bytes, bytes]) -> int:
    if b"mtime" not in pax:
        return _number(header[5], "time") * 1_000_000_000
    found = _PAX_TIME.fullmatch(pax[b"mtime"])
    if not found:
        raise ArchiveError(f"an extended header in it has the time {shown(pax[b'mtime'])}", _AGAIN)
    nanoseconds = int(found[2]) * 1_000_000_000 + int((found[3] or b"")[:9].ljust(9, b"0"))
    return -nanoseconds if found[1] else nanoseconds


def _xattrs(pax: dict[bytes, bytes]) -> dict[bytes, bytes]:
    found = {key[13:]: value for key, value in pax.items() if key.startswith(b"SCHILY.xattr.")}
    if len(found) > _XATTRS_MAX or any(len(value) > _XATTR_VALUE_MAX for value in found.values()):
        raise ArchiveError("a member in it has too many or too large extended attributes", "leave them out")
    return found


def _sparse_member(
    stream: Stream, member: Member, header: tuple[bytes, ...], pax: dict[bytes, bytes], raw: bytes
) -> Member:
    """GNU's old form ('S': map in the header) and pax form 1.0 (map before the data)."""
    if header[7] == b"S":
        pieces, real_size = _old_sparse_map(stream, raw)
        stored = member.size
    elif pax.get(b"GNU.sparse.major") == b"1" and pax.get(b"GNU.sparse.minor") == b"0" and member.kind is Kind.FILE:
        pieces, used = _new_sparse_map(stream, member.size)
        real_size, stored = _pax_number(pax, b"GNU.sparse.realsize", -1), member.size - used
    elif any(key.startswith(b"GNU.sparse.") for key in pax):
        raise ArchiveError(f"its member {shown(member.name)} is sparse in an outdated form", "make it without --sparse")
    else:
        return member
    position = 0
    for offset, length in pieces:
        if offset < position or offset + length > real_size:
            raise ArchiveError(f"its sparse member {shown(member.name)} has a wrong map", _AGAIN)
        position = offset + length
    if sum(length for _, length in pieces) != stored:
        raise ArchiveError(f"its sparse member {shown(member.name)} has a wrong map", _AGAIN)
    return Member(
        member.name,
        member.kind,
        member.mode,
        member.uid,
        member.gid,
        member.mtime_ns,
        stored,
        b"",
        member.xattrs,
        pieces,
        real_size,
    )


def _old_sparse_map(stream: Stream, raw: bytes) -> tuple[tuple[tuple[int, int], ...], int]:
    pieces: list[tuple[int, int]] = []
    block, start, count, more_at = raw, 386, 4, 482
    while True:
        for at in range(start, start + 24 * count, 24):
            if block[at : at + 12].strip(b"\0"):
                pieces.append((_number(block[at : at + 12], "map"), _number(block[at + 12 : at + 24], "map")))
        if not block[more_at]:
            break
        block, start, count, more_at = stream.read(BLOCK), 0, 21, 504
        if len(block) < BLOCK:
            raise ArchiveError("it is cut off", "fetch or make it again")
        if len(pieces) > _SPARSE_MAX:
            raise ArchiveError("a sparse file in it has too many pieces", "make it without --sparse")
    return tuple(piece for piece in pieces if piece[1]), _number(raw[483:495], "size")


def _new_sparse_map(stream: Stream, size: int) -> tuple[tuple[tuple[int, int], ...], int]:
    numbers: list[int] = []
    used, rest, wanted = 0, b"", 1
    while len(numbers) < wanted:
        block = stream.read(BLOCK)
        used += len(block)
        if len(block) < BLOCK or used > size:
            raise ArchiveError("a sparse file in it has a wrong map", _AGAIN)
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            if not line.isdigit() or len(line) > 18:
                raise ArchiveError("a sparse file in it has a wrong map", _AGAIN)
            numbers.append(int(line))
            wanted = 1 + 2 * numbers[0]
            if len(numbers) == wanted:
                break
        if wanted > 1 + 2 * _SPARSE_MAX or len(rest) > BLOCK:
            raise ArchiveError("a sparse file in it has a wrong map", _AGAIN)
    pairs = zip(numbers[1::2], numbers[2::2], strict=True)
    return tuple(pair for pair in pairs if pair[1]), used
