"""The job that fetches an image from a registry: `python -I -m rootfs.pull_job`, request and answer as in job.py.

skopeo speaks with the registry, as nobody, in a directory of its own; what it has written is imported like any other archive.
It must not read what came (import_job.py has cages for that), and gives skopeo no other login than that of the one registry.

    {"state": DIR, "reference": "registry.example/name:tag", "name": N, "entrypoint": false or missing}
      skopeo ─▶ staging/…/archive (OCI) ─▶ import
"""

import json
import os
import re
import selectors
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from rootfs.errors import ImageError, shown
from rootfs.image import Image, check_name
from rootfs.import_job import ARCHIVE_MAX, RESERVE, import_archive
from rootfs.job import Progress, run_job
from rootfs.store import Store

_REFERENCE = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(:[0-9]+)?(/[A-Za-z0-9._-]+)*(:[A-Za-z0-9._-]+)?(@sha256:[0-9a-f]{64})?"
)
_NOBODY = 65534
_TICK, _STUCK = 2.0, 120.0  # seconds: between two looks at what has come; without a byte, before it is given up
_SHOWN = 110
_SAID = re.compile(r'msg="((?:[^"\\]|\\.)*)"')


def pull(store: Store, reference: str, name: str, progress: Progress, entrypoint: bool = True) -> Image:
    """Fetch and save; replaces the image that had the name."""
    check_name(name)
    if len(reference) > 512 or not _REFERENCE.fullmatch(reference):
        raise ImageError(
            f"cannot pull {shown(reference)}: it is no image's reference", "write it as registry.example/name:tag"
        )
    if shutil.which("skopeo") is None:
        raise ImageError(f"cannot pull {reference}: the command skopeo is missing", "apt-get install skopeo")
    with store.new_staging() as staging:
        work = staging / "pull"
        work.mkdir(mode=0o700)
        os.chown(work, _NOBODY, _NOBODY)
        _fetch(reference, work, progress)
        archive = work / "archive"
        if not archive.is_file() or archive.is_symlink():
            raise ImageError(f"cannot pull {reference}: skopeo wrote no archive", "try again")
        return import_archive(store, str(archive), name, reference, progress, entrypoint)


def _fetch(reference: str, work: Path, progress: Progress) -> None:
    login = _login(reference)
    cage = [
        "setpriv",
        f"--reuid={_NOBODY}",
        f"--regid={_NOBODY}",
        "--clear-groups",
        "--no-new-privs",
        "--inh-caps=-all",
    ]
    cage += ["--bounding-set=-all", "--pdeathsig=KILL", "--", "prlimit", f"--fsize={ARCHIVE_MAX}", "--core=0", "--"]
    options = ["--insecure-policy", "--override-os=linux", "--tmpdir=."]
    copy = [
        "copy",
        "--retry-times=3",
        f"--src-authfile=/proc/self/fd/{login}",
        f"docker://{reference}",
        "oci-archive:archive",
    ]
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8", "HOME": ".", "TMPDIR": "."}
    environment |= {key: os.environ[key] for key in ("http_proxy", "https_proxy", "no_proxy") if key in os.environ}
    files = [login]
    if bundle := os.environ.get("SSL_CERT_FILE"):
        files.append(_readable(Path(bundle).read_bytes()))
        environment["SSL_CERT_FILE"] = f"/proc/self/fd/{files[-1]}"
    progress(f"asking for {reference}")
    # What lies above the directory is root's; under another name, which only this process sees, it can be reached.
    place = [
        "unshare",
        "--mount",
        "--propagation=private",
        "--",
        "sh",
        "-c",
        'mount --bind . /mnt && cd /mnt && exec "$@"',
        "sh",
    ]
    with subprocess.Popen(
        [*place, *cage, "skopeo", *options, *copy], cwd=work, env=environment, pass_fds=files, umask=0o077,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        for fd in files:
            os.close(fd)
        try:
            tail = _listen(process, work, progress, reference)
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        raise ImageError(
            f"cannot pull {reference}: {_why(tail)}", "check the name, the registry and the login (skopeo login)"
        )


def _login(reference: str) -> int:
    """A file with the login for this registry and no other, if root has one."""
    host = reference.partition("/")[0]
    host = host if "/" in reference and ("." in host or ":" in host or host == "localhost") else "docker.io"
    names = {host, f"https://{host}", *(("https://index.docker.io/v1/",) if host == "docker.io" else ())}
    home = os.environ.get("HOME", "/root")
    auths: dict[str, Any] = {}
    for path in (os.environ.get("REGISTRY_AUTH_FILE"), "/run/containers/0/auth.json", f"{home}/.docker/config.json"):
        try:
            known = json.loads(Path(path or "/dev/null").read_text() or "{}").get("auths", {})
        except (OSError, ValueError, AttributeError):
            continue
        auths = {key: value for key, value in known.items() if key.partition("/")[0] == host or key in names}
        if auths:
            break
    return _readable(json.dumps({"auths": auths}).encode())


def _readable(data: bytes) -> int:
    """A file with this content that whoever is given it can open, as /proc/self/fd/N, wherever the data is from."""
    fd = os.memfd_create("for-skopeo")
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    return fd


def _listen(process: subprocess.Popen[bytes], work: Path, progress: Progress, reference: str) -> deque[str]:
    """Say how much has come until skopeo ends; returns what it said last. Raises ImageError where nothing more comes."""
    assert process.stdout is not None
    tail, last, moved = deque[str](maxlen=20), 0, monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if selector.select(_TICK):
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    return tail
                tail.extend(data.decode("utf-8", "replace").splitlines())
                continue
            if (size := _size(work)) != last:
                last, moved = size, monotonic()
                progress("fetching", size)
            disk = os.statvfs(work)
            if disk.f_bavail * disk.f_frsize < RESERVE:  # a registry may send for ever
                raise ImageError(f"cannot pull {reference}: the disk is almost full", "free some space (hutch gc)")
            if monotonic() - moved > _STUCK:
                raise ImageError(f"cannot pull {reference}: nothing came for {_STUCK:.0f} s", "try again")


def _size(work: Path) -> int:
    """The bytes that skopeo has written so far; it moves and removes files meanwhile."""
    total = 0
    for top, _, names in os.walk(work):
        for name in names:
            try:
                total += os.lstat(os.path.join(top, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _why(tail: deque[str]) -> str:
    said = next(
        (found[1] for line in reversed(tail) if (found := _SAID.search(line))), tail[-1] if tail else "it said nothing"
    )
    said = said.replace('\\"', '"')
    return shown(said if len(said) <= _SHOWN else f"…{said[-_SHOWN:]}")  # the cause is told last


def job(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    store, entrypoint = Store(Path(request["state"])), bool(request.get("entrypoint", True))
    return pull(store, request["reference"], request["name"], progress, entrypoint).to_dict()


if __name__ == "__main__":
    sys.exit(run_job(job))
