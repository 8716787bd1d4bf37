"""The command that starts a filter: a private view of the files, then no privilege, then Python, by exec.

Pure apart from looking at the permissions of Python's own directories. Run the result with an empty environment and
with the sockets and the directory inherited (pass_fds).
"""

import shlex
import stat
import sys
from pathlib import Path


class LaunchError(Exception):
    """The filter can't be started on this host. The message says why, and the remedy."""


def filter_command(
    *,
    uid: int,
    gid: int,
    control: int,
    tcp: int,
    dns: int,
    artifacts: int | None = None,
    workers: int | None = None,
    hosts: Path | None = None,
    python: str = sys.executable,
) -> list[str]:
    """argv of a filter with these ids and file descriptors. To be run by root; raises LaunchError."""
    options = {"control": control, "tcp": tcp, "dns": dns, "artifacts": artifacts, "workers": workers, "hosts": hosts}
    arguments = [text for name, value in options.items() if value is not None for text in (f"--{name}", str(value))]
    return unprivileged_command("proxy", *arguments, uid=uid, gid=gid, python=python)


def unprivileged_command(module: str, *arguments: str, uid: int, gid: int, python: str = sys.executable) -> list[str]:
    """argv of a module of this package that runs with these ids and no privilege. To be run by root; raises LaunchError."""
    command = [
        "setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups", "--no-new-privs",
        "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all", "--pdeathsig=KILL", "--",
        python, "-I", "-m", module, *arguments,
    ]  # fmt: skip
    if not (hidden := _hidden(needed_directories())):
        return command
    return ["unshare", "--mount", "--propagation=slave", "--", "/bin/sh", "-euc", _view(hidden), "sh", *command]


def needed_directories() -> list[Path]:
    """What Python reads to run the filter: the environment, the interpreter's own files, and this package."""
    package = Path(__file__).parent
    return list(dict.fromkeys(Path(path).resolve() for path in (sys.prefix, sys.base_prefix, package)))


def _hidden(directories: list[Path]) -> dict[Path, list[Path]]:
    """Directories that strangers don't get into (like /root with a pyenv in it) → what is needed from below them."""
    hidden: dict[Path, list[Path]] = {}
    for directory in directories:
        if not _is_open(directory):
            raise LaunchError(
                f"The filter can't be started: it runs without privileges and can't read {directory}; "
                f"make it readable for others (chmod -R o+rX {shlex.quote(str(directory))})."
            )
        closed = next((path for path in reversed(directory.parents) if not _is_open(path)), None)
        if closed is not None:
            hidden.setdefault(closed, []).append(directory)
    return hidden


def _is_open(directory: Path) -> bool:
    return bool(directory.stat().st_mode & stat.S_IXOTH)


def _view(hidden: dict[Path, list[Path]]) -> str:
    """A script that covers each closed directory, in the filter's mount namespace only, by an empty one in which
    just the needed ones appear, read-only. Nobody's permissions change, and the filter sees nothing more."""
    needed = [directory for directories in hidden.values() for directory in directories]
    aside = _aside(needed)
    lines = [_tmpfs(aside)]
    for number, directory in enumerate(needed):
        lines += [f"mkdir {aside}/{number}", f"mount --bind {_quoted(directory)} {aside}/{number}"]
    lines += [_tmpfs(closed) for closed in hidden]
    for number, directory in enumerate(needed):
        lines += [
            f"mkdir -p {_quoted(directory)}",
            f"mount --move {aside}/{number} {_quoted(directory)}",
            f"mount -o remount,bind,ro,nosuid,nodev {_quoted(directory)}",
        ]
    return "\n".join([*lines, f"umount {aside}", 'exec env -i "$@"'])


def _aside(needed: list[Path]) -> Path:
    """An existing directory to put the mounts in while the closed ones are being covered."""
    candidates = [Path(path) for path in ("/mnt", "/media", "/srv", "/opt", "/tmp")]
    return next(path for path in candidates if path.is_dir() and not any(path in each.parents for each in needed))


def _tmpfs(directory: Path) -> str:
    return f"mount -t tmpfs -o mode=755,size=1m,nosuid,nodev hutch-filter {_quoted(directory)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
