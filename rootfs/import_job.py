"""The job that turns an archive into an image: `python -I -m rootfs.import_job`, request and answer as in job.py.

Must not look into the archive itself: caged processes do (confine.py), and this one, which is root, only sees checked results.
An image appears by one rename at the very end; whatever fails before leaves nothing but layers that `gc` takes.

    {"state": DIR, "archive": PATH, "name": N, "source": "text", "entrypoint": false or missing}
      describe ─▶ for each layer that isn't there: reader | writer ─▶ opaque marks ─▶ sync, rename ─▶ record
"""

import os
import stat
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rootfs.confine import Inmate, hear_all, reader_command, writer_command
from rootfs.errors import ArchiveError, ImageError, shown
from rootfs.image import Image, ImageConfig, check_layer_id, check_name, now
from rootfs.job import Progress, run_job
from rootfs.pipe import make_pipe
from rootfs.store import Store
from rootfs.system_layer import skeleton_layer

_ENTRIES_MAX = 2_000_000
_BYTES_MAX = 64 << 30
RESERVE = 512 << 20  # of the disk, for everybody else
ARCHIVE_MAX = 64 << 30


class _Fd:
    """A descriptor that is closed once, early or at the end of its block."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._open = True

    def __enter__(self) -> "_Fd":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.fd)


def _directory(path: Path) -> _Fd:
    return _Fd(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC))


@dataclass(frozen=True, slots=True)
class Part:
    """One layer's bytes in an open file, and the digests they must have ('' when not stated)."""

    fd: int
    offset: int
    size: int
    diff_id: str
    blob: str


@dataclass(frozen=True, slots=True)
class Importer:
    """One import. Without `entrypoint` the record has none: it is no part of the image here."""

    store: Store
    staging: Path
    progress: Progress
    entrypoint: bool = True

    def image(self, archive: int, name: str, source: str) -> Image:
        """The whole import of an open archive."""
        layers: list[str] = []
        size = 0
        with _Fd(os.open(self.staging, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)) as scratch:
            config, parts, whiteouts = self._describe(archive, scratch.fd)
            for number, part in enumerate(parts, 1):
                label = f"unpacking layer {number} of {len(parts)}" if len(parts) > 1 else "unpacking"
                layer, layer_size = self._layer(part, whiteouts, label)
                layers.append(layer)
                size += layer_size
        layers = [*skeleton_layer(self.store, layers), *layers]
        if not self.entrypoint:
            config = replace(config, entrypoint=())
        self.progress("writing the image's record")
        image = Image(name, tuple(layers), config, now(), size, source)
        self.store.save(image)
        return image

    def _describe(self, archive: int, scratch: int) -> tuple[ImageConfig, list[Part], bool]:
        size = os.fstat(archive).st_size
        self.progress("looking at the archive")
        with ExitStack() as stack:
            void = stack.enter_context(self._void())
            request = {"archive": archive, "size": size, "scratch": scratch, "void": void.fd, "limit": self._room()}
            command = reader_command("rootfs.archive", self._room())
            inmate = stack.enter_context(Inmate("reader", command, request, (archive, scratch, void.fd)))
            (answer,) = hear_all([inmate], self._relay("decompressing"))
        if answer["kind"] == "plain":
            return ImageConfig(), [Part(archive, 0, size, "", "")], False
        fd = scratch if answer["compressed"] else archive
        parts = [
            Part(fd, int(item["offset"]), int(item["size"]), check_layer_id(item["diff_id"]), str(item["blob"]))
            for item in answer["layers"]
        ]
        return ImageConfig.from_dict(answer["config"]), parts, True

    def _layer(self, part: Part, whiteouts: bool, label: str) -> tuple[str, int]:
        """Make one layer, or find it; returns its id and size."""
        if part.diff_id and self.store.has_layer(part.diff_id):
            self.progress(f"{label}: it is there already")
            return part.diff_id, self.store.layer_size(part.diff_id)
        tree = self.staging / "layer"
        tree.mkdir(mode=0o700)
        read, written = self._unpack(part, tree, whiteouts, label)
        layer = check_layer_id(read["digest"])
        if part.diff_id not in ("", layer) or part.blob not in ("", read["blob"]):
            raise ArchiveError(
                "one of its layers doesn't have the digest that is stated for it", "fetch or make it again"
            )
        for notice in read["notices"]:
            self.progress(str(notice)[:500])
        for path in written["opaque"]:
            _mark_opaque(tree, bytes.fromhex(path))
        self.progress("writing to disk")
        self.store.commit_layer(tree, layer)
        if tree.exists():  # the same layer was there: a plain tar's id is known only now
            tree.rename(self.staging / f"spare-{layer}")
        return layer, int(written["bytes"])

    def _unpack(self, part: Part, tree: Path, whiteouts: bool, label: str) -> tuple[dict[str, Any], dict[str, Any]]:
        room = self._room()
        with ExitStack() as stack:
            void = stack.enter_context(self._void())
            target = stack.enter_context(_directory(tree))
            pipe_out, pipe_in = (stack.enter_context(_Fd(fd)) for fd in make_pipe())
            reading = {"archive": part.fd, "offset": part.offset, "size": part.size, "out": pipe_in.fd, "void": void.fd}
            reading |= {"limit": 2 * room, "whiteouts": whiteouts, "must_end": not part.diff_id}
            writing = {"pipe": pipe_out.fd, "tree": target.fd, "limits": {"entries": _ENTRIES_MAX, "bytes": room}}
            fds = (part.fd, pipe_in.fd, void.fd)
            reader = stack.enter_context(Inmate("reader", reader_command("rootfs.read_layer"), reading, fds))
            command = writer_command("rootfs.write_layer", room)
            writer = stack.enter_context(Inmate("writer", command, writing, (pipe_out.fd, target.fd)))
            pipe_out.close()
            pipe_in.close()
            read, written = hear_all([reader, writer], self._relay(label))
        return read, written

    def _room(self) -> int:
        """Bytes an import may fill: what the disk has, less a reserve."""
        info = os.statvfs(self.staging)
        room = min(_BYTES_MAX, info.f_bavail * info.f_frsize - RESERVE)
        if room <= 0:
            raise ImageError(f"the disk under {self.store.root} is full", "free some space")
        return room

    def _relay(self, label: str) -> Any:
        def relay(line: dict[str, Any]) -> None:
            done, total = line.get("done"), line.get("total")
            if isinstance(done, int) and isinstance(total, int):
                self.progress(label, done, total)

        return relay

    def _void(self) -> _Fd:
        path = self.staging / "void"
        path.mkdir(mode=0o555, exist_ok=True)
        return _directory(path)


def _mark_opaque(tree: Path, path: bytes) -> None:
    """Set the mark that the writer may not set. Goes down by descriptors; a link on the way is refused."""
    fd = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for part in path.split(b"/"):
            if part in (b"", b".", b".."):
                raise ArchiveError(f"its opaque directory {shown(path)} has an unclean path", "save the image again")
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
            os.close(fd)
            fd = inner
        os.setxattr(fd, "trusted.overlay.opaque", b"y")
    except NotADirectoryError as error:
        raise ArchiveError(
            f"its opaque directory {shown(path)} is reached through a link", "save the image again"
        ) from error
    finally:
        os.close(fd)


def open_archive(path: str, source: str) -> int:
    """The archive, opened once; a regular file only. `source` is what its owner calls it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(f"cannot read {shown(source)}: {error.strerror}", "name a file that exists") from error
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or not 0 < info.st_size <= ARCHIVE_MAX:
        os.close(fd)
        reason = (
            "it is empty" if stat.S_ISREG(info.st_mode) and not info.st_size else "it isn't a file of at most 64 GiB"
        )
        raise ImageError(f"cannot import {shown(source)}: {reason}", "name an archive")
    return fd


def import_archive(
    store: Store, archive: str, name: str, source: str, progress: Progress, entrypoint: bool = True
) -> Image:
    """Import one archive under a name, replacing the image that had it."""
    check_name(name)
    fd = open_archive(archive, source)
    try:
        with store.keep_layers(), store.new_staging() as staging:
            return Importer(store, staging, progress, entrypoint).image(fd, name, source)
    except ArchiveError as error:
        raise ImageError(f"cannot import {shown(source)}: {error.message}", error.remedy) from error
    except ImageError as error:
        raise ImageError(f"cannot import {shown(source)}: {error.message}", error.remedy) from error
    finally:
        os.close(fd)


def job(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    store = Store(Path(request["state"]))
    source = str(request.get("source") or Path(request["archive"]).name)
    entrypoint = bool(request.get("entrypoint", True))
    return import_archive(store, request["archive"], request["name"], source, progress, entrypoint).to_dict()


if __name__ == "__main__":
    sys.exit(run_job(job))
