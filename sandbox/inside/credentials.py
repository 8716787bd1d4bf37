"""Identity and privileges of a process that is about to become a tenant's: ids, capabilities, seccomp, limits.

The only file that imports prctl. Everything here takes privileges away; nothing gives any.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Sequence

import prctl

from sandbox.inside import profile, syscalls

with open("/proc/sys/kernel/cap_last_cap") as _file:
    _LAST_CAPABILITY = int(_file.read())


def hide() -> None:
    """Nobody inside may trace this process or read its memory and descriptors, until exec makes it the tenant's."""
    prctl.set_dumpable(0)


def be_called(title: str) -> None:
    """How `ps` shows this process until exec: not by the host's paths in its command line, which everybody inside may read."""
    prctl.set_name(title)
    prctl.set_proctitle(title)


def be_killed_first(proc: int) -> None:
    """When memory is used up, the kernel shall take this process and what comes of it before others; closes `proc`, the host's
    /proc. Its keeper, which shares its control group, would often be the largest there, and the sandbox end with it.
    """
    file = os.open("self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    os.write(file, str(profile.OOM_SCORE).encode())
    os.close(file)
    os.close(proc)


def act_on_files_as(host_id: int) -> None:
    """Create files as `host_id` while keeping every capability (overlay and tmpfs take their owner from these ids)."""
    prctl.set_securebits(prctl.SECBIT_NO_SETUID_FIXUP)
    syscalls.setfsgid(host_id)
    syscalls.setfsuid(host_id)


def own_as(host_id: int) -> None:
    """What this process makes from here on belongs to `host_id`; its capabilities stay."""
    prctl.set_securebits(prctl.SECBIT_NO_SETUID_FIXUP)
    os.setresgid(host_id, host_id, host_id)
    os.setresuid(host_id, host_id, host_id)


def enter_user_namespace(userns: int) -> None:
    """Become root of the user namespace, from where no privilege over the host or over the sandbox's mounts is left.

    Entering it hands out all capabilities over that namespace and a full bounding set, so both are cut down after, not before.
    """
    os.setgroups([])
    os.setns(userns, os.CLONE_NEWUSER)
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    os.setgroups([])
    hide()  # a change of ids sets what fs.suid_dumpable says


def drop_privileges(filters: list[bytes]) -> None:
    """Capabilities to the profile's short list, no new privileges, seccomp; after it this is a tenant's process."""
    for number in range(_LAST_CAPABILITY + 1):
        if not profile.CAPABILITY_MASK & (1 << number):
            prctl.capbset_drop(number)  # raises for one that it doesn't know: better no sandbox than one more privilege
    syscalls.capset(profile.CAPABILITY_MASK)
    prctl.set_no_new_privs(1)
    for program in filters:
        syscalls.load_seccomp(program)


def become_user(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Become another user of the sandbox than its root; one that isn't root keeps no capability.

    Only when everything else is dropped: from here on, others of this user may signal this process, and change its priority and
    limits. They can't trace it or have its descriptors, and it has no right that they haven't.
    """
    if (uid, gid, *groups) == (0, 0):
        return
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)  # to another than 0, the kernel takes all capabilities
    hide()  # a change of ids sets what fs.suid_dumpable says
    if uid:
        syscalls.capset(0)  # whatever the securebits are


def limit_resources() -> None:
    """The profile's resource limits; a host whose own hard limit is lower keeps that."""
    for name, value in profile.RLIMITS.items():
        kind = getattr(resource, name)
        hard = resource.getrlimit(kind)[1]
        wanted = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (wanted, wanted))


def die_with_parent() -> None:
    """SIGKILL this process when its keeper dies. Set last: a change of credentials clears it."""
    prctl.set_pdeathsig(signal.SIGKILL)
