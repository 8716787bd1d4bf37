"""What the API takes, checked once at the edge by pydantic, and turned into the frozen values that everything behind it uses."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sandbox.api.network_requests import NetworkRequest
from sandbox.core.execs import ExecSpec
from sandbox.core.model import TaskSpec
from sandbox.host.cgroup_layout import Limits

_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ENV_TOTAL: Final = 256 << 10
_SCRIPT: Final = 4 << 20
_ARGUMENT: Final = 128 << 10  # what Linux accepts as one argument

type Text = Annotated[str, Field(max_length=_ARGUMENT - 1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LimitsRequest(_Strict):
    """Limits of each sandbox: bytes, cores, processes."""

    memory: int | None = Field(None, ge=16 << 20)
    cpus: float | None = Field(None, ge=0.01, le=4096)
    pids: int | None = Field(None, ge=8, le=1 << 22)


def _check_text(text: str, what: str) -> None:
    """What goes to exec is bytes without a null, and no longer than Linux takes in one piece."""
    if "\0" in text:
        raise ValueError(f"{what} contains a null byte")
    try:
        length = len(text.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError as error:
        raise ValueError(f"{what} contains half a character (a lone surrogate)") from error
    if length >= _ARGUMENT:
        raise ValueError(f"{what} is longer than {_ARGUMENT >> 10} KiB in one piece")


def _check_env(env: dict[str, str]) -> dict[str, str]:
    for name, value in env.items():
        _check_text(value, f"the variable {name}")
        if not _ENV_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a variable: use letters, digits and underscores")
    if sum(len(name) + len(value) for name, value in env.items()) > _ENV_TOTAL:
        raise ValueError(f"the variables are longer than {_ENV_TOTAL >> 10} KiB together")
    return env


def _check_argv(command: list[str]) -> list[str]:
    for word in command:
        _check_text(word, "the command")
    return command


class TaskRequest(_Strict):
    """A task: what to run, on what, with which setup, network and limits."""

    command: list[Text] = Field(min_length=1, max_length=10_000)
    repo: str | None = Field(None, min_length=1, max_length=4096)
    ref: str | None = Field(None, min_length=1, max_length=1024)
    image: str = Field("base", max_length=64)
    setup: str | None = Field(None, max_length=_SCRIPT)
    maintenance: str | None = Field(None, max_length=_SCRIPT)
    env: dict[str, str] = {}
    secrets: list[str] = Field([], max_length=64)
    network: NetworkRequest = NetworkRequest()
    timeout: float | None = Field(None, gt=0, le=30 * 86400)
    limits: LimitsRequest | None = None

    _env = field_validator("env")(_check_env)
    _argv = field_validator("command")(_check_argv)

    @model_validator(mode="after")
    def _check_together(self) -> TaskRequest:
        if self.ref and not self.repo:
            raise ValueError('"ref" goes with a "repo"')
        if both := sorted(set(self.secrets) & set(self.env)):
            raise ValueError(f"{both[0]} is given twice, as a variable and as a secret")
        for script in (self.setup or "", self.maintenance or ""):
            if "\0" in script or any("\ud800" <= character <= "\udfff" for character in script):
                raise ValueError("a script contains a null byte or half a character")
        return self

    def to_spec(self, default: Limits) -> TaskSpec:
        """The frozen value; limits that were not given are the daemon's."""
        limits = self.limits
        return TaskSpec(
            command=tuple(self.command),
            repo=self.repo,
            ref=self.ref,
            image=self.image,
            setup=self.setup,
            maintenance=self.maintenance,
            env=self.env,
            secrets=tuple(dict.fromkeys(self.secrets)),
            network=self.network.to_specs(),
            timeout=self.timeout,
            limits=Limits(limits.memory or default.memory, limits.cpus or default.cpus, limits.pids or default.pids)
            if limits
            else None,
        )


class ExecRequest(_Strict):
    """A command for a running task; with `login` and no command, a login shell."""

    command: list[Text] = Field([], max_length=10_000)
    tty: bool = False
    rows: int = Field(24, ge=1, le=65535)
    cols: int = Field(80, ge=1, le=65535)
    stdin: bool = False
    env: dict[str, str] = {}
    login: bool = False

    _env = field_validator("env")(_check_env)
    _argv = field_validator("command")(_check_argv)

    @model_validator(mode="after")
    def _check_command(self) -> ExecRequest:
        if not self.command and not self.login:
            raise ValueError('give a "command", or "login": true for a shell')
        return self

    def to_spec(self) -> ExecSpec:
        """The frozen value."""
        return ExecSpec(
            command=tuple(self.command), env=self.env, tty=self.tty, stdin=self.stdin, login=self.login,
            rows=self.rows, columns=self.cols,
        )  # fmt: skip


class ResizeRequest(_Strict):
    """A terminal's size in characters."""

    rows: int = Field(ge=1, le=65535)
    cols: int = Field(ge=1, le=65535)


class SignalRequest(_Strict):
    """A signal's name without SIG."""

    signal: str


class BuildRequest(_Strict):
    """Which image to build from which recipe."""

    name: str = "base"
    recipe: str = "base"
