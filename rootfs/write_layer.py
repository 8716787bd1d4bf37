"""The process that makes a layer's files from entries on a pipe, with the new layer as its root directory.

Must not read archives, and must not believe the sender (see entries.py). Paths are resolved by the kernel inside the chroot, as
docker does: an ordinary image has `lib -> usr/lib` and then entries below `lib/`; where a link leads, it stays inside.

    entries ─▶ parent directory opened (links followed, inside) ─▶ last component made with O_EXCL / never followed
    end     ─▶ directories get their owner, mode and time  ─▶ the rules of the top level are checked
"""

import errno
import os
import stat
import struct
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from rootfs.confine import enter_chroot, run_confined
from rootfs.entries import BadFrameError, Entry, EntryKind, decode_attributes
from rootfs.errors import ArchiveError, ImageError, shown
from rootfs.job import Progress
from rootfs.pipe import Frames

REAL_DIRECTORIES = (
    "dev",
    "proc",
    "sys",
    "tmp",
    "run",
    "etc",
)  # the sandbox mounts or writes here before image code runs
_EMPTY = ("dev", "proc", "sys")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARENTS = 128  # open directories kept
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Writer:
    """Makes entries below the root directory of this process."""

    def __init__(self, frames: Frames, limits: Mapping[str, int]) -> None:
        self._frames = frames
        self._limits = limits
        self._root = os.open("/", _DIRECTORY)
        self._parents: OrderedDict[bytes, int] = OrderedDict()
        self._directories: dict[bytes, Entry] = {b"": Entry(EntryKind.DIRECTORY, mode=0o755)}
        self._whiteouts: set[bytes] = set()
        self.opaque: set[bytes] = set()
        self.entries = 0
        self.bytes = 0
        self._makers = {
            EntryKind.FILE: self._file,
            EntryKind.SPARSE: self._sparse,
            EntryKind.DIRECTORY: self._directory,
            EntryKind.SYMLINK: self._symlink,
            EntryKind.LINK: self._link,
            EntryKind.FIFO: self._fifo,
            EntryKind.WHITEOUT: self._whiteout,
            EntryKind.OPAQUE: self._opaque,
        }

    def make(self, entry: Entry) -> None:
        """One entry. Errors say which."""
        self.entries += 1
        if self.entries > self._limits["entries"]:
            raise ArchiveError(f"it has more than {self._limits['entries']} entries", "leave something out")
        try:
            self._makers[entry.kind](entry)
        except OSError as error:
            raise _explained(error, entry) from error

    # one method per kind

    def _file(self, entry: Entry) -> None:
        self._count(entry.size)
        fd = self._create(entry)
        try:
            self._frames.copy(fd, entry.size)
            self._finish_file(fd, entry)
        finally:
            os.close(fd)

    def _sparse(self, entry: Entry) -> None:
        if not entry.link or len(entry.link) % 16:
            raise BadFrameError("a damaged map of a sparse file")
        *pieces, (real_size, _) = struct.iter_unpack("<QQ", entry.link)
        if sum(length for _, length in pieces) != entry.size:
            raise BadFrameError("a map of a sparse file that doesn't fit")
        self._count(real_size)
        fd = self._create(entry)
        try:
            for offset, length in pieces:
                os.lseek(fd, min(offset, real_size), os.SEEK_SET)
                self._frames.copy(fd, length)
            os.ftruncate(fd, real_size)
            self._finish_file(fd, entry)
        finally:
            os.close(fd)

    def _count(self, size: int) -> None:
        self.bytes += size
        if self.bytes > self._limits["bytes"]:
            raise ArchiveError(
                f"it unpacks to more than {self._limits['bytes']} bytes", "make room, or leave something out"
            )

    def _create(self, entry: Entry) -> int:
        parent, name = self._place(entry.path)
        try:
            return os.open(name, _CREATE, entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._replace(entry.path, parent, name)
            return os.open(name, _CREATE, entry.mode & 0o777, dir_fd=parent)

    def _finish_file(self, fd: int, entry: Entry) -> None:
        """Owner first: a change of owner clears set-uid bits and capabilities."""
        if entry.uid or entry.gid:
            os.fchown(fd, entry.uid, entry.gid)
        if entry.mode & 0o7000:
            os.fchmod(fd, entry.mode)
        if entry.attributes:
            _set_attributes(fd, entry)
        os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))

    def _directory(self, entry: Entry) -> None:
        """Made with mode 0700; what it shall be is set at the end, when nothing more is put into it."""
        if entry.path:
            parent, name = self._place(entry.path)
            try:
                os.mkdir(name, 0o700, dir_fd=parent)
            except FileExistsError:
                if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                    self._replace(entry.path, parent, name)
                    os.mkdir(name, 0o700, dir_fd=parent)
            if entry.path in self._whiteouts:
                self.opaque.add(entry.path)
        self._directories[entry.path] = entry

    def _symlink(self, entry: Entry) -> None:
        parent, name = self._place(entry.path)
        try:
            os.symlink(entry.link, name, dir_fd=parent)
        except FileExistsError:
            self._replace(entry.path, parent, name)
            os.symlink(entry.link, name, dir_fd=parent)
        self._finish_special(parent, name, entry)

    def _fifo(self, entry: Entry) -> None:
        parent, name = self._place(entry.path)
        try:
            os.mkfifo(name, entry.mode & 0o777, dir_fd=parent)
        except FileExistsError:
            self._replace(entry.path, parent, name)
            os.mkfifo(name, entry.mode & 0o777, dir_fd=parent)
        self._finish_special(parent, name, entry)

    def _finish_special(self, parent: int, name: bytes, entry: Entry) -> None:
        if entry.uid or entry.gid:
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _link(self, entry: Entry) -> None:
        parent, name = self._place(entry.path)
        source, source_name = self._place(entry.link)
        info = os.stat(source_name, dir_fd=source, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode) or stat.S_ISCHR(info.st_mode):
            raise ArchiveError(
                f"its hard link {shown(entry.path)} leads to something that isn't a file", "leave it out"
            )
        try:
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        except FileExistsError:
            there = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if (there.st_dev, there.st_ino) == (info.st_dev, info.st_ino):
                return
            self._replace(entry.path, parent, name)
            os.link(source_name, name, src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, entry: Entry) -> None:
        """Hides what lower layers have there. What this layer itself put or puts there stays, in front of the hidden."""
        parent, name = self._place(entry.path)
        self._whiteouts.add(entry.path)
        try:
            os.mknod(name, stat.S_IFCHR | 0o000, os.makedev(0, 0), dir_fd=parent)
        except FileExistsError:
            if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
                self.opaque.add(entry.path)

    def _opaque(self, entry: Entry) -> None:
        """The mark itself is trusted.overlay.opaque, which this process may not set; its parent does, at the end."""
        if not entry.path:
            raise ArchiveError("one of its layers hides everything below it", "save the image again as one layer")
        self._parent(entry.path)
        self.opaque.add(entry.path)

    # places

    def _place(self, path: bytes) -> tuple[int, bytes]:
        """An open parent directory, made when missing, and the last component."""
        directory, _, name = path.rpartition(b"/")
        return self._parent(directory), name

    def _parent(self, path: bytes) -> int:
        if not path:
            return self._root
        if path in self._parents:
            self._parents.move_to_end(path)
            return self._parents[path]
        try:
            fd = os.open(path, _DIRECTORY, dir_fd=self._root)
        except FileNotFoundError:
            fd = self._make_parents(path)
        self._parents[path] = fd
        if len(self._parents) > _PARENTS:
            os.close(self._parents.popitem(last=False)[1])
        return fd

    def _make_parents(self, path: bytes) -> int:
        at = 0
        while at >= 0:
            at = path.find(b"/", at + 1)
            directory = path if at < 0 else path[:at]
            try:
                os.mkdir(directory, 0o700, dir_fd=self._root)
            except FileExistsError:
                continue
            self._directories.setdefault(directory, Entry(EntryKind.DIRECTORY, directory, 0o755))
            if directory in self._whiteouts:
                self.opaque.add(directory)
        return os.open(path, _DIRECTORY, dir_fd=self._root)

    def _replace(self, path: bytes, parent: int, name: bytes) -> None:
        """A later entry of the same name wins. A directory gives way only when it is empty."""
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            try:
                os.rmdir(name, dir_fd=parent)
            except OSError as error:
                if error.errno == errno.ENOTEMPTY:
                    message = f"its member {shown(path)} would replace a directory that isn't empty"
                    raise ArchiveError(message, "leave one of the two out") from error
                raise
            self._directories.pop(path, None)
            self.opaque.discard(path)
            while self._parents:  # one of them may be the directory that has just gone
                os.close(self._parents.popitem()[1])
        else:
            os.unlink(name, dir_fd=parent)

    # the end

    def finish(self) -> None:
        """Directories get what they shall have, children first, and the top level is checked."""
        for entry in reversed(self._directories.values()):
            try:
                self._finish_directory(entry)
            except OSError as error:
                raise _explained(error, entry) from error
        for name in REAL_DIRECTORIES:
            self._check_top(name)

    def _finish_directory(self, entry: Entry) -> None:
        try:
            fd = os.open(entry.path or b".", _DIRECTORY | os.O_NOFOLLOW, dir_fd=self._root)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return  # replaced by something else through another path
            raise
        try:
            os.fchown(fd, entry.uid, entry.gid)
            os.fchmod(fd, entry.mode)
            if entry.attributes:
                _set_attributes(fd, entry)
            os.utime(fd, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(fd)

    def _check_top(self, name: str) -> None:
        try:
            info = os.stat(name, dir_fd=self._root, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(info.st_mode):
            raise ArchiveError(f"its /{name} isn't a directory", f"make /{name} a real directory in the image")
        if name in _EMPTY and os.listdir(f"/{name}"):
            raise ArchiveError(f"something was put into its /{name} through a link", "leave it out")


def _set_attributes(fd: int, entry: Entry) -> None:
    for name, value in decode_attributes(entry.attributes).items():
        os.setxattr(fd, name, value)


def _explained(error: OSError, entry: Entry) -> ImageError:
    path = shown(entry.path)
    if error.errno in _FULL:
        return ImageError("the disk is full", "free some space, or give Hutch a larger disk for its state")
    if error.errno == errno.EFBIG:
        return ArchiveError(f"its member {path} is too large", "leave it out")
    if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EEXIST):
        return ArchiveError(
            f"its member {path} goes through a link or file that is no directory", "make the archive again"
        )
    if error.errno == errno.ENOENT:
        what = "a hard link to a missing file" if entry.kind is EntryKind.LINK else "below a link that leads nowhere"
        return ArchiveError(f"its member {path} is {what}", "make the archive again")
    return ImageError(f"{path} cannot be made: {error.strerror}", "look at the file system under Hutch's state")


def write_layer(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    """Request: pipe (fd), tree (fd of the empty directory), limits {entries, bytes}."""
    pipe = int(request["pipe"])
    os.umask(0)
    enter_chroot(int(request["tree"]))
    frames = Frames(pipe)
    writer = Writer(frames, request["limits"])
    while (entry := frames.entry()).kind is not EntryKind.END:
        writer.make(entry)
    writer.finish()
    opaque = sorted(os.fsencode(path).hex() for path in writer.opaque)
    return {"entries": writer.entries, "bytes": writer.bytes, "opaque": opaque}


if __name__ == "__main__":
    raise SystemExit(run_confined(write_layer))
