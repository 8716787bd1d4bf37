"""What the process that reads an archive says to the process that writes the layer: entries, in frames on a pipe.

Must not touch the disk. The reader handles hostile data and may have been taken over, so the writer believes nothing:
`decode_head` and `check` hold whatever the reader does.

    frame = head (fixed size) · path · link · attributes · data
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from rootfs.errors import ArchiveError, shown

HEAD = struct.Struct("<BHIIqQIII")  # kind, mode, uid, gid, mtime in ns, size of data, lengths of path, link, attributes
PATH_MAX = 4096
NAME_MAX = 255
DEPTH_MAX = 256
ID_MAX = 65535  # the ids a sandbox has
_LINK_MAX = 2 << 20
_ATTRIBUTES_MAX = 16 << 20
_ATTRIBUTE = struct.Struct("<HI")
_TIME_MAX = (1 << 34) * 1_000_000_000 - 1  # what ext4 can store
_PLAIN = "leave it out, or rename it"


class EntryKind(IntEnum):
    FILE = 1
    DIRECTORY = 2
    SYMLINK = 3
    LINK = 4
    FIFO = 5
    WHITEOUT = 6  # the name is gone: hides what lower layers have
    OPAQUE = 7  # the directory hides everything lower layers have in it
    SPARSE = 8  # link holds the map: pairs of offset and length, the last one (size of the file, 0)
    END = 9  # everything has been said


class BadFrameError(ArchiveError):
    """The reader broke the rules. Only a bug or an attack does that."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the process reading it sent {what}", "report this, with the archive")


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing to make in a layer. `path` is relative and clean; b'' is the layer's own top."""

    kind: EntryKind
    path: bytes = b""
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: bytes = b""
    attributes: bytes = b""


def encode(entry: Entry) -> bytes:
    """The frame of an entry, without its data."""
    mtime = min(max(entry.mtime_ns, 0), _TIME_MAX)
    head = HEAD.pack(
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        mtime,
        entry.size,
        len(entry.path),
        len(entry.link),
        len(entry.attributes),
    )
    return head + entry.path + entry.link + entry.attributes


def decode_head(data: bytes) -> tuple[int, int, int, int, int, int, int, int, int]:
    """The fields of a head, with the lengths bounded so that they can be read next."""
    fields = HEAD.unpack(data)
    if fields[6] > PATH_MAX or fields[7] > _LINK_MAX or fields[8] > _ATTRIBUTES_MAX:
        raise BadFrameError("a head with impossible lengths")
    return fields


def check(entry: Entry) -> Entry:
    """The rules of an entry, whoever made it. Returns it."""
    if entry.uid > ID_MAX or entry.gid > ID_MAX or entry.mode > 0o7777 or not 0 <= entry.mtime_ns <= _TIME_MAX:
        raise BadFrameError("an entry with an impossible owner, mode or time")
    if entry.path and (entry.path.startswith(b"/") or b"\0" in entry.path or not _plain(entry.path)):
        raise BadFrameError("an entry with an unclean path")
    if not entry.path and entry.kind not in (EntryKind.DIRECTORY, EntryKind.OPAQUE, EntryKind.END):
        raise BadFrameError("an entry without a path")
    if entry.kind is EntryKind.LINK and (not entry.link or entry.link.startswith(b"/") or not _plain(entry.link)):
        raise BadFrameError("a link with an unclean target")
    return entry


def _plain(path: bytes) -> bool:
    parts = path.split(b"/")
    return not (b"" in parts or b"." in parts or b".." in parts) and len(parts) <= DEPTH_MAX


def clean_path(name: bytes, what: str = "member") -> bytes:
    """A name as archives have it, made relative and clean ('./a//b/' and '/a/b' are 'a/b'); what climbs is refused."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise ArchiveError(
            f"its {what} {shown(name)} leads upwards ('..')", "make the archive from inside the tree it holds"
        )
    if b"\0" in name:
        raise ArchiveError(f"its {what} {shown(name)} contains a null byte", _PLAIN)
    path = b"/".join(parts)
    if len(path) > PATH_MAX or len(parts) > DEPTH_MAX or any(len(part) > NAME_MAX for part in parts):
        raise ArchiveError(
            f"its {what} {shown(name)} is too long or too deep (the limit is {DEPTH_MAX} directories)", _PLAIN
        )
    return path


def encode_attributes(attributes: Mapping[bytes, bytes]) -> bytes:
    return b"".join(_ATTRIBUTE.pack(len(k), len(v)) + k + v for k, v in attributes.items())


def decode_attributes(data: bytes) -> dict[str, bytes]:
    """Extended attributes by name. Only the two kinds that mean something to a sandbox get through."""
    found: dict[str, bytes] = {}
    position = 0
    try:
        while position < len(data):
            name_size, value_size = _ATTRIBUTE.unpack_from(data, position)
            position += _ATTRIBUTE.size
            name = data[position : position + name_size].decode("ascii")
            position += name_size
            found[name] = data[position : position + value_size]
            position += value_size
    except (struct.error, UnicodeDecodeError) as error:
        raise BadFrameError("damaged attributes") from error
    if position != len(data) or not all(may_keep(name) for name in found):
        raise BadFrameError("attributes that may not be set")
    return found


def may_keep(name: str) -> bool:
    """trusted.* and user.overlay.* steer overlayfs, security.* and system.* the host; only file capabilities stay.

    '\0' would cut the name in the system call and could turn one attribute into another.
    """
    if not name.isprintable() or len(name) > NAME_MAX:
        return False
    return name == "security.capability" or (name.startswith("user.") and not name.startswith("user.overlay."))
