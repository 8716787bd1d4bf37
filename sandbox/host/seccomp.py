"""Compiles the seccomp filters of every sandbox; the only file that imports pyseccomp.

Two programs, both installed; the stricter answer of the two counts:

    allow-list    what ordinary programs need; the rest answers ENOSYS, so that callers fall back (clone3, io_uring, …)
    by argument   calls that are allowed but for some argument: new namespaces, odd sockets, terminal injection, huge pages

The list is Docker's default in spirit, minus what only nested containers need, and minus what has one limit for the whole
host: kernel AIO (io_setup; libaio's users fall back) and huge pages. Both programs check the architecture first:
int 0x80 and x32 calls answer ENOSYS.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

import pyseccomp

# What root expects to be refused rather than missing.
_REFUSED: Final = """
add_key request_key keyctl mount umount2 pivot_root swapon swapoff reboot sethostname setdomainname settimeofday
clock_settime clock_adjtime adjtimex init_module finit_module delete_module kexec_load kexec_file_load acct quotactl
quotactl_fd bpf perf_event_open open_by_handle_at iopl ioperm setns syslog vhangup lookup_dcookie nfsservctl
open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr
""".split()

_ALLOWED: Final = """
accept accept4 access alarm arch_prctl bind brk cachestat capget capset chdir chmod chown chroot clock_getres
clock_gettime clock_nanosleep clone close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve
execveat exit exit_group faccessat faccessat2 fadvise64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown
fchownat fcntl fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex
futex_requeue futex_wait futex_waitv futex_wake futimesat get_mempolicy get_robust_list get_thread_area getcpu getcwd
getdents getdents64 getegid geteuid getgid getgroups getitimer getpeername getpgid getpgrp getpid getppid getpriority
getrandom getresgid getresuid getrlimit getrusage getsid getsockname getsockopt gettid gettimeofday getuid getxattr
inotify_add_watch inotify_init inotify_init1 inotify_rm_watch ioctl ioprio_get ioprio_set kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen listxattr llistxattr lremovexattr
lseek lsetxattr lstat madvise map_shadow_stack mbind membarrier memfd_create memfd_secret mincore mkdir mkdirat mknod
mknodat mlock mlock2 mlockall mmap modify_ldt mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend
mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap name_to_handle_at nanosleep
newfstatat open openat openat2 pause personality pidfd_getfd pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc
pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 prlimit64 process_madvise process_mrelease
process_vm_readv process_vm_writev pselect6 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv
recvfrom recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq
rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo
sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp select
semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_mempolicy set_mempolicy_home_node set_robust_list
set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid setresgid
setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown sigaltstack signalfd
signalfd4 socket socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill
time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime
timerfd_settime times tkill truncate umask uname unlink unlinkat unshare utime utimensat utimes vfork vmsplice wait4
waitid write writev
""".split()

_LOW_32: Final = 0xFFFFFFFF
# CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET and, for unshare, NEWTIME.
_NAMESPACES: Final = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
_NEWTIME: Final = 0x80
# Terminal injection (TIOCSTI, TIOCSETD, TIOCLINUX) and the console's keyboard: a shell of the host must never read it.
_REFUSED_IOCTLS: Final = (0x5412, 0x5423, 0x541C)
_AF_NETLINK: Final = 16
_FAMILIES: Final = frozenset((1, 2, 10, _AF_NETLINK))  # unix, inet, inet6
# The default of each family, ICMP, TCP, UDP, ICMPv6. For others the kernel would load modules: SCTP, DCCP, L2TP, SMC, MPTCP.
_PROTOCOLS: Final = frozenset((0, 1, 6, 17, 58))
_MAP_HUGETLB, _MFD_HUGETLB = 0x40000, 0x4
_RLIMIT_CORE: Final = 4


def allow_list() -> bytes:
    """The BPF program of the allow-list (8 bytes an instruction, as seccomp(2) takes it)."""
    program = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in _ALLOWED:
        _add(program, pyseccomp.ALLOW, name)
    for name in _REFUSED:
        _add(program, pyseccomp.ERRNO(errno.EPERM), name)
    return _export(program)


def by_argument() -> bytes:
    """The BPF program that refuses some arguments of calls which the allow-list lets through.

    The kernel reads these arguments as 32-bit numbers, so they are compared on their low half only.
    """
    program = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    refuse = pyseccomp.ERRNO(errno.EPERM)
    for flag in _NAMESPACES:
        for name in ("clone", "unshare"):
            _add(program, refuse, name, pyseccomp.Arg(0, pyseccomp.MASKED_EQ, flag, flag))
    _add(program, refuse, "unshare", pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _NEWTIME, _NEWTIME))
    for number in _REFUSED_IOCTLS:
        _add(program, refuse, "ioctl", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _LOW_32, number))
    no_family, no_protocol = pyseccomp.ERRNO(errno.EAFNOSUPPORT), pyseccomp.ERRNO(errno.EPROTONOSUPPORT)
    for name in ("socket", "socketpair"):
        for mask, value in all_but(_FAMILIES):
            _add(program, no_family, name, pyseccomp.Arg(0, pyseccomp.MASKED_EQ, mask, value))
        for mask, value in all_but(_PROTOCOLS):
            _add(program, no_protocol, name, pyseccomp.Arg(2, pyseccomp.MASKED_EQ, mask, value))
        for protocol in _PROTOCOLS - {0}:  # of AF_NETLINK only NETLINK_ROUTE, which is 0
            family_is = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _LOW_32, _AF_NETLINK)
            _add(program, no_protocol, name, family_is, pyseccomp.Arg(2, pyseccomp.MASKED_EQ, _LOW_32, protocol))
    # As on a host without huge pages: those that an administrator has reserved aren't the tenant's.
    no_memory = pyseccomp.ERRNO(errno.ENOMEM)
    _add(program, no_memory, "mmap", pyseccomp.Arg(3, pyseccomp.MASKED_EQ, _MAP_HUGETLB, _MAP_HUGETLB))
    _add(program, no_memory, "memfd_create", pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _MFD_HUGETLB, _MFD_HUGETLB))
    # Told that it worked: gpg-agent and others end when they can't switch their core dumps off, which they are.
    core = pyseccomp.Arg(0, pyseccomp.MASKED_EQ, _LOW_32, _RLIMIT_CORE)
    _add(program, pyseccomp.ERRNO(0), "setrlimit", core)
    core = pyseccomp.Arg(1, pyseccomp.MASKED_EQ, _LOW_32, _RLIMIT_CORE)
    _add(program, pyseccomp.ERRNO(0), "prlimit64", core, pyseccomp.Arg(2, pyseccomp.NE, 0))
    return _export(program)


def all_but(allowed: frozenset[int], bit: int = 31, mask: int = 0, value: int = 0) -> Iterator[tuple[int, int]]:
    """(mask, value) pairs of which a 32-bit number fits one exactly if it isn't `allowed`: a filter has no else."""
    if not allowed:
        yield mask, value
    elif bit >= 0:
        for half in (0, 1 << bit):
            within = frozenset(number for number in allowed if number & 1 << bit == half)
            yield from all_but(within, bit - 1, mask | 1 << bit, value | half)


def _add(program: pyseccomp.SyscallFilter, action: int, name: str, *arguments: pyseccomp.Arg) -> None:
    try:
        program.add_rule(action, name, *arguments)
    except (OSError, ValueError, RuntimeError):
        # A libseccomp that doesn't know the call: it stays what the filter's default says. A refusal by
        # argument must not get lost that way.
        if arguments:
            raise


def _export(program: pyseccomp.SyscallFilter) -> bytes:
    program.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.ERRNO(errno.ENOSYS))
    # A binary tree: when it is loaded, the kernel runs it for every system call to learn which are always allowed.
    program.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)
    fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
    with os.fdopen(fd, "w+b") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()
