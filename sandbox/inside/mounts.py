"""Builds a sandbox's root file system in the new mount namespace, and enters it.

Runs in the sandbox's first process while it is still host root with every capability, before any byte of the image
runs; it decides nothing (the plan and profile.py do). Order:

    ahead of the plan:  / made private ─ stage (a tmpfs) ─ pivot_root to it ─ the host's tree detached: every path to it is gone
      ─ proc, sys, dev and hutch in the stage ─ masks
    with the plan:      layers and upper attached in the stage ─ overlay on its root/
      ─ proc, sys, dev and hutch moved to where they belong, on descriptors that were opened without following links
      ─ pivot_root ─ the stage detached, and with it the layers by themselves

All of it belongs to the initial user namespace, so root inside can neither unmount nor remount any of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import NamedTuple

from sandbox.inside import profile, syscalls
from sandbox.inside.plan import StartPlan

_PLAIN = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY
_NO_SUID, _NO_DEV, _NO_EXEC = syscalls.MOUNT_ATTR_NOSUID, syscalls.MOUNT_ATTR_NODEV, syscalls.MOUNT_ATTR_NOEXEC
_SAFE_DIR = os.O_PATH | os.O_DIRECTORY
_INSIDE_ONLY = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS


class Prepared(NamedTuple):
    """Descriptors of the stage, and of the mounts in it that every sandbox has."""

    stage: int
    proc: int
    sys: int
    dev: int
    hutch: int


def prepare(uid_base: int) -> Prepared:
    """Make the stage, with everything in it that doesn't depend on a plan; it becomes the root and working directory.

    The host's tree goes at once: who stands by for hours must not keep busy what an administrator unmounts.

    The caller has unshared its mount namespace and set its file system ids to `uid_base`, the ids that root inside maps to:
    overlayfs and tmpfs create files as their mounter, and host root has no mapping in the layers.
    """
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    stage = syscalls.new_filesystem("tmpfs", {"mode": "0700", "size": "64k"}, _PLAIN)
    # /tmp only serves as a mount point that every host has; this mount namespace is ours alone.
    host_tmp = os.open("/tmp", _SAFE_DIR | os.O_CLOEXEC)
    syscalls.move_mount(stage, host_tmp)
    os.close(host_tmp)
    _change_root(stage)
    for name in ("root", "proc", "sys", "dev", "hutch"):
        os.mkdir(name)
    owner = {"mode": "0755", "uid": str(uid_base), "gid": str(uid_base)}
    prepared = Prepared(
        stage=stage,
        proc=_mount_new(stage, "proc", "proc", {}, _PLAIN),
        sys=_mount_new(stage, "sys", "sysfs", {}, _PLAIN | _READ_ONLY),
        dev=_mount_new(stage, "dev", "tmpfs", {**owner, "size": "1m", "nr_inodes": "4096"}, _NO_SUID | _NO_EXEC),
        hutch=_mount_new(stage, "hutch", "tmpfs", {**owner, "size": "64m"}, _NO_SUID | _NO_DEV),
    )
    _fill_dev(prepared.dev, uid_base)
    _mask(stage)
    return prepared


def enter_root(plan: StartPlan, prepared: Prepared, fds: list[int]) -> None:
    """Build the root that `plan` describes and make it this process's root directory."""
    _attach_layers(plan, prepared.stage, fds)
    _mount_overlay(len(plan.layers), plan.redirects)
    _fill_hutch_directory(prepared.hutch, plan, fds)
    root = os.open("root", _SAFE_DIR | os.O_CLOEXEC)
    for path, mount in (
        ("proc", prepared.proc), ("sys", prepared.sys), ("dev", prepared.dev), ("run/hutch", prepared.hutch),
    ):  # fmt: skip
        _attach(root, path, mount)
    _change_root(root)


def _change_root(directory: int) -> None:
    """Make a mount point the root and working directory, and detach the old root."""
    os.fchdir(directory)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")


def _attach_layers(plan: StartPlan, stage: int, fds: list[int]) -> None:
    """Attach the layers as 0, 1, … and the writable directory as w.

    Attached rather than detached, because kernels before 6.13 refuse detached mounts as overlay layers; below relative
    names, because those need no quoting and keep the option string short.
    """
    for name, index in (("w", plan.writable), *((str(n), index) for n, index in enumerate(plan.layers))):
        os.mkdir(name)
        syscalls.move_mount(fds[index], stage, name)


def _mount_overlay(layers: int, redirects: bool) -> None:
    lower = ":".join(str(number) for number in reversed(range(layers)))
    # volatile: what a killed phase wrote is thrown away anyway, and a finished one is synced before it is committed.
    # metacopy and index off: the upper directory then says what there is to say in plain files and whiteouts. Without redirects,
    # renaming a directory that came from below fails (EXDEV; mv copies then, `git mv` doesn't). With them it leaves a note in the
    # upper, which rootfs/upper.py reads; what becomes a layer has none.
    redirect = "on" if redirects else "nofollow"
    options = f"lowerdir={lower},upperdir=w/upper,workdir=w/work,redirect_dir={redirect},metacopy=off,index=off,xino=off,volatile"
    syscalls.mount("overlay", "root", "overlay", syscalls.MS_NODEV, options)


def _directory(root: int, path: str) -> int:
    """Open a directory of the sandbox as a mount point. A link on the way is an attack by the image: refused."""
    return syscalls.openat2(root, path, _SAFE_DIR, _INSIDE_ONLY)


def _attach(root: int, path: str, mount: int) -> None:
    target = _directory(root, path)
    try:
        syscalls.move_mount(mount, target)
    finally:
        os.close(target)


def _mount_new(root: int, path: str, fstype: str, options: Mapping[str, str | None], attributes: int) -> int:
    mount = syscalls.new_filesystem(fstype, dict(options), attributes)
    _attach(root, path, mount)
    return mount


def _fill_dev(dev: int, uid_base: int) -> None:
    for name, (major, minor) in profile.DEVICES.items():
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
        os.chmod(name, 0o666, dir_fd=dev)
    for name, target in profile.DEVICE_LINKS.items():
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, dir_fd=dev)
    tty_gid = str(uid_base + profile.TTY_GID)
    pts = {"newinstance": None, "ptmxmode": "0666", "mode": "0620", "gid": tty_gid, "max": "64"}
    os.close(_mount_new(dev, "pts", "devpts", pts, _NO_SUID | _NO_EXEC))
    shm = {"mode": "1777", "size": str(profile.SHM_SIZE), "uid": str(uid_base), "gid": str(uid_base)}
    os.close(_mount_new(dev, "shm", "tmpfs", shm, _PLAIN))
    os.close(_mount_new(dev, "mqueue", "mqueue", {}, _PLAIN))


def _fill_hutch_directory(mount: int, plan: StartPlan, fds: list[int]) -> None:
    """/run/hutch: the phase's script and inputs, read-only; gone with the sandbox, so never part of a snapshot."""
    for name, index in plan.files.items():
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=mount)
        with open(os.dup(fds[index]), "rb") as source, open(target, "wb") as sink:
            source.seek(0)
            sink.write(source.read())
    for name, index in plan.binds.items():
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            os.mkdir("/".join(parts[:depth]), dir_fd=mount)
        syscalls.move_mount(fds[index], mount, name)
    # Nobody inside has run yet. An image's entrypoint is given a program to start; there it can be run, and nowhere else.
    syscalls.mount_setattr(mount, _READ_ONLY if plan.executable else _READ_ONLY | _NO_EXEC)


def _mask(root: int) -> None:
    null = syscalls.openat2(root, "dev/null", os.O_PATH, _INSIDE_ONLY)
    empty = syscalls.new_filesystem("tmpfs", {"mode": "0555", "size": "4k", "nr_inodes": "2"}, _PLAIN | _READ_ONLY)
    # In the stage, which is the working directory still: kernels before 6.15 clone no mount that is attached nowhere.
    os.mkdir("empty")
    point = os.open("empty", _SAFE_DIR | os.O_CLOEXEC)
    syscalls.move_mount(empty, point)
    os.close(point)
    for path in profile.MASKED_PATHS:
        try:
            target = syscalls.openat2(root, path, os.O_PATH, _INSIDE_ONLY)
        except FileNotFoundError:
            continue
        cover = syscalls.open_tree(empty if stat.S_ISDIR(os.fstat(target).st_mode) else null)
        syscalls.move_mount(cover, target)
        os.close(cover)
        os.close(target)
    for path in profile.READ_ONLY_PATHS:
        try:
            target = syscalls.openat2(root, path, os.O_PATH, _INSIDE_ONLY)
        except FileNotFoundError:
            continue
        view = syscalls.open_tree(target, recursive=True)
        syscalls.mount_setattr(view, _PLAIN | syscalls.MOUNT_ATTR_RDONLY)
        syscalls.move_mount(view, target)
        os.close(view)
        os.close(target)
    os.close(null)
    os.close(empty)
