"""The process that reads one layer out of an archive and says what is in it, entry by entry, on a pipe.

Must not write a file: it has no privilege left when the first byte of the archive is looked at (see confine.py). What it
says is checked again by write_layer.py.
"""

import os
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from rootfs.compression import DigestStream, Region
from rootfs.confine import drop_everything, run_confined
from rootfs.entries import ID_MAX, Entry, EntryKind, clean_path, encode, encode_attributes, may_keep
from rootfs.errors import ArchiveError, shown
from rootfs.job import Progress
from rootfs.tar import Kind, Member, members

_DROPPED = (b"dev", b"proc", b"sys")  # the sandbox mounts its own; what an image has there is never seen
_FLUSH = 1 << 18
_CAPABILITY_SIZES = {0x01000000: 12, 0x02000000: 20}
_WHITEOUT = b".wh."
_SIMPLE = {
    Kind.FILE: EntryKind.FILE,
    Kind.DIRECTORY: EntryKind.DIRECTORY,
    Kind.SYMLINK: EntryKind.SYMLINK,
    Kind.LINK: EntryKind.LINK,
    Kind.FIFO: EntryKind.FIFO,
}


class Notices:
    """What was left out, counted per reason; the first name stands for all."""

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, bytes]] = {}

    def add(self, reason: str, name: bytes) -> None:
        count, first = self._counts.get(reason, (0, name))
        self._counts[reason] = (count + 1, first)

    def texts(self) -> list[str]:
        return [f"{reason}: {count}, the first is {shown(first)}" for reason, (count, first) in self._counts.items()]


def entries_of(member: Member, *, whiteouts: bool, notices: Notices) -> Entry | None:
    """The decision about one member: what it becomes in the layer, or None when it is left out."""
    path = clean_path(member.name)
    top = path.split(b"/", 1)[0]
    if top in _DROPPED and path != top:
        return None
    if member.kind is Kind.DEVICE:
        notices.add("device nodes left out", path)
        return None
    if member.uid > ID_MAX or member.gid > ID_MAX:
        raise ArchiveError(
            f"its member {shown(member.name)} belongs to {member.uid}:{member.gid}, and a sandbox has the ids 0 to {ID_MAX}",
            "change its owner",
        )
    name = path.rsplit(b"/", 1)[-1]
    if name.startswith(_WHITEOUT):
        return _whiteout(path, name, whiteouts, notices)
    if _WHITEOUT in path and any(part.startswith(_WHITEOUT) for part in path.split(b"/")):
        raise ArchiveError(
            f"its member {shown(path)} lies in a directory named like a whiteout", "rename the directory"
        )
    return _plain_entry(member, path, notices)


def _plain_entry(member: Member, path: bytes, notices: Notices) -> Entry | None:
    kind, link, mode = _SIMPLE[member.kind], member.target, member.mode
    if not path and kind is not EntryKind.DIRECTORY:
        raise ArchiveError(f"its member {shown(member.name)} stands where the top directory must be", "leave it out")
    if kind is EntryKind.LINK:
        link = clean_path(member.target, "link target")
        if not link:
            raise ArchiveError(f"its member {shown(member.name)} is a hard link to the top directory", "leave it out")
        if link.split(b"/", 1)[0] in _DROPPED:
            notices.add("hard links into dev, proc or sys left out", path)
            return None
    if kind is EntryKind.SYMLINK and len(link) > 4095:
        raise ArchiveError(f"its symbolic link {shown(member.name)} is too long", "shorten it")
    if member.sparse is not None:
        kind = EntryKind.SPARSE
        link = b"".join(struct.pack("<QQ", *piece) for piece in (*member.sparse, (member.real_size, 0)))
    attributes = _attributes(member, path, notices) if member.xattrs else b""
    return Entry(kind, path, mode, member.uid, member.gid, member.mtime_ns, member.size, link, attributes)


def _whiteout(path: bytes, name: bytes, whiteouts: bool, notices: Notices) -> Entry | None:
    """`.wh.x` deletes its sibling x, `.wh..wh..opq` everything beside it; other `.wh..wh.` names are aufs' own."""
    if not whiteouts:
        raise ArchiveError(
            f"its member {shown(path)} has a name that means a deletion in layers",
            "rename it, or import the archive that `docker save` writes",
        )
    directory = path[: -len(name)].rstrip(b"/")
    if name == b".wh..wh..opq":
        return Entry(EntryKind.OPAQUE, directory)
    if name.startswith(b".wh..wh."):
        notices.add("aufs files left out", path)
        return None
    hidden = name[len(_WHITEOUT) :]
    if hidden in (b"", b".", b".."):
        raise ArchiveError(f"its whiteout {shown(path)} names no sibling", "save the image again")
    return Entry(EntryKind.WHITEOUT, directory + b"/" + hidden if directory else hidden)


def _attributes(member: Member, path: bytes, notices: Notices) -> bytes:
    kept: dict[bytes, bytes] = {}
    if member.kind not in (Kind.FILE, Kind.DIRECTORY):
        return b""
    for name, value in member.xattrs.items():
        if not may_keep(name.decode("ascii", "replace")) or not name.isascii():
            notices.add("extended attributes left out", path + b" " + name)
        elif name == b"security.capability" and not _is_capability(value):
            notices.add("file capabilities of another user namespace left out", path)
        else:
            kept[name] = value
    return encode_attributes(kept)


def _is_capability(value: bytes) -> bool:
    """Versions 1 and 2. Version 3 carries the root of some other user namespace, an id of another machine."""
    return len(value) >= 4 and _CAPABILITY_SIZES.get(int.from_bytes(value[:4], "little") & 0xFF000000) == len(value)


def frames(stream: DigestStream, *, whiteouts: bool, must_end: bool, notices: Notices) -> Iterator[bytes | memoryview]:
    """Everything that goes down the pipe but the end frame."""
    for member in members(stream, must_end=must_end):
        entry = entries_of(member, whiteouts=whiteouts, notices=notices)
        if entry is None or entry.kind in (EntryKind.WHITEOUT, EntryKind.OPAQUE):
            if entry is not None:
                yield encode(entry)
            _consume(stream.skip(member.size), member)
            continue
        yield encode(entry)
        left = member.size
        while left:
            piece = stream.read_some(left)
            if not piece:
                _consume(member.size - left, member)
            left -= len(piece)
            yield piece


def _consume(there: int, member: Member) -> None:
    if there < member.size:
        raise ArchiveError(f"it is cut off in {shown(member.name)}", "fetch or make it again")


def read_layer(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Request: archive (fd), offset, size, out (fd), void (fd), limit, whiteouts, must_end, total."""
    drop_everything(int(request["void"]))
    notices = Notices()
    stream = DigestStream(Region(request["archive"], request["offset"], request["size"]), request["limit"])
    out = int(request["out"])
    waiting: list[bytes | memoryview] = []
    size = 0
    for piece in frames(stream, whiteouts=request["whiteouts"], must_end=request["must_end"], notices=notices):
        waiting.append(piece)
        size += len(piece)
        if size >= _FLUSH or len(waiting) >= 512:
            _write_all(out, waiting)
            waiting, size = [], 0
            progress("unpacking", stream.consumed, request["size"])
    outer, inner = stream.finish()
    _write_all(out, [*waiting, encode(Entry(EntryKind.END))])
    return {"blob": outer, "digest": inner, "unpacked": stream.produced, "notices": notices.texts()}


def _write_all(out: int, pieces: list[bytes | memoryview]) -> None:
    written = os.writev(out, pieces)
    if written != sum(map(len, pieces)):
        rest = memoryview(b"".join(pieces))[written:]
        while rest:
            rest = rest[os.write(out, rest) :]


if __name__ == "__main__":
    raise SystemExit(run_confined(read_layer))
