"""Which language runtimes there are, in which versions, and what each says about its layer: recipes as values.

Those of rootfs/runtimes, and an administrator's own in /etc/hutch/runtimes (or HUTCH_RUNTIMES). Must not run anything:
core/runtimes.py builds. A request names a runtime and a version, as `node = "22"`.
"""

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rootfs.errors import ImageError, shown

PREFIXES = "/opt/hutch"
_NAME = re.compile("[a-z][a-z0-9-]{0,31}")
_EXACT = re.compile(r"[0-9]+(\.[0-9]+){0,3}")
# What a package manager has done beside its files; two layers that each had their own would hide each other's.
_NEVER = (
    "etc/apt", "etc/group", "etc/group-", "etc/gshadow", "etc/gshadow-", "etc/ld.so.cache", "etc/passwd", "etc/passwd-",
    "etc/shadow", "etc/shadow-", "etc/subgid", "etc/subuid", "etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/machine-id",
)  # fmt: skip
# As in Debian's names of directories and packages, by the machine's own name.
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


class UnknownRuntime(ImageError):
    """There is no such runtime, or not in that version."""


@dataclass(frozen=True, slots=True)
class RuntimeRecipe:
    """One file of rootfs/runtimes; README.md there tells what each key means."""

    name: str
    description: str
    variable: str
    script: str
    keep: tuple[str, ...]
    check: str
    versions: Mapping[str, Mapping[str, str]]
    path: tuple[str, ...] = ()
    env: Mapping[str, str] = MappingProxyType({})
    exact: bool = False

    def parameters(self, version: str) -> Mapping[str, str] | None:
        """Those of the version, or of the one that a longer version belongs to; None if it can't be had."""
        if version in self.versions:
            return self.versions[version]
        if not self.exact or not _EXACT.fullmatch(version):
            return None
        return next((found for known, found in self.versions.items() if version.startswith(known + ".")), None)


@dataclass(frozen=True, slots=True)
class RuntimeVersion:
    """A runtime in a version that can be had: what builds its layer, and what its users need to find it."""

    name: str
    version: str
    script: str
    build_env: Mapping[str, str]
    keep: tuple[str, ...]
    drop: tuple[str, ...]
    path: tuple[str, ...]
    env: Mapping[str, str]
    check: str

    @property
    def label(self) -> str:
        """`node 22`, as people read it."""
        return f"{self.name} {self.version}"

    def key(self, image_digest: str, trust: str) -> str:
        """64 hex digits: the same where the same would be built. `trust`: what stands for whom sandboxes trust."""
        parts = (self.name, self.version, self.script, dict(self.build_env), self.keep, self.drop, image_digest, trust)
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@cache
def recipes() -> Mapping[str, RuntimeRecipe]:
    """All of them, by name; an administrator's own in place of ours. Raises ImageError for a file that is no recipe."""
    own = Path(os.environ.get("HUTCH_RUNTIMES", "/etc/hutch/runtimes"))
    files = [item for item in resources.files("rootfs.runtimes").iterdir() if item.name.endswith(".toml")]
    found = dict(_recipe(item.name, item.read_text()) for item in (*files, *sorted(own.glob("*.toml"))))
    return MappingProxyType(dict(sorted(found.items())))


@cache
def _prelude() -> str:
    return (resources.files("rootfs.runtimes") / "prelude.sh").read_text()


def _recipe(file: str, text: str) -> tuple[str, RuntimeRecipe]:
    name = file.removesuffix(".toml")
    try:
        value: dict[str, Any] = tomllib.loads(text)
        lists = {key: tuple(value.get(key, ())) for key in ("keep", "path")}
        recipe = RuntimeRecipe(name=name, **{**value, **lists})
        if not _NAME.fullmatch(name) or not recipe.versions or not recipe.keep:
            raise ValueError("a name in small letters, versions and what to keep are needed")
    except (ValueError, TypeError) as error:
        raise ImageError(
            f"cannot read the runtime's recipe {shown(file)}: {error}", "rootfs/runtimes/README.md"
        ) from error
    return name, recipe


def find(name: str, version: str, machine: str) -> RuntimeVersion:
    """The runtime in that version, for a machine named as `uname -m` does. Raises UnknownRuntime, which lists what there is."""
    recipe = recipes().get(name)
    if recipe is None:
        raise UnknownRuntime(f"there is no runtime named {shown(name)}", f"use one of: {', '.join(recipes())}")
    parameters = recipe.parameters(version)
    if parameters is None:
        longer = f" (or a longer version, as {next(iter(recipe.versions))}.1)" if recipe.exact else ""
        raise UnknownRuntime(
            f"there is no {name} {shown(version)}", f"use one of: {', '.join(recipe.versions)}{longer}"
        )
    values = {
        "version": version,
        "prefix": f"{PREFIXES}/{name}-{version}",
        "debian_architecture": _ARCHITECTURES.get(machine, machine),
        **parameters,
    }
    return RuntimeVersion(
        name=name,
        version=version,
        script=_prelude() + recipe.script,
        build_env={key.upper(): value for key, value in values.items()},
        keep=recipe.keep,
        drop=_NEVER,
        path=tuple(text.format(**values) for text in recipe.path),
        env={key: text.format(**values) for key, text in recipe.env.items()},
        check=recipe.check,
    )


def asked_by_variables(env: Mapping[str, str]) -> dict[str, str]:
    """The runtimes that variables ask for, as hosted clouds have them: CODEX_ENV_NODE_VERSION and the like."""
    return {name: env[recipe.variable] for name, recipe in recipes().items() if env.get(recipe.variable)}


def activated(env: Mapping[str, str], versions: Iterable[RuntimeVersion]) -> dict[str, str]:
    """The variables with which programs find these runtimes, on top of an image's own (with its PATH)."""
    found, first = dict(env), list[str]()
    for version in versions:
        found |= version.env
        first += version.path
    return {**found, "PATH": ":".join([*first, found["PATH"]])}
