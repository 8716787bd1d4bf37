"""A user of the host for whom root fetches: what he could not read himself is not read for him.

Must not read a file of his as root. Programs that read for him run under his ids, without a privilege, in a bare environment.
"""

from __future__ import annotations

import grp
import os
import pwd
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

PATH = "/usr/local/bin:/usr/bin:/bin"
_BOUNDS = ["--nproc=8192", "--nofile=1024", "--cpu=3600", "--core=0"]
# His configuration could name programs, and a partial clone would be completed from wherever it says.
_BARE = [
    f"PATH={PATH}",
    "LC_ALL=C.UTF-8",
    "GIT_CONFIG_GLOBAL=/dev/null",
    "GIT_CONFIG_NOSYSTEM=1",
    "GIT_NO_LAZY_FETCH=1",
]
_READ_MAX = 64 << 10
_READ_SECONDS = 5


@dataclass(frozen=True, slots=True)
class User:
    """His ids, name and home; all groups that he has by the host's databases."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    name: str
    home: Path

    @classmethod
    def of(cls, uid: int) -> User:
        """The user with this uid. One whom the host doesn't know has no group and no home."""
        try:
            found = pwd.getpwuid(uid)
        except KeyError:
            nobody = grp.getgrnam("nogroup").gr_gid
            return cls(uid, nobody, (nobody,), str(uid), Path("/nonexistent"))
        groups = tuple(os.getgrouplist(found.pw_name, found.pw_gid))
        return cls(uid, found.pw_gid, groups, found.pw_name, Path(found.pw_dir))

    def command(self, argv: Sequence[str]) -> list[str]:
        """argv of a program that runs as he would have started it. With it ends whatever it starts; it ends with who started it.

        It may be told by his own files to run anything. So it has a process namespace, and bounds of its own.
        """
        cage = ["unshare", "--pid", "--fork", "--kill-child", "--", "prlimit", *_BOUNDS, "--"]
        ids = [f"--reuid={self.uid}", f"--regid={self.gid}", f"--groups={','.join(map(str, self.groups))}"]
        limits = ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs", "--pdeathsig=KILL"]
        bare = ["env", "-i", f"HOME={self.home}", *_BARE]
        return ["setpriv", "--pdeathsig=KILL", "--", *cage, "setpriv", *ids, *limits, "--", *bare, *argv]

    def read(self, path: Path) -> bytes | None:
        """The beginning of a file that he can read, else None. A pipe that nobody writes to is none."""
        argv = self.command(["head", "-c", str(_READ_MAX), "--", str(path)])
        try:
            done = subprocess.run(argv, capture_output=True, timeout=_READ_SECONDS, check=False, cwd="/")
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout if done.returncode == 0 else None
