"""What this host can and can't do for Hutch: each check with its result and the exact remedy.

Must not change the host: what has to be tried is tried in child processes whose namespaces and directory end with them.

    checks(state) ─┬─ reads      pure functions of /proc text (doctor_rules.py)
                   └─ trials     short child processes: an id-mapped overlay on the state's file system, nft, veth
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from sandbox.host import cgroup, doctor_rules
from sandbox.host.doctor_rules import Check, failed, passed
from sandbox.host.errors import UnsupportedHost

__all__ = ["Check", "checks"]

DEFAULT_STATE: Final = Path("/var/lib/hutch")
_TRIAL_SECONDS: Final = 20.0
# Each is on PATH or in these: a daemon's PATH may lack the administrator's directories.
_PROGRAM_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/bin:/sbin:/bin"
# program -> (Debian package, level)
_PROGRAMS: Final = {
    "nft": ("nftables", "required"),
    "ip": ("iproute2", "required"),
    "setpriv": ("util-linux", "required"),
    "unshare": ("util-linux", "required"),
    "nsenter": ("util-linux", "required"),
    "catatonit": ("catatonit", "required"),
    "mmdebstrap": ("mmdebstrap", "optional"),
}


def checks(state: Path = DEFAULT_STATE) -> list[Check]:
    """Every check, in the order in which a person would mend things. Takes half a second; `state` need not exist."""
    existing = _nearest_existing(state)
    results = [
        doctor_rules.privileges(os.geteuid(), _read("/proc/self/status")),
        doctor_rules.kernel(os.uname().release, os.uname().machine),
        doctor_rules.python(sys.version_info[:3]),
        doctor_rules.namespaces(frozenset(os.listdir("/proc/self/ns"))),
        doctor_rules.user_namespaces(_read("/proc/sys/user/max_user_namespaces")),
        *_programs(),
    ]
    # A trial without privileges or without its program would only repeat the failure above.
    if all(check.ok for check in results if check.level == "required"):
        results += [*_mount_trials(existing), _nft_trial(), _veth_trial()]
    results += [
        _cgroups(),
        doctor_rules.swap_accounting(_read("/proc/swaps"), _has_swap_limit()),
        _seccomp(),
        doctor_rules.id_ranges(_read("/proc/self/uid_map"), _read("/etc/subuid"), _read("/etc/subgid")),
        doctor_rules.file_system(str(state), doctor_rules.type_of(_read("/proc/self/mountinfo"), existing)),
        doctor_rules.disk_space(str(state), shutil.disk_usage(existing).free),
        doctor_rules.forwarding(_read("/proc/sys/net/ipv4/ip_forward")),
    ]
    return results


def _programs() -> list[Check]:
    found = []
    for program, (package, level) in _PROGRAMS.items():
        path = shutil.which(program, path=_PROGRAM_PATH)
        if path is None:
            found.append(failed(program, f"{program} is not installed", f"apt-get install {package}", level))
        else:
            found.append(passed(program, path, level))
    return found


def _mount_trials(existing: Path) -> list[Check]:
    """One sandbox-like root on the state's file system: the steps before the one that fails have worked."""
    names = {
        "user namespace": ("map ids", "sysctl user.max_user_namespaces=10000"),
        "id-mapped mounts": (
            "id-map a layer",
            f"put the state directory on ext4, xfs or btrfs instead of what {existing} is on (kernel 5.19 or newer)",
        ),
        "overlayfs": (
            "mount an overlay",
            f"modprobe overlay, and put the state directory on a local file system with extended attributes ({existing}"
            " can't hold an upper directory)",
        ),
    }
    try:
        with tempfile.TemporaryDirectory(prefix=".hutch-doctor-", dir=existing) as directory:
            done = _run([sys.executable, "-I", "-m", "sandbox.host.doctor_trial", directory])
        answer = (
            json.loads(done.stdout) if done.returncode == 0 else {"failed": "user namespace", "message": done.stderr}
        )
        step, why = answer.get("failed"), answer.get("message")
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        step, why = "user namespace", f"the trial did not run: {error}"
    results: list[Check] = []
    for name, (doing, remedy) in names.items():
        if name == step:
            return [*results, failed(name, f"could not {doing}: {why}", remedy)]
        results.append(passed(name, f"works on {existing}"))
    return results


def _nft_trial() -> Check:
    """The gateway's own rules, loaded into a network namespace that ends with the command."""
    rules = Path(__file__).with_name("gateway.nft").read_text().format(tcp=1, dns=2)
    options = "CONFIG_NF_TABLES_INET, CONFIG_NFT_CT, CONFIG_NFT_CONNLIMIT, CONFIG_NFT_REDIR and CONFIG_NFT_REJECT_INET"
    remedy = f"modprobe nf_tables, or boot a kernel with {options}"
    command = ["unshare", "--net", "nft", "-f", "-"]
    return _attempt("nftables rules", command, remedy, "the gateway's rules can be loaded", rules)


def _veth_trial() -> Check:
    command = ["unshare", "--net", "ip", "link", "add", "name", "a", "type", "veth", "peer", "name", "b"]
    return _attempt("veth", command, "modprobe veth, or boot a kernel with CONFIG_VETH", "a pair can be made")


def _attempt(name: str, command: list[str], remedy: str, good: str, text: str = "") -> Check:
    try:
        done = _run(command, text)
    except (OSError, subprocess.TimeoutExpired) as error:
        return failed(name, f"could not run {' '.join(command)}: {error}", remedy)
    if done.returncode != 0:
        return failed(name, f"{' '.join(command)} failed: {done.stderr.strip()}", remedy)
    return passed(name, good)


def _cgroups() -> Check:
    try:
        layout = cgroup.detect()
    except UnsupportedHost as error:
        return failed("cgroups", error.message, error.remedy)
    delegated = layout.version == 2 and cgroup.delegated_group(layout.trees[0].root) is not None
    freezer = layout.version == 1 and layout.tree_of("freezer") is None
    how = "delegated by systemd" if delegated else "without freezer: killing takes several rounds" if freezer else ""
    return passed("cgroups", f"version {layout.version}: memory, cpu, pids" + (f" ({how})" if how else ""))


def _has_swap_limit() -> bool:
    try:
        layout = cgroup.detect()
    except UnsupportedHost:
        return False
    tree = layout.tree_of("memory")
    # The root of v2 has no limits to look at; there the swap limit came before everything else that Hutch needs.
    return layout.version == 2 or (tree is not None and (tree.root / "memory.memsw.limit_in_bytes").exists())


def _seccomp() -> Check:
    if "errno" not in _read("/proc/sys/kernel/seccomp/actions_avail").split():
        return failed("seccomp", "the kernel has no seccomp filters", "boot a kernel with CONFIG_SECCOMP_FILTER")
    try:
        import sandbox.host.seccomp  # noqa: F401  # loads libseccomp
    except (ImportError, OSError, RuntimeError) as error:
        return failed("seccomp", f"libseccomp could not be loaded: {error}", "apt-get install libseccomp2")
    return passed("seccomp", "filters and libseccomp are there")


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": _PROGRAM_PATH, "LC_ALL": "C"}
    return subprocess.run(
        command, check=False, capture_output=True, text=True, input=text, timeout=_TRIAL_SECONDS, env=environment
    )


def _nearest_existing(path: Path) -> Path:
    return next(candidate for candidate in (path.absolute(), *path.absolute().parents) if candidate.is_dir())


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
