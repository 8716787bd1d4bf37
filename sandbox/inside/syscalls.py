"""The system calls that Python's standard library lacks, each a thin wrapper named like the call.

The only file that imports ctypes. It must hold no policy: what is mounted, mapped or dropped is decided by its callers.

Every wrapper raises OSError with errno and the name of the call (and its object) when the kernel refuses.
Sources: the manual pages of section 2; numbers are the generic ones that every architecture shares for
calls added since Linux 5.1. The few older calls go through libc.
"""

from __future__ import annotations

import ctypes
import os
from typing import Final

_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long

# Generic numbers (the same on x86_64, aarch64 and riscv64).
_NR_OPEN_TREE: Final = 428
_NR_MOVE_MOUNT: Final = 429
_NR_FSOPEN: Final = 430
_NR_FSCONFIG: Final = 431
_NR_FSMOUNT: Final = 432
_NR_CLOSE_RANGE: Final = 436
_NR_OPENAT2: Final = 437
_NR_MOUNT_SETATTR: Final = 442
# Numbers that differ by architecture.
_MACHINE: Final = os.uname().machine
_NR_PIVOT_ROOT: Final = {"x86_64": 155}.get(_MACHINE, 41)
_NR_CAPSET: Final = {"x86_64": 126}.get(_MACHINE, 91)

AT_EMPTY_PATH: Final = 0x1000
AT_RECURSIVE: Final = 0x8000
OPEN_TREE_CLONE: Final = 1
OPEN_TREE_CLOEXEC: Final = os.O_CLOEXEC
MOVE_MOUNT_F_EMPTY_PATH: Final = 0x4
MOVE_MOUNT_T_EMPTY_PATH: Final = 0x40

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8
MOUNT_ATTR_IDMAP: Final = 0x100000

MS_NODEV: Final = 4
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

RESOLVE_NO_MAGICLINKS: Final = 0x02
RESOLVE_NO_SYMLINKS: Final = 0x04
RESOLVE_BENEATH: Final = 0x08
RESOLVE_IN_ROOT: Final = 0x10

_FSOPEN_CLOEXEC: Final = 1
_FSMOUNT_CLOEXEC: Final = 1
_FSCONFIG_SET_FLAG: Final = 0
_FSCONFIG_SET_STRING: Final = 1
_FSCONFIG_CMD_CREATE: Final = 6
_CLOSE_RANGE_CLOEXEC: Final = 4
_LINUX_CAPABILITY_VERSION_3: Final = 0x20080522
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2


def _error(call: str, subject: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{call}: {os.strerror(number)}", subject)


def _syscall(name: str, subject: str, number: int, *arguments: object) -> int:
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    if result < 0:
        raise _error(name, subject)
    return result


def open_tree(directory: int, path: str = "", *, recursive: bool = False) -> int:
    """Return the descriptor of a detached clone of the mount that holds `path` below `directory`."""
    flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (AT_RECURSIVE if recursive else 0) | (0 if path else AT_EMPTY_PATH)
    return _syscall("open_tree", path, _NR_OPEN_TREE, directory, os.fsencode(path), ctypes.c_uint(flags))


class _MountAttr(ctypes.Structure):
    _fields_ = (
        ("attr_set", ctypes.c_uint64),
        ("attr_clr", ctypes.c_uint64),
        ("propagation", ctypes.c_uint64),
        ("userns_fd", ctypes.c_uint64),
    )


def mount_setattr(mount_fd: int, attributes: int, *, userns: int | None = None) -> None:
    """Set MOUNT_ATTR_* on a mount; with `userns`, map the mount's ids through that user namespace."""
    if userns is not None:
        attributes |= MOUNT_ATTR_IDMAP
    request = _MountAttr(attributes, 0, 0, userns or 0)
    size = ctypes.c_size_t(ctypes.sizeof(request))
    _syscall("mount_setattr", "", _NR_MOUNT_SETATTR, mount_fd, b"", AT_EMPTY_PATH, ctypes.byref(request), size)


def move_mount(mount_fd: int, target_fd: int, path: str = "") -> None:
    """Attach a detached mount at `path` below `target_fd`, or at `target_fd` itself."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | (0 if path else MOVE_MOUNT_T_EMPTY_PATH)
    _syscall("move_mount", path, _NR_MOVE_MOUNT, mount_fd, b"", target_fd, os.fsencode(path), ctypes.c_uint(flags))


def new_filesystem(fstype: str, options: dict[str, str | None], attributes: int = 0) -> int:
    """Make a file system instance and return its detached mount (fsopen, fsconfig, fsmount).

    An option whose value is None is a flag.
    """
    context = _syscall("fsopen", fstype, _NR_FSOPEN, fstype.encode(), _FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            command = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
            text = None if value is None else os.fsencode(value)
            _syscall("fsconfig", f"{fstype} {key}", _NR_FSCONFIG, context, command, key.encode(), text, 0)
        _syscall("fsconfig", f"{fstype} create", _NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _syscall("fsmount", fstype, _NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, ctypes.c_uint(attributes))
    finally:
        os.close(context)


def mount(source: str, target: str, fstype: str | None, flags: int, data: str | None = None) -> None:
    """The classic mount(2); used where the option string may be long or the kernel old."""
    arguments = (os.fsencode(source), os.fsencode(target), fstype.encode() if fstype else None)
    if _libc.mount(*arguments, ctypes.c_ulong(flags), data.encode() if data else None) != 0:
        raise _error("mount", target)


def umount2(target: str, flags: int) -> None:
    """Detach the mount at `target`."""
    if _libc.umount2(os.fsencode(target), flags) != 0:
        raise _error("umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """Make `new_root` the root of this mount namespace and move the old one to `put_old`."""
    _syscall("pivot_root", new_root, _NR_PIVOT_ROOT, os.fsencode(new_root), os.fsencode(put_old))


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, resolve: int, mode: int = 0) -> int:
    """Open `path` below `directory` under the RESOLVE_* restrictions; always close-on-exec."""
    how = _OpenHow(flags | os.O_CLOEXEC, mode, resolve)
    size = ctypes.c_size_t(ctypes.sizeof(how))
    return _syscall("openat2", path, _NR_OPENAT2, directory, os.fsencode(path), ctypes.byref(how), size)


def setfsuid(uid: int) -> None:
    """Set the file system uid; reads it back, since the call itself reports no failure."""
    _libc.setfsuid(uid)
    if _libc.setfsuid(-1) != uid:
        raise OSError(1, "setfsuid: not permitted", str(uid))


def setfsgid(gid: int) -> None:
    """Set the file system gid; reads it back, since the call itself reports no failure."""
    _libc.setfsgid(gid)
    if _libc.setfsgid(-1) != gid:
        raise OSError(1, "setfsgid: not permitted", str(gid))


def close_range_on_exec(first: int) -> None:
    """Mark every descriptor from `first` on close-on-exec."""
    _syscall("close_range", "", _NR_CLOSE_RANGE, first, ctypes.c_uint(0xFFFFFFFF), _CLOSE_RANGE_CLOEXEC)


def close_range(first: int) -> None:
    """Close every descriptor from `first` on."""
    _syscall("close_range", "", _NR_CLOSE_RANGE, first, ctypes.c_uint(0xFFFFFFFF), 0)


def capset(permitted: int) -> None:
    """Set this thread's permitted and effective capabilities to the bit mask `permitted`, the inheritable ones to none."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = permitted & 0xFFFFFFFF, permitted >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)
    _syscall("capset", "", _NR_CAPSET, ctypes.byref(header), ctypes.byref(data))


class _SockFprog(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def load_seccomp(program: bytes) -> None:
    """Install a compiled BPF program (8 bytes an instruction) as this process's seccomp filter."""
    request = _SockFprog(len(program) // 8, program)
    if _libc.prctl(_PR_SET_SECCOMP, ctypes.c_ulong(_SECCOMP_MODE_FILTER), ctypes.byref(request), 0, 0) != 0:
        raise _error("seccomp", "filter")
