"""The history of a repository on this host, brought into a new mirror by git itself before libgit2 fetches from it.

libgit2 finds deltas for every object anew, which takes minutes for 100,000 commits and makes a pack six times as large; git takes
those that are there. Must not read the source's configuration, which could make git run something: git's repository is the
mirror, to which the source only lends its objects. What arrives is indexed anew, every object under the id that it really has.
Whatever fails here does no harm: libgit2 fetches what is missing, and says what is wrong.
"""

import subprocess
from pathlib import Path

import pygit2

from rootfs.git_local import common_directory

_TIMEOUT = 1800.0
_WITH_JOB = ("setpriv", "--pdeathsig", "KILL", "--")
_BARE = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null"}


def copy_history(source: pygit2.Repository, mirror: Path) -> None:
    """Put everything that branches, tags and HEAD of `source` reach into a pack of `mirror`."""
    objects = str(common_directory(source) / "objects")
    if ":" in objects:  # it would be the end of one path, and what follows somebody else's objects
        return
    git = (*_WITH_JOB, "git", f"--git-dir={mirror}")
    lending = {**_BARE, "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects}
    pack = [*git, "pack-objects", "--revs", "--delta-base-offset", "--quiet", "--stdout"]
    try:
        with subprocess.Popen(
            pack, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=lending, cwd="/"
        ) as packing:
            assert packing.stdin
            packing.stdin.write("".join(f"{tip}\n" for tip in _tips(source)).encode())
            packing.stdin.close()
            try:
                subprocess.run(
                    [*git, "index-pack", "--stdin"], stdin=packing.stdout, stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL, env=_BARE, cwd="/", timeout=_TIMEOUT, check=False,
                )  # fmt: skip
            finally:
                packing.kill()  # it has ended, or nobody listens any more
    except (OSError, subprocess.SubprocessError):
        return


def _tips(source: pygit2.Repository) -> set[str]:
    """The object ids of branches, tags and HEAD."""
    found = set()
    for name in ["HEAD", *source.raw_listall_references()]:
        if name == "HEAD" or name.startswith((b"refs/heads/", b"refs/tags/")):
            try:
                found.add(str(source.references[name if name == "HEAD" else name.decode()].resolve().target))
            except (KeyError, ValueError, pygit2.GitError):
                continue  # an unborn HEAD, a name that isn't UTF-8, a link that leads nowhere
    return found
