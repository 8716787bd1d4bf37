"""The shapes of what the API takes and sends, as TypedDicts: for readers and type checkers, nothing happens here.

They stay plain dicts at run time: that costs a command nothing, and a field that a newer daemon adds is passed on
instead of being dropped. It must not import anything but typing.
"""

from __future__ import annotations

from typing import Any, NotRequired, Required, TypedDict


class ErrorText(TypedDict):
    """Why something failed, and what to do."""

    message: str
    remedy: NotRequired[str]


class Limits(TypedDict, total=False):
    """Limits of a task's sandboxes: memory in bytes, cpus in cores (may be 1.5), pids in processes and threads; and of what the
    task has on the disk: bytes and files, None without a limit."""

    memory: int
    cpus: float
    pids: int
    disk: int | None
    files: int | None


class PhaseNetwork(TypedDict, total=False):
    """What a phase may reach: access off, limited or unrestricted; preset; rules (`hutch net --help`); methods, None: any."""

    access: Required[str]
    preset: str
    rules: list[str]
    methods: list[str] | None


class CacheSetting(TypedDict, total=False):
    """Whether setup's result is kept for other tasks, for how many seconds, and of which refs; [] is the default branch alone."""

    enabled: bool
    lifetime: float
    trusted_refs: list[str]


class Settings(TypedDict, total=False):
    """One layer of what is set for a task. timeout in seconds; repo a URL or absolute path; network has a PhaseNetwork, in which
    even access may be left out, for each of setup, maintenance and agent. setup: a script; "" for none; None: automatic."""

    repo: str | None
    image: str | None
    setup: str | None
    maintenance: str | None
    env: dict[str, str]
    secrets: list[str]
    secret_paths: list[str]
    network: dict[str, dict[str, Any]]
    timeout: float | None
    limits: Limits | None
    cache: CacheSetting | None


class SettingsRequest(Settings, total=False):
    """Settings on top of those of a project (its hutch.toml) on top of those of an environment: the one that is named, or the
    one for `remote`, the origin of `checkout`, or for `repo`."""

    environment: str | None
    project: dict[str, Any] | None
    remote: str | None
    checkout: str | None


class TaskSpec(SettingsRequest, total=False):
    """What POST /tasks takes. fresh: setup runs though its result is cached."""

    command: list[str]
    ref: str | None
    fresh: bool


class Environment(TypedDict):
    """Settings under a name, OWNER:NAME where it is another's. Times are ISO 8601.

    `members`: [{"member": "user:NAME" or "group:NAME", "may": "see"|"use"|"change"}].
    """

    name: str
    members: list[dict[str, str]]
    settings: Settings
    created: str
    changed: str


class EnvironmentHead(TypedDict):
    """An environment in a list: `repo` is host/path of its repository, whatever the spelling of its URL."""

    name: str
    members: list[dict[str, str]]
    repo: str | None
    image: str | None
    created: str
    changed: str


class Effective(TypedDict):
    """What would hold for a task, and which layer each value (by its path, `limits.memory`) is from."""

    environment: str | None
    settings: dict[str, Any]
    sources: dict[str, str]


class Snapshot(TypedDict):
    """An environment's state after setup: its cache key and origin, size in bytes, whether a task stands on it now, and how many
    of the tasks that the daemon remembers asked for its key."""

    id: str
    key: str
    environment: str | None
    runtime: str | None
    repo: str | None
    commit: str | None
    created: str
    expires: str
    bytes: int | None
    in_use: bool
    tasks: int


class LanguageRuntime(TypedDict):
    """A language runtime: the versions that can be had (`exact`: longer ones, too), those that have layers already, the variable
    that asks for it as well, and the command that tells its version."""

    name: str
    description: str
    versions: list[str]
    exact: bool
    variable: str
    check: str
    built: list[str]


class Dropped(TypedDict):
    """Snapshots that were dropped, and the bytes that freed."""

    snapshots: int
    bytes: int


class PhaseResult(TypedDict):
    """A phase that ended: wall-clock seconds and the exit code of its command."""

    name: str
    seconds: float | None
    exit_code: int | None


class Denied(TypedDict):
    """A name and port that a task asked for in vain: how often, the rule that would allow it (empty: none would), and why not."""

    phase: NotRequired[str]
    name: str
    port: int
    count: int
    rule: str
    reason: NotRequired[str]


class Network(TypedDict):
    """What a task reached (a count) and what it was refused."""

    allowed: int
    denied: list[Denied]


class Ceiling(TypedDict):
    """What the administrator lets no task exceed: denied to all, the most an agent may have, what may be private, from
    which file (empty: none), and the most of each limit."""

    deny: list[str]
    agent_access: str
    private: list[str]
    file: str
    limits: dict[str, float]


class NetworkState(TypedDict):
    """What the phases of a task may reach: a PhaseNetwork for each of setup, maintenance and agent; and the hosts of the
    package managers' registries, which are part of every preset but none."""

    task: str
    state: str
    policy: dict[str, PhaseNetwork]
    registries: list[str]
    ceiling: Ceiling


class NetworkChange(TypedDict):
    """What the agent may reach after a change; in force now, or (False) from its start on; what to know about it."""

    task: str
    agent: PhaseNetwork
    in_force: bool
    notices: list[str]


class Explanation(TypedDict):
    """What would become of a request: the rule that allows it, or the one that would (empty: none), and why not."""

    task: str
    state: str
    phase: str
    url: str
    method: str
    allowed: bool
    rule: str
    reason: str


class CacheUse(TypedDict):
    """Whether setup was taken from a snapshot, under which key, and why (not)."""

    hit: bool
    key: str
    reason: str


class DiffStat(TypedDict):
    """Size of a task's diff: changed files, added and removed lines."""

    files: int
    insertions: int
    deletions: int


class Task(TypedDict):
    """A task as the journal has it. Times are ISO 8601 or None; state is one of
    queued, running, succeeded, failed, cancelled, timed_out, lost; exit_code is the agent command's."""

    id: str
    owner: str
    state: str
    exit_code: int | None
    repo: str | None
    ref: str | None
    commit: str | None
    environment: str | None
    image: str
    command: list[str]
    secrets: list[str]
    created: str
    started: str | None
    ended: str | None
    error: ErrorText | None
    cache: CacheUse | None
    phases: list[PhaseResult]
    diff: DiffStat | None
    network: Network
    policy: dict[str, PhaseNetwork]
    attempts: list[dict[str, Any]]


class Image(TypedDict):
    """An image record: layer ids bottom first, size in bytes, created in ISO 8601."""

    name: str
    digest: str
    layers: list[str]
    config: dict[str, Any]
    created: str
    size: int
    source: str


class Collected(TypedDict):
    """What a garbage collection removed; bytes is the disk space that it freed."""

    snapshots: int
    layers: int
    tasks: int
    bytes: int


# What may be done with a secret, as the API has it; its value is in none. `for`: HOST or HOST/path; `header`: the one field and
# the words around the value, None for any; `places`: header, query, body; `phases`: those that may use it.
Secret = TypedDict(
    "Secret",
    {
        "name": str,
        "placeholder": str | None,
        "for": list[str],
        "header": str | None,
        "places": list[str],
        "phases": list[str],
        "created": str,
        "changed": str,
    },
)


class Artifact(TypedDict):
    """A package download that the filter keeps: its bytes, and when its server last said that it is current (Unix time)."""

    url: str
    bytes: int
    validated: int


class Artifacts(TypedDict):
    """All of them: how many, the bytes on disk and the most that there may be, and those used last."""

    entries: int
    bytes: int
    limit: int
    items: list[Artifact]


class Cleared(TypedDict):
    """What clearing the cache of downloads removed."""

    entries: int
    bytes: int
