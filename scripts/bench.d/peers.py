"""Sets up the systems that can run on this host, and says why the others can't. Everything is taken down at the end.

Must not change the host: docker's daemon runs in a network namespace of its own, all of this in a mount namespace that
scripts/bench made, stores lie in a temporary directory, and nothing is installed here (scripts/bench --install-peers).
"""

from __future__ import annotations

import shutil
import subprocess
import time
from contextlib import ExitStack, suppress
from pathlib import Path

from systems import LIMIT, Bwrap, Engine, Runc, System

IMPORT_SECONDS = 600.0
START_SECONDS = 30.0


def set_up(stack: ExitStack, tree: Path, archive: Path, directory: Path) -> tuple[list[System], list[str]]:
    """The peers that work, each tried once, and a line for each that doesn't; `tree` and `archive` are the image for all."""
    systems: list[System] = []
    skipped: list[str] = []
    stack.callback(unmount_below, directory)
    stack.callback(remove_groups, peers_groups())

    def add(program: str, make: object) -> None:
        if shutil.which(program, path="/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin") is None:
            skipped.append(f"{program}: not installed (scripts/bench --install-peers)")
            return
        try:
            found = make() if callable(make) else []
            for system in found:
                system.start()
            systems.extend(found)
        except (OSError, RuntimeError, ValueError, IndexError, subprocess.SubprocessError) as error:
            skipped.append(f"{program}: does not run here: {' '.join(str(error).split())[-300:]}")

    add("bwrap", lambda: [Bwrap(tree)])
    add("runc", lambda: [Runc(tree, directory / "runc")])
    add("podman", lambda: podman(archive, directory))
    add("dockerd", lambda: docker(stack, archive, directory))
    return systems, skipped


def unmount_below(directory: Path) -> None:
    """Podman leaves its store mounted on itself."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    for point in sorted((line.split(" ")[4] for line in lines), reverse=True):
        if Path(point).is_relative_to(directory):
            subprocess.run(["umount", point], check=False, timeout=LIMIT)


def peers_groups() -> set[Path]:
    """The cgroups below which docker and podman make theirs, as far as they are there."""
    return {path for name in ("docker", "libpod_parent") for path in Path("/sys/fs/cgroup").rglob(name)}


def remove_groups(before: set[Path]) -> None:
    """Both leave them, empty; those of before are somebody else's."""
    for top in peers_groups() - before:
        for path in sorted((path for path in [top, *top.rglob("*")] if path.is_dir()), reverse=True):
            with suppress(OSError):
                path.rmdir()


def podman(archive: Path, directory: Path) -> list[System]:
    """Podman with a store of its own."""
    places = ["--root", str(directory / "podman"), "--runroot", str(directory / "podman-run")]
    engine = ["podman", *places, "--runtime", "runc", "--cgroup-manager", "cgroupfs", "--events-backend", "none"]
    subprocess.run([*engine, "import", str(archive), "bench"], check=True, capture_output=True, timeout=IMPORT_SECONDS)
    # Its own defaults are more than a host without CAP_SYS_RESOURCE allows.
    run = ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
    return [Engine("podman none", "overlay, cgroup, seccomp; no network", engine, run, "bench")]


def docker(stack: ExitStack, archive: Path, directory: Path) -> list[System]:
    """Docker with a daemon of its own, in its own network namespace, so that its bridge and rules aren't the host's."""
    socket = f"unix://{directory}/docker.sock"
    places = ["--data-root", f"{directory}/docker", "--exec-root", f"{directory}/docker-run"]
    # `ip link set lo up` first: docker's proxy listens there. `exec`, so that the pid is the daemon's.
    script = 'ip link set lo up; exec dockerd "$@"'
    command = ["unshare", "--net", "sh", "-c", script, "dockerd", *places]
    log = stack.enter_context((directory / "docker.log").open("wb"))
    daemon = subprocess.Popen(
        [*command, "--pidfile", f"{directory}/docker.pid", "--host", socket], stdout=log, stderr=log
    )
    stack.callback(end, daemon)
    engine = ["docker", "--host", socket]
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run([*engine, "version"], capture_output=True, timeout=LIMIT, check=False).returncode != 0:
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((directory / "docker.log").read_text(errors="replace")[-300:])
        time.sleep(0.2)
    subprocess.run([*engine, "import", str(archive), "bench"], check=True, capture_output=True, timeout=IMPORT_SECONDS)
    return [
        Engine("docker", "overlay, cgroup, seccomp, bridge network", engine, [], "bench"),
        Engine("docker none", "the same without network", engine, ["--network", "none"], "bench"),
    ]


def end(daemon: subprocess.Popen[bytes]) -> None:
    """Stop docker's daemon, in order where it can."""
    daemon.terminate()
    try:
        daemon.wait(30)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait(30)
