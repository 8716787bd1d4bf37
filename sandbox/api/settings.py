"""What may be set for a task: in an environment, in a project's hutch.toml, and in the request for the task itself.

Checked here once by pydantic, each layer by itself and then what they make together.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rootfs.runtime_recipe import UnknownRuntime
from sandbox import units
from sandbox.api.network_requests import NetworkLayer, NetworkRequest
from sandbox.core.model import TaskSpec
from sandbox.core.runtimes import versions
from sandbox.host.cgroup_layout import Limits

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_TOTAL: Final = 256 << 10
_SCRIPT: Final = 4 << 20
ARGUMENT: Final = 128 << 10  # what Linux accepts as one argument


def _written(read: Callable[[str], int]) -> BeforeValidator:
    """Amounts may be numbers, or text as people write it."""

    def amount(value: object) -> object:
        if isinstance(value, bool):
            raise ValueError(f"{str(value).lower()} is no amount")
        return read(value) if isinstance(value, str) else value

    return BeforeValidator(amount)


type Seconds = Annotated[float, _written(units.duration), Field(gt=0, le=30 * 86400)]
type Amount = Annotated[int, _written(units.size), Field(ge=0)]


class Strict(BaseModel):
    """What knows its fields, and refuses others."""

    model_config = ConfigDict(extra="forbid")


class LimitsRequest(Strict):
    """Limits of each sandbox: bytes (or "2G"), cores, processes; and of what the task has on the disk, files and bytes."""

    memory: Annotated[Amount, Field(ge=16 << 20, le=1 << 50)] | None = None
    cpus: float | None = Field(None, ge=0.01, le=4096)
    pids: int | None = Field(None, ge=8, le=1 << 22)
    disk: Annotated[Amount, Field(ge=1 << 20, le=1 << 60)] | None = None
    files: int | None = Field(None, ge=100)


class CacheRequest(Strict):
    """Whether setup's result is kept, and for how long: seconds (or "12h", which is the default).

    `trusted_refs`: patterns of the refs whose tasks may leave it to others (core/cache.py); []: the default branch alone.
    """

    enabled: bool | None = None
    lifetime: Seconds | None = None
    trusted_refs: Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=64)] | None = (
        None
    )


def check_text(text: str, what: str) -> None:
    """What goes to exec is bytes without a null, and no longer than Linux takes in one piece."""
    if "\0" in text:
        raise ValueError(f"{what} contains a null byte")
    try:
        length = len(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} contains half a character (a lone surrogate)") from error
    if length >= ARGUMENT:
        raise ValueError(f"{what} is longer than {ARGUMENT >> 10} KiB in one piece")


def check_env(env: dict[str, str]) -> dict[str, str]:
    """Names and values that can be variables."""
    for name, value in env.items():
        check_text(value, f"the variable {name}")
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable: use letters, digits and underscores")
    if sum(len(name) + len(value) for name, value in env.items()) > _ENV_TOTAL:
        raise ValueError(f"the variables are longer than {_ENV_TOTAL >> 10} KiB together")
    return env


def _check_script(script: str | None) -> str | None:
    if script and ("\0" in script or any("\ud800" <= character <= "\udfff" for character in script)):
        raise ValueError("the script contains a null byte or half a character")
    return script


def _check_runtimes(wanted: dict[str, str]) -> dict[str, str]:
    """Language runtimes that can be had."""
    try:
        versions(wanted)
    except UnknownRuntime as error:
        raise ValueError(str(error)) from error
    return wanted


class Settings(Strict):
    """One layer of settings. What is left out is left to the layer below."""

    repo: str | None = Field(None, min_length=1, max_length=4096)
    image: str | None = Field(None, max_length=64)
    setup: str | None = Field(None, max_length=_SCRIPT)
    maintenance: str | None = Field(None, max_length=_SCRIPT)
    runtimes: dict[str, str] = {}
    env: dict[str, str] = {}
    secrets: list[str] = Field([], max_length=64)
    secret_paths: list[Annotated[str, Field(max_length=4096, pattern="^/")]] = Field([], max_length=64)
    network: NetworkLayer = NetworkLayer()
    timeout: Seconds | None = None
    limits: LimitsRequest | None = None
    cache: CacheRequest | None = None

    _runtimes = field_validator("runtimes")(_check_runtimes)
    _env = field_validator("env")(check_env)
    _scripts = field_validator("setup", "maintenance")(_check_script)

    @model_validator(mode="after")
    def _check_names(self) -> Settings:
        if both := sorted(set(self.secrets) & set(self.env)):
            raise ValueError(f"{both[0]} is given twice, as a variable and as a secret")
        return self

    def given(self) -> dict[str, Any]:
        """What was given, as JSON."""
        return self.model_dump(mode="json", include=set(Settings.model_fields), exclude_unset=True)


class MergedSettings(Settings):
    """All layers together: here they must make sense."""

    network: NetworkRequest = NetworkRequest()

    def to_spec(self, default: Limits, command: tuple[str, ...], ref: str | None) -> TaskSpec:
        """The frozen value; limits that were not given are the daemon's."""
        limits, cache = self.limits, self.cache or CacheRequest()
        return TaskSpec(
            command=command,
            repo=self.repo,
            ref=ref,
            image=self.image or "base",
            setup=self.setup,
            maintenance=self.maintenance,
            runtimes=self.runtimes,
            env=self.env,
            secrets=tuple(dict.fromkeys(self.secrets)),
            secret_paths=tuple(dict.fromkeys(self.secret_paths)),
            network=self.network.to_specs(),
            timeout=self.timeout,
            limits=Limits(limits.memory or default.memory, limits.cpus or default.cpus, limits.pids or default.pids)
            if limits
            else None,
            disk=limits.disk if limits else None,
            files=limits.files if limits else None,
            cache_lifetime=0.0 if cache.enabled is False else cache.lifetime,
            trusted_refs=None if cache.trusted_refs is None else tuple(cache.trusted_refs),
        )


class Project(Settings):
    """A project's hutch.toml. `environment`: the one of the user's whose settings lie below these. Another's he names himself."""

    environment: str | None = Field(None, max_length=64, pattern="^[^:]*$")


class SettingsRequest(Settings):
    """Settings of a task, on top of those of a project, on top of those of an environment.

    `environment` names it ("" is none); else the project does; else it is the one for `remote` or `repo`, if there is one.
    `checkout`, whose origin is `remote`, is the repository where the project or the environment is for it.
    """

    environment: str | None = Field(None, max_length=128)
    project: Project | None = None
    remote: str | None = Field(None, max_length=4096)
    checkout: str | None = Field(None, max_length=4096)
