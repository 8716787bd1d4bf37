"""The image record: which layers, bottom first, and how commands are started in them.

Pure data: must not touch the disk. Everything is checked on the way in, because records are made from archives
that strangers wrote.
"""

import hashlib
import json
import os
import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from rootfs.errors import ArchiveError, ImageError, shown

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LAYER_ID = re.compile(r"[0-9a-f]{64}")
_ENV_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,255}")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,63})?|")
_ENV_MAX = 512  # variables
_TEXT_MAX = 128 * 1024  # bytes of one variable or argument: what Linux accepts in one exec string
_ARGV_MAX = 1024
_LAYERS_MAX = 256
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_MACHINES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "i686": "386",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
}


def this_architecture() -> str:
    """This machine's architecture in the words of container images."""
    machine = os.uname().machine
    return _MACHINES.get(machine, machine)


def check_name(name: str) -> str:
    """The name of an image, or an error that says what a name looks like."""
    if not _NAME.fullmatch(name):
        raise ImageError(
            f"cannot use {shown(name)} as the name of an image",
            "use at most 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
        )
    return name


def check_layer_id(layer: object) -> str:
    """A layer's id is used as a directory's name, so nothing but 64 hex digits will do."""
    if not isinstance(layer, str) or not _LAYER_ID.fullmatch(layer):
        raise ImageError(f"cannot use {shown(str(layer))} as the id of a layer", "it must be 64 hex digits")
    return layer


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How commands start in an image: variables, directory, user, and the argv it would start by itself."""

    env: Mapping[str, str] = field(default_factory=lambda: {"PATH": DEFAULT_PATH})
    workdir: str = "/"
    user: str = ""
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "env": dict(self.env),
            "workdir": self.workdir,
            "user": self.user,
            "entrypoint": list(self.entrypoint),
            "cmd": list(self.cmd),
        }

    @classmethod
    def from_dict(cls, value: object) -> "ImageConfig":
        if not isinstance(value, Mapping) or not isinstance(value.get("env", {}), Mapping):
            raise ArchiveError("the image's config isn't an object", "save the image again")
        return cls(
            env=_checked_env(value.get("env", {}).items()),
            workdir=_checked_workdir(value.get("workdir", "/")),
            user=_checked_user(value.get("user", "")),
            entrypoint=_checked_argv("entrypoint", value.get("entrypoint", [])),
            cmd=_checked_argv("cmd", value.get("cmd", [])),
        )

    @classmethod
    def from_oci(cls, value: object) -> "ImageConfig":
        """From the `config` object of a docker or OCI image configuration (keys may be missing or null)."""
        if value is None:
            return cls()
        if not isinstance(value, Mapping):
            raise ArchiveError("the image's config isn't an object", "save the image again")
        pairs = [_env_pair(item) for item in _strings("Env", value.get("Env"), _ENV_MAX)]
        env = {"PATH": DEFAULT_PATH, **_checked_env(pairs)}
        return cls(
            env=env,
            workdir=_checked_workdir(value.get("WorkingDir") or "/"),
            user=_checked_user(value.get("User") or ""),
            entrypoint=_checked_argv("Entrypoint", value.get("Entrypoint")),
            cmd=_checked_argv("Cmd", value.get("Cmd")),
        )


def _env_pair(item: str) -> tuple[str, str]:
    name, equals, value = item.partition("=")
    if not equals:
        raise ArchiveError(f"the image's config has the variable {shown(item)} without a value", "save the image again")
    return name, value


def _checked_env(pairs: Iterable[tuple[object, object]]) -> dict[str, str]:
    env: dict[str, str] = {}
    for name, value in pairs:
        if not isinstance(name, str) or not _ENV_NAME.fullmatch(name):
            raise ArchiveError(f"the image's config has a variable named {shown(str(name))}", "give it a plain name")
        env[name] = _text(f"the variable {name}", value)
    if len(env) > _ENV_MAX:
        raise ArchiveError(f"the image's config has more than {_ENV_MAX} variables", "remove some")
    return env


def _checked_workdir(value: object) -> str:
    path = _text("the working directory", value)
    if not path.startswith("/") or ".." in path.split("/") or len(path) > 4096 or not path.isprintable():
        raise ArchiveError(
            f"the image's working directory {shown(path)} isn't a plain absolute path", "set another one"
        )
    return posixpath.normpath("/" + path.lstrip("/"))


def _checked_user(value: object) -> str:
    user = _text("the user", value)
    if not _USER.fullmatch(user):
        raise ArchiveError(f"the image's user {shown(user)} isn't a name or a number", "set another one")
    return user


def _checked_argv(what: str, value: object) -> tuple[str, ...]:
    return tuple(_text(f"its {what}", item) for item in _strings(what, value, _ARGV_MAX))


def _strings(what: str, value: object, most: int) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
        raise ArchiveError(f"the image's config has a {what} that isn't a list of strings", "save the image again")
    if len(value) > most:
        raise ArchiveError(f"the image's config has a {what} of more than {most} items", "shorten it")
    return list(value)


def _text(what: str, value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise ArchiveError(f"the image's config has {what} that isn't plain text", "save the image again")
    try:
        size = len(value.encode())
    except UnicodeEncodeError as error:
        raise ArchiveError(f"the image's config has {what} that isn't UTF-8", "save the image again") from error
    if size > _TEXT_MAX:
        raise ArchiveError(f"the image's config has {what} of more than {_TEXT_MAX} bytes", "shorten it")
    return value


@dataclass(frozen=True, slots=True)
class Image:
    """One record of images/<name>.json."""

    name: str
    layers: tuple[str, ...]  # bottom first
    config: ImageConfig
    created: str  # ISO 8601, UTC
    size: int  # bytes in regular files of all layers
    source: str

    @property
    def digest(self) -> str:
        """Stands for layers and config; the same however the image is named and whenever it was made."""
        content = json.dumps({"layers": self.layers, "config": self.config.to_dict()}, sort_keys=True)
        return "sha256:" + hashlib.sha256(content.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "digest": self.digest,
            "layers": list(self.layers),
            "config": self.config.to_dict(),
            "created": self.created,
            "size": self.size,
            "source": self.source,
        }

    @classmethod
    def from_dict(cls, value: object) -> "Image":
        if not isinstance(value, Mapping) or not isinstance(value.get("layers"), list):
            raise ImageError("cannot read an image record: it isn't an object with layers", "import the image again")
        if not 0 < len(value["layers"]) <= _LAYERS_MAX:
            raise ImageError(
                f"cannot use an image of {len(value['layers'])} layers", f"it must have 1 to {_LAYERS_MAX}"
            )
        return cls(
            name=check_name(str(value.get("name"))),
            layers=tuple(check_layer_id(layer) for layer in value["layers"]),
            config=ImageConfig.from_dict(value.get("config", {})),
            created=str(value.get("created", "")),
            size=int(value.get("size", 0)),
            source=str(value.get("source", "")),
        )


def now() -> str:
    """The time as records have it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
