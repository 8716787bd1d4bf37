"""What a recipe says, and what follows from it: sources, the command to run, how far its output says it is.

Must not run anything: decisions only, for build_job.py to carry out.
"""

import re
import shlex
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rootfs.errors import ImageError, shown
from rootfs.image import ImageConfig

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
INDEX_FORMAT = "$(ORIGIN)|$(LABEL)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)"


@dataclass(frozen=True, slots=True)
class Recipe:
    """One file of rootfs/recipes."""

    name: str
    suite: str
    components: tuple[str, ...]
    variant: str
    packages: tuple[str, ...]
    exclude: tuple[str, ...]
    include: tuple[str, ...]
    before: tuple[str, ...]
    commands: tuple[str, ...]
    remove: tuple[str, ...]
    directories: Mapping[str, int]
    files: Mapping[str, str]
    config: ImageConfig


def load_recipe(name: str) -> Recipe:
    """The recipe of that name; the error lists those there are."""
    folder = resources.files("rootfs.recipes")
    there = sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))
    if not _NAME.fullmatch(name) or name not in there:
        raise ImageError(f"there is no recipe named {shown(name)}", f"use one of: {', '.join(there)}")
    value = _read(name)
    if "extends" in value:
        below = _read(value.pop("extends"))
        value = {**below, **value, "packages": [*below["packages"], *value["packages"]]}
    return Recipe(
        name=name,
        suite=value["suite"],
        components=tuple(value["components"]),
        variant=value["variant"],
        packages=tuple(value["packages"]),
        exclude=tuple(value["exclude"]),
        include=tuple(value["include"]),
        before=tuple(value.get("before", ())),
        commands=tuple(value.get("commands", ())),
        remove=tuple(value["remove"]),
        directories=value["directories"],
        files=value["files"],
        config=ImageConfig.from_dict(value["config"]),
    )


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((resources.files("rootfs.recipes") / f"{name}.toml").read_text())


def sources(recipe: Recipe, index_targets: str, mirror: str | None = None) -> list[str]:
    """apt source lines for the recipe's suite, from where this host itself gets Debian.

    `index_targets` is what `apt-get indextargets` prints in INDEX_FORMAT. Empty when the host has no Debian source: mmdebstrap
    then uses its own default. Security and updates suites are added where the host has them for its own suite.
    """
    components = " ".join(recipe.components)
    if mirror:
        return [f"deb {mirror} {recipe.suite} {components}"]
    found: dict[str, str] = {}
    for line in index_targets.splitlines():
        origin, label, codename, component, uri = (*line.split("|"), "", "", "", "", "")[:5]
        if origin != "Debian" or component not in recipe.components or not uri:
            continue
        if label == "Debian-Security":
            found.setdefault("security", uri)
        elif label == "Debian" and codename.endswith("-updates"):
            found.setdefault("updates", uri)
        elif label == "Debian" and "-" not in codename:
            found.setdefault("", uri)
    if "" not in found:
        return []
    suites = {"": recipe.suite, "updates": f"{recipe.suite}-updates", "security": f"{recipe.suite}-security"}
    return [f"deb {found[kind]} {suite} {components}" for kind, suite in suites.items() if kind in found]


def command(recipe: Recipe, tree: str, source_lines: Sequence[str], packages: str | None = None) -> list[str]:
    """argv that builds the tree; what it downloads, it keeps in the directory `packages` until it is done. Everything it starts
    dies with it (a process namespace of its own), its mounts too."""
    cage = [
        "setpriv",
        "--pdeathsig=KILL",
        "--",
        "unshare",
        "--mount-proc",
        "--pid",
        "--fork",
        "--kill-child",
        "--ipc",
        "--",
    ]
    options = ["--verbose", "--mode=root", "--format=directory", f"--variant={recipe.variant}"]
    options += [f"--components={','.join(recipe.components)}", f"--include={','.join(recipe.packages)}"]
    options += [f"--dpkgopt=path-exclude={path}" for path in recipe.exclude]
    options += [f"--dpkgopt=path-include={path}" for path in recipe.include]
    if packages is not None:
        archives = '"$1"/var/cache/apt/archives'
        options.append(f"--setup-hook=mkdir -p {archives} && mount --bind {shlex.quote(packages)} {archives}")
    options += [f'--essential-hook=chroot "$1" sh -euc {shlex.quote(line)}' for line in recipe.before]
    # Recipes are part of Hutch: these run as root in a chroot, like the packages' own scripts.
    options += [f'--customize-hook=chroot "$1" sh -euc {shlex.quote(line)}' for line in recipe.commands]
    # One sync at the end is enough here, and in a sandbox, whose files are synced when they become a snapshot.
    options += ["--dpkgopt=force-unsafe-io", '--aptopt=Acquire::Retries "3"']
    return [*cage, "mmdebstrap", *options, recipe.suite, tree, *source_lines]


_STAGES = {
    "I: running apt-get update": ("fetching the package lists", 0),
    "I: downloading packages": ("downloading the essential packages", 2),
    "I: extracting archives": ("unpacking the essential packages", 6),
    "I: installing essential packages": ("installing the essential packages", 8),
    "I: installing remaining packages": ("downloading packages", 14),
    "I: cleaning package lists": ("cleaning up", 97),
}
_NEW = re.compile(r"\d+ upgraded, (\d+) newly installed")
# The packages that come last are most of the work: lines that are counted, their share of it, and where the name stands in them.
_COUNTED = {"Get:": (15, "downloading", 4), "Unpacking ": (40, "unpacking", 1), "Setting up ": (45, "setting up", 2)}
_FIRST, _LAST = 14, 97  # percent


class Steps:
    """Reads mmdebstrap's output and says what it is doing and how far it is, in percent."""

    def __init__(self) -> None:
        self.text = "starting"
        self.percent = 0
        self._counting = False
        self._packages = 1
        self._counts = dict.fromkeys(_COUNTED, 0)

    def feed(self, line: str) -> bool:
        """Take one line; True when a new stage begins."""
        for start, (text, percent) in _STAGES.items():
            if line.startswith(start):
                self.text, self.percent = text, percent
                self._counting = "remaining" in start
                return True
        if self._counting:
            self._count(line)
        return False

    def _count(self, line: str) -> None:
        if found := _NEW.match(line):
            self._packages = max(1, int(found[1]))
        for start, (_, text, position) in _COUNTED.items():
            words = line.split()
            if line.startswith(start) and len(words) > position:
                self._counts[start] = min(self._counts[start] + 1, self._packages)
                self.text = f"{text} {words[position].split(':')[0]}"
        done = sum(self._counts[start] * share for start, (share, _, _) in _COUNTED.items())
        self.percent = _FIRST + (_LAST - _FIRST) * done // (100 * self._packages)


def failure(lines: Iterable[str]) -> str:
    """The part of mmdebstrap's output that says why it failed."""
    kept = [line.strip() for line in lines if line.strip() and not line.startswith(("I: ", "Setting up", "Unpacking"))]
    packages = [line for line in kept if line.startswith("dpkg: error")]  # what apt says after it names nothing
    errors = [line for line in kept if line.startswith(("E:", "Err:"))]
    return " | ".join((packages[:3] or errors or kept)[-5:])[:1500]
