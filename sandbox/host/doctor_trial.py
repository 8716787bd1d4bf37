"""A trial of what every sandbox's root needs: `python -I -m sandbox.host.doctor_trial DIRECTORY`, as root.

Must run in a process of its own: it changes its namespaces and ids. Prints one JSON object: {}, or the failed step.

    user namespace with 65,536 ids ─ private mount namespace ─ id-mapped layer and upper ─ overlay ─ owner 0 on disk
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from sandbox.inside import credentials, syscalls

# The last of the ranges that Hutch hands out: least likely to be in use. Nothing keeps it after this process.
_BASE = 0x6FFF0000
_IDS = 65536


def main(directory: Path) -> dict[str, str]:
    """Try each step in turn; the first that fails is named with the kernel's reason."""
    step = "user namespace"
    try:
        userns = user_namespace()
        step = "id-mapped mounts"
        stage(directory, userns)
        step = "overlayfs"
        overlay(directory)
    except OSError as error:
        return {"failed": step, "message": f"{error}"}
    return {}


def user_namespace() -> int:
    """A user namespace with its ids mapped, held by a descriptor; the child that made it ends at once."""
    ready, unshared = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if child == 0:
        with contextlib.suppress(OSError):
            os.unshare(os.CLONE_NEWUSER)
            os.write(unshared, b"1")
            signal.pause()
        os._exit(1)
    os.close(unshared)
    try:
        if os.read(ready, 1) != b"1":
            raise OSError(0, "unshare was refused", "user namespace")
        for name in ("uid_map", "gid_map"):
            Path(f"/proc/{child}/{name}").write_text(f"0 {_BASE} {_IDS}")
        return os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(ready)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def stage(directory: Path, userns: int) -> None:
    """Attach an id-mapped layer and writable directory below a tmpfs that only this process sees."""
    os.unshare(os.CLONE_NEWNS)
    syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    for name in ("lower", "writable/upper", "writable/work", "stage"):
        (directory / name).mkdir(parents=True)
    (directory / "lower" / "file").write_text("below\n")
    syscalls.mount("tmpfs", str(directory / "stage"), "tmpfs", 0, "mode=0711,size=64k")
    for name in ("lower", "writable"):
        target = directory / "stage" / name
        target.mkdir()
        source = os.open(directory / name, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        tree = syscalls.open_tree(source)
        syscalls.mount_setattr(tree, syscalls.MOUNT_ATTR_NODEV, userns=userns)
        point = os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        syscalls.move_mount(tree, point)
        for fd in (source, tree, point):
            os.close(fd)
    (directory / "stage" / "root").mkdir()


def overlay(directory: Path) -> None:
    """Mount an overlay of them as a sandbox does, write through it, and look at the owner on disk."""
    credentials.act_on_files_as(_BASE)
    os.chdir(directory / "stage")
    syscalls.mount("overlay", "root", "overlay", 0, "lowerdir=lower,upperdir=writable/upper,workdir=writable/work")
    Path("root/file").write_text("above\n")
    syscalls.umount2("root", syscalls.MNT_DETACH)
    written = directory / "writable" / "upper" / "file"
    if written.read_text() != "above\n" or written.stat().st_uid != 0:
        raise OSError(0, f"a file written through the overlay has owner {written.stat().st_uid} on disk", "overlay")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
