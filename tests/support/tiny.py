"""A root file system of some megabytes, made of this host's own programs: enough for shells, and for git's checkout.

For tests that need a state of their own: it is imported in a second. Must not be used where an image's contents matter.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.support.daemon import Daemon

PROGRAMS = """
sh bash cat ls sleep dd head tail env mkdir rm cp mv ln chmod chown touch seq tr sed grep awk find git id true false yes
printf test expr wc stat readlink mkfifo nproc setsid dirname basename sort
""".split()
NAME = "tiny"


def archive(path: Path) -> Path:
    """Write the root file system as a tar to `path`."""
    root = path.with_suffix(".root")
    for directory in ("dev", "proc", "sys", "etc", "root", "run", "usr/bin", "usr/lib", "var/tmp", "workspace"):
        (root / directory).mkdir(parents=True)
    (root / "tmp").mkdir(mode=0o1777)
    for link, target in (("bin", "usr/bin"), ("lib", "usr/lib"), ("lib64", "usr/lib")):
        (root / link).symlink_to(target)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534::/:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\nnogroup:x:65534:\n")
    for name in PROGRAMS:
        found = shutil.which(name, path="/usr/bin:/bin")
        assert found, f"this host has no {name}, which the tiny image needs"
        copy(Path(found).resolve(), root / "usr/bin" / name)
    subprocess.run(["tar", "-C", root, "-cf", path, "."], check=True, timeout=60)
    shutil.rmtree(root)
    return path


def copy(program: Path, target: Path) -> None:
    """A program with the libraries that it needs, found by the dynamic linker."""
    shutil.copy(program, target)
    listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=False, timeout=20).stdout
    for library in re.findall(r"(?:=> |^\s*)(/\S+)", listed, re.MULTILINE):
        place = target.parents[1] / "lib" / Path(library).name
        directory = Path(library).parent
        if directory.name.endswith("-linux-gnu"):  # where Debian's linker looks
            place = target.parents[1] / "lib" / directory.name / Path(library).name
        place.parent.mkdir(exist_ok=True)
        if not place.exists():
            shutil.copy(Path(library).resolve(), place)


def install(daemon: Daemon, archive: Path) -> str:
    """Import the archive into a daemon's state; the image's name."""
    done = daemon.hutch("image", "import", str(archive), "--name", NAME)
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return NAME
