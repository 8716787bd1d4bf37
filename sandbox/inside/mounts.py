"""Builds a sandbox's root file system in the new mount namespace, and enters it.

Runs in the sandbox's first process while it is still host root with every capability, before any byte of the image
runs; it decides nothing (the plan and profile.py do). Order:

    trees cloned and id-mapped, still in the host's mount namespace ─ (the caller unshares it)
      ─ / made private ─ stage (a tmpfs) ─ layers and upper attached in it
      ─ overlay on stage/root ─ /proc /sys /dev /run/hutch on descriptors that were opened without following links
      ─ masks ─ pivot_root ─ the old root detached: with it go the stage and every path to the host

All of it belongs to the initial user namespace, so root inside can neither unmount nor remount any of it.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass

from sandbox.inside import profile, syscalls
from sandbox.inside.plan import StartPlan

_PLAIN = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY
_SAFE_DIR = os.O_PATH | os.O_DIRECTORY
_INSIDE_ONLY = syscalls.RESOLVE_NO_SYMLINKS | syscalls.RESOLVE_BENEATH | syscalls.RESOLVE_NO_MAGICLINKS


@dataclass(frozen=True)
class Trees:
    """Detached, id-mapped mounts: the writable directory, the layers (bottom first), the binds by their names."""

    writable: int
    layers: tuple[int, ...]
    binds: dict[str, int]


def clone_trees(plan: StartPlan, fds: list[int]) -> Trees:
    """Clone the directories that the plan names, id-mapped, as mounts that are attached nowhere yet.

    To be called while still in the host's mount namespace: the kernel clones no mount of a namespace that isn't the caller's.
    """
    userns = fds[plan.userns]
    return Trees(
        writable=_mapped(fds[plan.writable], userns, 0),
        layers=tuple(_mapped(fds[index], userns, syscalls.MOUNT_ATTR_RDONLY) for index in plan.layers),
        binds={bind.target: _mapped(fds[bind.source], userns, _PLAIN | _READ_ONLY) for bind in plan.binds},
    )


def enter_root(plan: StartPlan, trees: Trees, fds: list[int]) -> None:
    """Build the root that `plan` describes and make it this process's root directory.

    The caller has unshared its mount namespace and set its file system ids to the ids that root inside maps to: overlayfs
    creates files as its mounter, and host root has no mapping in the layers.
    """
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    _stage(trees)
    _mount_overlay(len(trees.layers))
    root = os.open("root", _SAFE_DIR | os.O_CLOEXEC)
    _mount_api_filesystems(root, plan)
    _mount_hutch_directory(root, plan, trees, fds)
    _mask(root)
    os.fchdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)
    os.chdir("/")


def _mapped(source: int, userns: int, attributes: int) -> int:
    tree = syscalls.open_tree(source)
    syscalls.mount_setattr(tree, attributes | syscalls.MOUNT_ATTR_NODEV, userns=userns)
    return tree


def _stage(trees: Trees) -> None:
    """Attach the layers as 0, 1, … and the writable directory as w, in a tmpfs that becomes the working directory.

    Attached rather than detached, because kernels before 6.13 refuse detached mounts as overlay layers; below relative
    names, because those need no quoting and keep the option string short. /tmp only serves as a mount point that every host
    has; this mount namespace is ours alone and loses the host's tree in a moment.
    """
    tmpfs = syscalls.new_filesystem("tmpfs", {"mode": "0700", "size": "64k"}, _PLAIN)
    host_tmp = os.open("/tmp", _SAFE_DIR | os.O_CLOEXEC)
    syscalls.move_mount(tmpfs, host_tmp)
    os.fchdir(tmpfs)
    os.mkdir("root")
    for name, tree in (("w", trees.writable), *((str(n), tree) for n, tree in enumerate(trees.layers))):
        os.mkdir(name)
        syscalls.move_mount(tree, tmpfs, name)


def _mount_overlay(layers: int) -> None:
    lower = ":".join(str(number) for number in reversed(range(layers)))
    # volatile: what a killed phase wrote is thrown away anyway, and a finished one is synced before it is committed.
    # redirect_dir, metacopy and index off: the upper directory then says all there is to say in plain files and whiteouts.
    options = (
        f"lowerdir={lower},upperdir=w/upper,workdir=w/work,redirect_dir=off,metacopy=off,index=off,xino=off,volatile"
    )
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


def _mount_api_filesystems(root: int, plan: StartPlan) -> None:
    owner = str(plan.uid_base)
    os.close(_mount_new(root, "proc", "proc", {}, _PLAIN))
    os.close(_mount_new(root, "sys", "sysfs", {}, _PLAIN | syscalls.MOUNT_ATTR_RDONLY))
    dev_options = {"mode": "0755", "size": "1m", "nr_inodes": "4096", "uid": owner, "gid": owner}
    dev = _mount_new(root, "dev", "tmpfs", dev_options, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC)
    for name, (major, minor) in profile.DEVICES.items():
        os.mknod(name, stat.S_IFCHR | 0o666, os.makedev(major, minor), dir_fd=dev)
        os.chmod(name, 0o666, dir_fd=dev)
    for name, target in profile.DEVICE_LINKS.items():
        os.symlink(target, name, dir_fd=dev)
    for name in ("pts", "shm", "mqueue"):
        os.mkdir(name, dir_fd=dev)
    tty_gid = str(plan.uid_base + profile.TTY_GID)
    pts = {"newinstance": None, "ptmxmode": "0666", "mode": "0620", "gid": tty_gid, "max": "64"}
    os.close(_mount_new(dev, "pts", "devpts", pts, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC))
    shm = {"mode": "1777", "size": str(plan.shm_size), "uid": owner, "gid": owner}
    os.close(_mount_new(dev, "shm", "tmpfs", shm, _PLAIN))
    os.close(_mount_new(dev, "mqueue", "mqueue", {}, _PLAIN))
    os.close(dev)


def _mount_hutch_directory(root: int, plan: StartPlan, trees: Trees, fds: list[int]) -> None:
    """/run/hutch: the phase's script and inputs, read-only; gone with the sandbox, so never part of a snapshot."""
    owner = str(plan.uid_base)
    options = {"mode": "0755", "size": "64m", "uid": owner, "gid": owner}
    mount = _mount_new(root, "run/hutch", "tmpfs", options, _PLAIN)
    for name, index in plan.files.items():
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o755, dir_fd=mount)
        with open(os.dup(fds[index]), "rb") as source, open(target, "wb") as sink:
            source.seek(0)
            sink.write(source.read())
    for name, tree in trees.binds.items():
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            os.mkdir("/".join(parts[:depth]), dir_fd=mount)
        syscalls.move_mount(tree, mount, name)
    syscalls.mount_setattr(mount, syscalls.MOUNT_ATTR_RDONLY)
    os.close(mount)


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
