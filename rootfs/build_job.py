"""The job that builds an image from a distribution's packages: `python -I -m rootfs.build_job`, spoken to as in job.py.

Must not take anything from strangers: packages are signed, recipes are our own (rootfs/recipes). mmdebstrap does the work, in
namespaces of its own; this file starts it, listens, cleans up behind it and makes a layer of the tree.

    {"state": DIR, "recipe": "base", "name": "base", "mirror": URI or missing}
      mmdebstrap ─▶ staging/…/layer ─▶ remove, add files, list of packages ─▶ digest ─▶ sync, rename ─▶ record
"""

import os
import selectors
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

from rootfs.errors import ImageError
from rootfs.image import Image, check_name, now
from rootfs.job import Progress, run_job
from rootfs.package_cache import packages
from rootfs.recipe import INDEX_FORMAT, Recipe, Steps, command, failure, load_recipe, sources
from rootfs.store import Store
from rootfs.tree import measure_tree, remove_tree

_HEARTBEAT = 3.0  # seconds after which a silent step says that it is still at it
_INTERVAL = 0.5  # seconds between lines while packages fly by
_TAIL = 2000
_NEEDED = 3 << 30  # bytes: the tree, its packages and some room
PACKAGE_LIST = "usr/share/hutch/packages.tsv"


def build_image(store: Store, recipe: Recipe, name: str, mirror: str | None, progress: Progress) -> Image:
    """Build and save; replaces the image that had the name."""
    check_name(name)
    for tool in ("mmdebstrap", "unshare", "setpriv", "dpkg-query"):
        if shutil.which(tool) is None:
            raise ImageError(
                f"cannot build '{name}': the command {tool} is missing", "apt-get install mmdebstrap util-linux dpkg"
            )
    info = os.statvfs(store.root)
    if info.f_bavail * info.f_frsize < _NEEDED:
        raise ImageError(
            f"cannot build '{name}': the disk under {store.root} has less than 3 GiB left", "free some space"
        )
    with store.keep_layers(), store.new_staging() as staging:
        tree = staging / "layer"
        lines = sources(recipe, _ask("apt-get", "indextargets", "--format", INDEX_FORMAT), mirror)
        with packages(store.root, recipe.name) as kept:
            _run(command(recipe, str(tree), lines, str(kept) if kept else None), name, staging, progress)
        progress("finishing the image", 97, 100)
        _tidy(recipe, tree)
        measured = measure_tree(tree)
        progress("writing to disk", 99, 100)
        store.commit_layer(tree, measured.digest)
        image = Image(
            name, (measured.digest,), recipe.config, now(), measured.bytes, f"built from Debian {recipe.suite}"
        )
        store.save(image)
    return image


def _ask(*argv: str) -> str:
    """What a host command prints; nothing when it is missing or fails (the caller has a default)."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def _run(argv: list[str], name: str, staging: Path, progress: Progress) -> None:
    """Run mmdebstrap and relay what it is doing."""
    temporary = staging / "tmp"
    temporary.mkdir()
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=_environment(temporary),
        cwd="/",
        umask=0o022,
        start_new_session=True,
    ) as process:
        try:
            tail = _listen(process, progress)
        except BaseException:
            process.kill()  # unshare's --kill-child takes everything below along
            raise
    if process.returncode != 0:
        raise ImageError(
            f"cannot build '{name}': mmdebstrap failed: {failure(tail)}",
            "check the host's apt sources and network; what was downloaded is kept for the next try",
        )


def _environment(temporary: Path) -> dict[str, str]:
    """Built from nothing; the host's proxies for apt go in as variables, because options would stay in the image."""
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(temporary),
    }
    environment["DEBIAN_FRONTEND"] = "noninteractive"
    for variable in ("http_proxy", "https_proxy", "no_proxy"):
        scheme = variable.removesuffix("_proxy")
        configured = (
            "" if scheme == "no" else _ask("apt-config", "dump", "--format", "%v", f"Acquire::{scheme}::Proxy").strip()
        )
        value = configured or os.environ.get(variable, "")
        if value and value != "DIRECT":
            environment[variable] = value
    return environment


def _listen(process: subprocess.Popen[bytes], progress: Progress) -> deque[str]:
    """Relay progress until the end of the output; returns its last lines."""
    assert process.stdout is not None
    steps, tail, rest = Steps(), deque[str](maxlen=_TAIL), b""
    started = said = monotonic()
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        while True:
            if not selector.select(_HEARTBEAT):
                progress(f"{steps.text} ({int(monotonic() - started)} s)", steps.percent, 100)
                continue
            data = os.read(process.stdout.fileno(), 1 << 16)
            if not data:
                return tail
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            rest = rest[-65536:]
            for line in lines:
                text = line.decode("utf-8", "replace")
                tail.append(text)
                if steps.feed(text):
                    progress(steps.text, steps.percent, 100)
            if monotonic() - said >= _INTERVAL:
                progress(steps.text, steps.percent, 100)
                said = monotonic()


def _tidy(recipe: Recipe, tree: Path) -> None:
    """Take out what belongs to the build, put in what the recipe adds. The tree is our own: signed packages made it."""
    for name in ("dev", "proc", "sys"):
        for child in (tree / name).iterdir():
            remove_tree(child)
    for path in recipe.remove:
        remove_tree(tree / path)
    for path, mode in recipe.directories.items():
        target = tree / path
        target.mkdir(parents=True, exist_ok=True)
        target.chmod(mode)
    packages = subprocess.run(
        [
            "dpkg-query",
            f"--admindir={tree}/var/lib/dpkg",
            "--show",
            "--showformat",
            "${Package}\t${Version}\t${Architecture}\n",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    files = {path: text.lstrip("\n") for path, text in recipe.files.items()}
    for path, text in {**files, PACKAGE_LIST: packages}.items():
        target = tree / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(0o644)
    tree.chmod(0o755)


def job(request: Mapping[str, Any], progress: Progress) -> dict[str, Any]:
    os.umask(0o022)  # what is made here is the image's, not the store's
    store = Store(Path(request["state"]))
    recipe = load_recipe(request.get("recipe", "base"))
    mirror = request.get("mirror")
    return build_image(store, recipe, request["name"], str(mirror) if mirror else None, progress).to_dict()


if __name__ == "__main__":
    sys.exit(run_job(job))
