"""What a phase finds inside: environment variables, the files laid over an image, the commands that run scripts. Pure.

Promise: exports that setup writes to ~/.bashrc reach every later command, although many images' .bashrc returns at once
in a shell that isn't interactive; plain exports reach nobody.
"""

from __future__ import annotations

import posixpath
import shlex
from collections.abc import Mapping, Sequence
from typing import Final

from rootfs.image import ImageConfig
from rootfs.system_layer import Content, Directory, File
from rootfs.users import ROOT, User

RUN: Final = "/run/hutch"
JAVA_TRUST: Final = "etc/hutch/java-trust.sh"
WORKSPACE: Final = "/workspace"
START: Final = "start"  # below RUN: what an image's entrypoint is given to start
DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Any address does: whatever a sandbox asks on port 53 reaches the filter's resolver. This one is reserved for benchmarks.
_RESOLV_CONF: Final = b"# Every query is answered by the filter.\nnameserver 198.18.0.1\noptions timeout:5 attempts:2\n"
# `proxy` is the filter's explicit proxy, port 8080: for programs that want one, with the same decisions.
_HOSTS: Final = b"127.0.0.1 localhost hutch\n198.18.0.1 proxy\n"

# For an agent that commits: git refuses to without a name. Anything in ~/.gitconfig or the repository wins.
GIT_CONFIG: Final = b"[user]\n\tname = Hutch\n\temail = hutch@localhost\n"

_PROFILE: Final = rb"""# Read by every login shell in a sandbox, before the image's own scripts in this directory.
# /etc/profile has just reset PATH: put back the one of the image and of the task.
if [ -n "${HUTCH_PATH-}" ]; then PATH=$HUTCH_PATH; export PATH; fi
# What setup exported in ~/.bashrc holds for all commands. Many a .bashrc returns at once unless the shell is interactive
# (by $- or by PS1), so it is read here as though it were.
if [ -n "${BASH_VERSION-}" ] && [ -r ~/.bashrc ]; then
  case $- in
    *i*) ;;
    *)
      PS1='$ '
      _hutch_bashrc=$(<~/.bashrc)
      eval "${_hutch_bashrc//\$-/himBHs}"
      unset _hutch_bashrc PS1
      ;;
  esac
fi
"""


def overlay_files(user: User = ROOT) -> dict[str, Content]:
    """Files laid over every image: path relative to the root -> content. The workspace is its user's."""
    return {
        "etc/resolv.conf": _RESOLV_CONF,
        "etc/hosts": _HOSTS,
        "etc/hostname": b"hutch\n",
        "etc/profile.d/00-hutch.sh": File(_PROFILE),
        "run/hutch": Directory(),
        "workspace": Directory(owner=(user.uid, user.gid)),
        # Slim images lack these, and there Java and others can't be installed: update-alternatives links their manuals.
        **{f"usr/share/man/man{section}": Directory() for section in range(1, 9)},
    }


def variables(
    image: Mapping[str, str], trust: Mapping[str, str], task: Mapping[str, str], user: User = ROOT
) -> dict[str, str]:
    """The environment of a phase: ours, then the image's, then the task's; nothing of the host's."""
    ours = {
        "PATH": DEFAULT_PATH,
        "HOME": user.home,
        "USER": user.name,
        "LOGNAME": user.name,
        "SHELL": "/bin/bash",
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "DEBIAN_FRONTEND": "noninteractive",
        "HUTCH": "1",
    }
    merged = {**ours, **trust, **image, **task}
    return {**merged, "HUTCH_PATH": merged["PATH"]}


def login(command: Sequence[str], has_bash: bool) -> tuple[str, ...]:
    """Run `command` (argv) out of a login shell."""
    return (*_shell(has_bash), 'exec "$@"', "hutch", *command)


def login_script(path: str, has_bash: bool) -> tuple[str, ...]:
    """Run the script at `path` in a login shell; its first failing command ends it. What it installed is made to trust
    the filter then, unless it has a trap of its own."""
    return (*_shell(has_bash), f"set -e; trap 'set +e; . /{JAVA_TRUST}' EXIT; . {path}")


def entered(config: ImageConfig, argv: Sequence[str]) -> tuple[tuple[str, ...], dict[str, bytes]]:
    """Run `argv` by an image's entrypoint, if it has one: the command, and the files below RUN that it needs.

    An entrypoint is given one program without arguments, since some go on as `exec "$@"` and some as `exec bash --login "$@"`.
    """
    if not config.entrypoint:
        return tuple(argv), {}
    program, *arguments = config.entrypoint
    if "/" in program:  # what is relative is so to the image's own directory
        program = posixpath.join(config.workdir, program)
    # The PATH that an entrypoint has made must survive the login shell, as in _PROFILE.
    script = f"#!/bin/sh\nHUTCH_PATH=$PATH\nexport HUTCH_PATH\nexec {shlex.join(argv)}\n"
    return (program, *arguments, f"{RUN}/{START}"), {START: script.encode("utf-8", "surrogateescape")}


def login_shell(has_bash: bool) -> tuple[str, ...]:
    """An interactive login shell."""
    return ("/bin/bash", "-l") if has_bash else ("/bin/sh", "-l")


def _shell(has_bash: bool) -> tuple[str, ...]:
    return ("/bin/bash", "-l", "-c") if has_bash else ("/bin/sh", "-l", "-c")
