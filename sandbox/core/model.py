"""The frozen values that tasks are made of: what was asked for, what came of it, and their JSON forms.

Pure data. A task has attempts and an attempt has turns; today one each, so that parallel attempts and follow-ups need
no other shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Final

from sandbox.core.access import Member, full_name, name_of, shown_scope
from sandbox.core.network import DEFAULTS, PHASES, NetworkSpec
from sandbox.host.cgroup_layout import Limits

_LISTED: Final = 2048  # characters of a command
ACTIVE: Final = frozenset({"queued", "running"})


def now() -> str:
    """The current time, ISO 8601 in UTC with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def without_login(url: str) -> str:
    """A repository's URL as it may be shown: no password, and for http no user either, which often is a token."""
    scheme, separator, rest = url.partition("://")
    place, slash, path = rest.partition("/")
    login, at, host = place.rpartition("@")
    if not separator or not at:
        return url
    user = login.partition(":")[0] if scheme.lower().endswith("ssh") else ""
    return f"{scheme}://{user}{'@' if user else ''}{host}{slash}{path}"


@dataclass(frozen=True)
class TaskSpec:
    """What a user asks for; checked by the API, so everything behind it may rely on it. `timeout` in seconds.

    `network` has the setting of each of PHASES. `setup`: None is automatic, "" is none. `secret_paths`: where setup may leave
    plain secrets. `cache_lifetime`, in seconds: None the daemon's, 0 no cache; `fresh`: setup runs though there is a snapshot,
    and makes a new one. `trusted_refs`: patterns of the refs whose tasks may leave a snapshot to others (core/cache.py).
    `owner`: the uid of who asked; `environment`: the id of one, which may be another's; `lent`: the uid whose secret it is, for
    those that aren't the owner's.
    """

    command: tuple[str, ...]
    repo: str | None = None
    ref: str | None = None
    image: str = "base"
    setup: str | None = None
    maintenance: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    secret_paths: tuple[str, ...] = ()
    network: Mapping[str, NetworkSpec] = field(default_factory=lambda: dict(DEFAULTS))
    timeout: float | None = None
    limits: Limits | None = None
    environment: str | None = None
    cache_lifetime: float | None = None
    fresh: bool = False
    trusted_refs: tuple[str, ...] | None = None
    runtimes: Mapping[str, str] = field(default_factory=dict)  # name -> version
    owner: int = 0
    lent: Mapping[str, int] = field(default_factory=dict)
    reader: int | None = None  # the uid as which the repository is read, where that isn't the owner's
    epoch: str = ""  # of the environment, when the task was accepted
    disk: int | None = None  # bytes that it may have on the disk
    files: int | None = None

    @property
    def caches(self) -> bool:
        """Whether setup's result may be kept for other tasks."""
        return self.cache_lifetime != 0

    @property
    def scope(self) -> str | None:
        """Who shares its snapshots: those who may use its environment; without one its owner alone. None is root."""
        return self.environment or (f"{self.owner}:" if self.owner else None)

    def to_json(self) -> dict[str, Any]:
        """A dict of JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TaskSpec:
        """The inverse of `to_json`."""
        limits, trusted = value.get("limits"), value.get("trusted_refs")
        return cls(
            **{
                **{name: given for name, given in value.items() if name not in _BEFORE_NETWORK},
                "command": tuple(value["command"]),
                "secrets": tuple(value.get("secrets", ())),
                "secret_paths": tuple(value.get("secret_paths", ())),
                "trusted_refs": None if trusted is None else tuple(trusted),
                "network": _network(value),
                "limits": Limits(**limits) if limits else None,
            }
        )


# What tasks had that were stored when only the agent's network could be set.
_BEFORE_NETWORK: Final = ("access", "allow")


def _network(value: Mapping[str, Any]) -> dict[str, NetworkSpec]:
    if "network" in value:
        return {phase: NetworkSpec.from_json(value["network"][phase]) for phase in PHASES}
    return {**DEFAULTS, "agent": NetworkSpec(value["access"], rules=tuple(value["allow"]))}


@dataclass(frozen=True)
class Phase:
    """A phase that ended."""

    name: str
    seconds: float
    exit_code: int


@dataclass(frozen=True)
class Task:
    """One run, as the store has it. Times are ISO 8601 or None; `error`, `cache`, `diff` and `network` as the API shows them."""

    id: str
    spec: TaskSpec
    state: str = "queued"
    exit_code: int | None = None
    commit: str | None = None
    created: str = field(default_factory=now)
    started: str | None = None
    ended: str | None = None
    error: Mapping[str, str] | None = None
    cache: Mapping[str, Any] | None = None
    phases: tuple[Phase, ...] = ()
    diff: Mapping[str, Any] | None = None
    network: Mapping[str, Any] = field(default_factory=lambda: {"allowed": 0, "denied": []})
    result: Mapping[str, Any] | None = None  # where the diff is: mirror, base, commit

    @property
    def active(self) -> bool:
        """Whether it may still change."""
        return self.state in ACTIVE

    def shown(self) -> dict[str, Any]:
        """The task as the API shows it."""
        turn = {"number": 1, "state": self.state, "exit_code": self.exit_code}
        return {
            "id": self.id,
            "state": self.state,
            "exit_code": self.exit_code,
            "repo": without_login(self.spec.repo) if self.spec.repo else None,
            "ref": self.spec.ref,
            "commit": self.commit,
            "owner": name_of("user", self.spec.owner),
            "environment": shown_scope(self.spec.environment, self.spec.owner),
            "image": self.spec.image,
            "command": list(self.spec.command),
            "secrets": list(self.spec.secrets),
            "created": self.created,
            "started": self.started,
            "ended": self.ended,
            "error": self.error,
            "cache": self.cache,
            "phases": [asdict(phase) for phase in self.phases],
            "diff": self.diff,
            "network": self.network,
            "policy": {phase: asdict(spec) for phase, spec in self.spec.network.items()},
            "attempts": [{"number": 1, "turns": [turn]}],
        }

    def listed(self) -> dict[str, Any]:
        """The task as the API lists it: of a command that is long only how it begins."""
        command, room = [], _LISTED
        for word in self.spec.command:
            command.append(word if len(word) <= room else f"{word[:room]}…")
            room -= len(word)
            if room <= 0:
                break
        return {**self.shown(), "command": command}

    def changed(self, **changes: Any) -> Task:
        """A copy with some fields replaced."""
        return replace(self, **changes)


@dataclass(frozen=True)
class Environment:
    """Settings under a name. `remote`: which repository it is for, the same for all spellings of its URL.

    `owner` is a uid; the name is unique among his.
    """

    owner: int
    name: str
    settings: Mapping[str, Any]
    remote: str | None
    created: str
    changed: str
    members: tuple[Member, ...] = ()
    epoch: str = ""  # another one after each reset: what was begun before is not kept for others

    @property
    def id(self) -> str:
        """What tasks and snapshots know it by."""
        return f"{self.owner}:{self.name}"

    def called(self, uid: int) -> str:
        """Its name for this user."""
        return full_name(self.owner, self.name, uid)

    def shown(self, uid: int) -> dict[str, Any]:
        """The environment as the API shows it to a user."""
        return {
            "name": self.called(uid),
            "members": [member.shown() for member in self.members],
            "settings": self.settings if uid == self.owner else _without_login_in(self.settings),
            "created": self.created,
            "changed": self.changed,
        }


def _without_login_in(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: without_login(value) if name == "repo" and value else value for name, value in settings.items()}


@dataclass(frozen=True)
class EnvironmentHead:
    """An environment without its settings, which may be megabytes."""

    owner: int
    name: str
    members: tuple[Member, ...]
    remote: str | None
    created: str
    changed: str
    image: str | None

    def called(self, uid: int) -> str:
        """Its name for this user."""
        return full_name(self.owner, self.name, uid)

    def shown(self, uid: int) -> dict[str, Any]:
        """The environment in a list that the API shows to a user."""
        members = [member.shown() for member in self.members]
        given = {"name": self.called(uid), "members": members, "repo": self.remote, "image": self.image}
        return {**given, "created": self.created, "changed": self.changed}


@dataclass(frozen=True)
class Snapshot:
    """An environment's state after setup, or a language runtime (`runtime`: "node 22"): a layer over an image's.

    Times: seconds since the epoch; `checkout`: as a Source's.
    """

    id: str
    key: str
    image_digest: str
    layer: str
    repo: str | None
    commit: str | None
    environment: str | None
    checkout: str | None
    inputs: Mapping[str, str]
    created: float
    expires: float
    runtime: str | None = None
    digest: str | None = None  # of what its files looked like when they were kept


@dataclass(frozen=True)
class Secret:
    """A secret as the store has it: its value sealed, the phases it is for, and how it may be used (see core/secrets.py).

    `owner` is a uid; the name is unique among his.
    """

    owner: int
    name: str
    sealed: bytes = field(repr=False)
    phases: list[str]
    broker: Mapping[str, Any]
    created: str
    changed: str
