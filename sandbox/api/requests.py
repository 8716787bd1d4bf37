"""What the API takes beside settings, checked once at the edge by pydantic, and turned into the frozen values that everything
behind it uses."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Field, field_validator, model_validator

from sandbox.api.settings import ARGUMENT, Amount, Seconds, SettingsRequest, Strict, check_env, check_text
from sandbox.core.execs import ExecSpec
from sandbox.core.gc import Wanted

_COMMAND: Final = 256 << 10  # characters of all words

type Text = Annotated[str, Field(max_length=ARGUMENT - 1)]


def _check_argv(command: list[str]) -> list[str]:
    for word in command:
        check_text(word, "the command")
    if sum(map(len, command)) > _COMMAND:
        raise ValueError(f"the command is longer than {_COMMAND >> 10} KiB: put what is long into a file")
    return command


class TaskRequest(SettingsRequest):
    """A task: what to run on which commit, and its settings. `fresh`: setup runs though its result is cached."""

    command: list[Text] = Field(min_length=1, max_length=10_000)
    ref: str | None = Field(None, min_length=1, max_length=1024)
    fresh: bool = False

    _argv = field_validator("command")(_check_argv)


class ExecRequest(Strict):
    """A command for a running task; with `login` and no command, a login shell."""

    command: list[Text] = Field([], max_length=10_000)
    tty: bool = False
    rows: int = Field(24, ge=1, le=65535)
    cols: int = Field(80, ge=1, le=65535)
    stdin: bool = False
    env: dict[str, str] = Field(default_factory=dict)
    login: bool = False

    _env = field_validator("env")(check_env)
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


class ResizeRequest(Strict):
    """A terminal's size in characters."""

    rows: int = Field(ge=1, le=65535)
    cols: int = Field(ge=1, le=65535)


class SignalRequest(Strict):
    """A signal's name without SIG."""

    signal: str


class BuildRequest(Strict):
    """Which image to build from which recipe."""

    name: str = "base"
    recipe: str = "base"


class PullRequest(Strict):
    """Which image of a registry to fetch, the name it gets here, and whether its entrypoint counts."""

    name: str = Field(max_length=64)
    reference: str = Field(max_length=512)
    entrypoint: bool = True


class CollectRequest(Strict):
    """What is to go beside what has expired: what is older, all but the newest of each origin, until so much is free."""

    older_than: Seconds | None = None
    keep: int | None = Field(None, ge=0, le=1_000_000)
    free: Amount = 0

    def wanted(self) -> Wanted:
        """The frozen value."""
        return Wanted(self.older_than, self.keep, self.free)
