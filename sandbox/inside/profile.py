"""The written profile: everything that every sandbox is given or denied, as literals.

Pure data; the code that applies it is in mounts.py and credentials.py, and seccomp's list is in sandbox/host/seccomp.py.
An auditor reads this file first.
"""

from __future__ import annotations

from typing import Final

# Capabilities of root inside. They hold over the sandbox's own user namespace only, which owns neither its mounts nor
# its network (design, promise 3). Numbers: linux/capability.h.
CAPABILITIES: Final = {
    "chown": 0,
    "dac_override": 1,
    "fowner": 3,
    "fsetid": 4,
    "kill": 5,
    "setgid": 6,
    "setuid": 7,
    "setpcap": 8,
    "net_bind_service": 10,
    "sys_chroot": 18,
    "setfcap": 31,
}
CAPABILITY_MASK: Final = sum(1 << number for number in CAPABILITIES.values())

# Device nodes of the minimal /dev: name -> (major, minor). All of them are harmless to share.
DEVICES: Final = {
    "null": (1, 3),
    "zero": (1, 5),
    "full": (1, 7),
    "random": (1, 8),
    "urandom": (1, 9),
    "tty": (5, 0),
}
DEVICE_LINKS: Final = {
    "fd": "/proc/self/fd",
    "stdin": "/proc/self/fd/0",
    "stdout": "/proc/self/fd/1",
    "stderr": "/proc/self/fd/2",
    "ptmx": "pts/ptmx",
}
TTY_GID: Final = 5
SHM_SIZE: Final = 256 << 20  # bytes
HOSTNAME: Final = "hutch"

# Paths that tell about the host or reach into its kernel: hidden behind /dev/null or an empty read-only directory.
MASKED_PATHS: Final = (
    "proc/acpi",
    "proc/asound",
    "proc/config.gz",
    "proc/interrupts",
    "proc/kallsyms",
    "proc/kcore",
    "proc/keys",
    "proc/key-users",
    "proc/kmsg",
    "proc/kpagecgroup",
    "proc/kpagecount",
    "proc/kpageflags",
    "proc/latency_stats",
    "proc/modules",
    "proc/sched_debug",
    "proc/scsi",
    "proc/sysvipc",
    "proc/timer_list",
    "proc/vmallocinfo",
    "sys/dev/block",
    "sys/devices/virtual/dmi",
    "sys/devices/virtual/powercap",
    "sys/firmware",
    "sys/fs/bpf",
    "sys/fs/cgroup",
    "sys/fs/pstore",
    "sys/fs/selinux",
    "sys/kernel/debug",
    "sys/kernel/security",
    "sys/kernel/tracing",
    "sys/module",
)
# Pressure files are writable for everybody: whoever opens thousands has the kernel watch the host for each of them.
READ_ONLY_PATHS: Final = ("proc/bus", "proc/fs", "proc/irq", "proc/pressure", "proc/sys", "proc/sysrq-trigger")

# Resource limits set before the first instruction: name in the `resource` module -> value. No core dumps: a dump would
# write secrets to disk, and a piped core pattern (systemd-coredump, apport) runs a program of the host's as root. A limit of 0
# doesn't keep the kernel from that, only 1 does (core(5)); seccomp keeps the tenant from changing it.
RLIMITS: Final = {"RLIMIT_CORE": 1, "RLIMIT_MEMLOCK": 8 << 20, "RLIMIT_NOFILE": 65536}

# Half of the memory limit on top of what a process uses, when the kernel chooses whom to kill.
OOM_SCORE: Final = 500

# Sysctls of a sandbox's network namespace, written before anything runs in it.
NETWORK_SYSCTLS: Final = {
    "ipv4/ip_forward": "0",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
    "ipv4/ip_unprivileged_port_start": "0",
    "ipv4/ping_group_range": "0 2147483647",
}
# The gateway routes nothing and believes a source address only on the veth that it belongs to.
GATEWAY_SYSCTLS: Final = {
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/rp_filter": "1",
    "ipv4/conf/default/rp_filter": "1",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/all/send_redirects": "0",
    "ipv6/conf/all/disable_ipv6": "1",
    "ipv6/conf/default/disable_ipv6": "1",
}
