"""The judgements of the doctor: pure functions from what the kernel says to a check with its remedy.

Must not touch the host; doctor.py hands in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from sandbox.host import identity

Level = Literal["required", "optional"]

MIN_KERNEL: Final = (5, 19)
MIN_PYTHON: Final = (3, 12)
_NAMESPACES: Final = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
# What the daemon and the spawner use before they give it up: name -> number in linux/capability.h.
_CAPABILITIES: Final = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_ADMIN": 12,
    "CAP_SYS_CHROOT": 18,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
    "CAP_MKNOD": 27,
}
# File systems that overlayfs refuses for its upper directory, or that lose owners, attributes or locks.
_NOT_FOR_STATE: Final = frozenset(
    {"overlay", "nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "vfat", "exfat", "ntfs", "ntfs3", "fuseblk", "ramfs"}
)
_MIN_FREE: Final = 2 << 30
_GOOD_FREE: Final = 10 << 30
_FIRST_ID: Final = identity.FIRST_ID
_LAST_ID: Final = identity.FIRST_ID + 0x20000000 - 1


@dataclass(frozen=True)
class Check:
    """One finding. `required` ones must be ok for any task to run; `remedy` is a command or a sentence, empty if ok."""

    name: str
    ok: bool
    level: Level
    detail: str
    remedy: str


def passed(name: str, detail: str, level: str = "required") -> Check:
    """A check that found what is needed."""
    return Check(name, True, "optional" if level == "optional" else "required", detail, "")


def failed(name: str, detail: str, remedy: str, level: str = "required") -> Check:
    """A check that didn't."""
    return Check(name, False, "optional" if level == "optional" else "required", detail, remedy)


def privileges(euid: int, status: str) -> Check:
    """Root with the capabilities that are used; `status` is the text of /proc/self/status."""
    if euid != 0:
        return failed("root", f"running as uid {euid}", "run it as root: sudo hutch serve, or the systemd unit")
    match = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    mask = int(match[1], 16) if match else 0
    missing = [name for name, number in _CAPABILITIES.items() if not mask >> number & 1]
    if missing:
        return failed("root", f"root lacks {', '.join(missing)}", "run on the host itself or in a privileged container")
    return passed("root", "uid 0 with all capabilities that are used")


def kernel(release: str, machine: str) -> Check:
    """New enough for overlayfs over id-mapped layers."""
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < MIN_KERNEL:
        wanted = ".".join(map(str, MIN_KERNEL))
        return failed(
            "kernel", f"Linux {release}: overlayfs takes id-mapped layers since {wanted}",
            f"boot Linux {wanted} or newer, for example Debian 12's: apt-get install linux-image-amd64",
        )  # fmt: skip
    return passed("kernel", f"Linux {release} {machine}")


def python(version: tuple[int, ...]) -> Check:
    """The interpreter that runs the daemon."""
    text = ".".join(map(str, version))
    if version[:2] < MIN_PYTHON:
        return failed("python", f"Python {text}", "run scripts/setup, which finds or fetches Python 3.12 or newer")
    return passed("python", f"Python {text}")


def namespaces(present: frozenset[str]) -> Check:
    """All seven kinds; `present` are the names in /proc/self/ns."""
    missing = [name for name in _NAMESPACES if name not in present]
    if missing:
        options = ", ".join(f"CONFIG_{name.replace('mnt', 'mount').upper()}_NS" for name in missing)
        return failed("namespaces", f"the kernel lacks {', '.join(missing)}", f"boot a kernel with {options}")
    return passed("namespaces", ", ".join(_NAMESPACES))


def user_namespaces(maximum: str) -> Check:
    """One per sandbox; `maximum` is the text of /proc/sys/user/max_user_namespaces."""
    number = int(maximum) if maximum.strip().isdigit() else 0
    if number < 64:
        return failed(
            "user namespaces allowed", f"at most {number} user namespaces", "sysctl -w user.max_user_namespaces=10000"
        )
    return passed("user namespaces allowed", f"at most {number}")


def swap_accounting(swaps: str, can_limit: bool) -> Check:
    """Where there is swap and no limit on it, a sandbox can use more than its memory; `swaps` is /proc/swaps."""
    active = len(swaps.strip().splitlines()) > 1
    if active and not can_limit:
        return failed(
            "swap limit", "swap is on and can't be limited by cgroup",
            "boot with swapaccount=1, or swapoff -a", "optional",
        )  # fmt: skip
    return passed("swap limit", "swap is limited with memory" if active else "no swap", "optional")


def id_ranges(uid_map: str, subuid: str, subgid: str) -> Check:
    """Hutch's host ids must exist in this user namespace and belong to nobody else."""
    name = "id ranges"
    mapped = [(int(a), int(a) + int(n) - 1) for a, _, n in (line.split() for line in uid_map.strip().splitlines())]
    if not any(first <= _FIRST_ID and last >= _LAST_ID for first, last in mapped):
        return failed(
            name, f"ids {_FIRST_ID}–{_LAST_ID} are not mapped into this user namespace", "run on the host itself"
        )
    for file, text in (("/etc/subuid", subuid), ("/etc/subgid", subgid)):
        for line in text.splitlines():
            fields = line.split("#")[0].split(":")
            if len(fields) != 3 or not fields[1].strip().isdigit() or not fields[2].strip().isdigit():
                continue
            first, count = int(fields[1]), int(fields[2])
            if first <= _LAST_ID and first + count > _FIRST_ID:
                return failed(
                    name, f"{file} gives ids {first}–{first + count - 1} to {fields[0]}: sandboxes use some of them",
                    f"move that line of {file} out of {_FIRST_ID}–{_LAST_ID}",
                )  # fmt: skip
    return passed(name, f"{_FIRST_ID}–{_LAST_ID} are free for sandboxes")


def type_of(mountinfo: str, path: Path) -> str:
    """The type of the file system that `path` is on, from the text of /proc/self/mountinfo."""
    best, kind = -1, ""
    for line in mountinfo.splitlines():
        left, _, right = line.partition(" - ")
        fields, about = left.split(" "), right.split(" ")
        if len(fields) > 4 and path.is_relative_to(fields[4]) and len(Path(fields[4]).parts) >= best:
            best, kind = len(Path(fields[4]).parts), about[0]
    return kind


def file_system(state: str, kind: str) -> Check:
    """The state directory must be able to hold layers and upper directories, and still be there tomorrow."""
    name = "state directory"
    if kind in _NOT_FOR_STATE or kind.startswith("fuse."):
        return failed(name, f"{state} is on {kind}, which can't hold them", "hutch serve --state on ext4, xfs or btrfs")
    if kind == "tmpfs":
        return passed(name, f"{state} is on tmpfs: images and results are gone after a reboot", "optional")
    return passed(name, f"{state} is on {kind or 'an unknown file system'}")


def disk_space(state: str, free: int) -> Check:
    """Room for the base image and some tasks; `free` in bytes."""
    detail, remedy = (
        f"{free / (1 << 30):.1f} GiB free for {state}",
        "hutch gc, or a larger disk for the state directory",
    )
    if free < _MIN_FREE:
        return failed("disk space", detail, remedy)
    if free < _GOOD_FREE:
        return failed("disk space", f"{detail}: enough for few images", remedy, "optional")
    return passed("disk space", detail)


def forwarding(ip_forward: str) -> Check:
    """Only told: Hutch neither needs forwarding nor changes it."""
    state = "on" if ip_forward.strip() == "1" else "off"
    return passed("ip forwarding", f"{state}, and left as it is", "optional")
