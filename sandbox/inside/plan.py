"""What the daemon asks of the spawner: frozen, complete before the child exists, descriptors instead of paths.

Pure data and its JSON form. A plan names descriptors by their index in the message that carried them, so the spawner opens
nothing by a path that anybody else could change. Named tuples, since dataclasses would make every forked process larger.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple


class StartPlan(NamedTuple):
    """A sandbox's file system and the command that it runs; for the process that stands by as its pid 1.

    With `redirects`, a directory that came from below can be renamed (see mounts.py).
    `layers` are descriptor indexes of detached, id-mapped mounts, bottom first; `writable` that of one which holds `upper` and
    `work`. `files` maps names below /run/hutch to descriptor indexes of their content, `binds` paths there to those of mounts.
    `executable`: these files can be run. `uid`, `gid` and `groups` are the sandbox's own ids of whom everything in it runs as.
    """

    layers: tuple[int, ...]
    writable: int
    userns: int
    init: int
    seccomp: tuple[int, ...]
    stdin: int
    stdout: int
    stderr: int
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    files: dict[str, int]
    binds: dict[str, int]
    redirects: bool = False
    status: int = 0
    executable: bool = False
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class JoinPlan(NamedTuple):
    """One more command in a running sandbox; for a process that stands by in it. With a `terminal` (descriptor index of a
    socket), the command gets a pseudo-terminal of the sandbox's own and its master is sent over that socket; stdin, stdout and
    stderr are then unused.
    """

    userns: int
    seccomp: tuple[int, ...]
    argv: tuple[str, ...]
    env: dict[str, str]
    cwd: str
    status: int = 0
    stdin: int | None = None
    stdout: int | None = None
    stderr: int | None = None
    terminal: int | None = None
    rows: int = 24
    columns: int = 80
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class StandbyPlan(NamedTuple):
    """For a keeper: a process that stands by in the running sandbox, and takes its JoinPlan over the socket `plans`."""

    id: str
    plans: int


class LeasePlan(NamedTuple):
    """Everything of a sandbox that can be made before its plan is known: a network namespace, a user namespace (both sent over
    the socket `reply`), a keeper, which has joined the control groups and follows the plans that come over `channel`, and, by
    the name `first`, the process that stands by as pid 1: it takes its StartPlan over the socket `plans`.
    """

    uid_base: int
    reply: int
    channel: int
    first: str
    plans: int
    cgroup: tuple[int, ...]


class GatewayPlan(NamedTuple):
    """The gateway's network namespace with the filter's sockets in it; sent over the socket `reply`."""

    reply: int


type Plan = StartPlan | JoinPlan | StandbyPlan | LeasePlan | GatewayPlan
_KINDS: dict[str, type[Any]] = {
    "start": StartPlan,
    "join": JoinPlan,
    "standby": StandbyPlan,
    "lease": LeasePlan,
    "gateway": GatewayPlan,
}


def encode(plan: Plan) -> bytes:
    """The JSON form that `decode` reads."""
    kind = next(name for name, cls in _KINDS.items() if isinstance(plan, cls))
    return json.dumps({"kind": kind, **plan._asdict()}).encode()


def decode(data: bytes) -> Plan:
    """Parse what `encode` wrote. Raises ValueError, TypeError or KeyError on anything else."""
    fields = json.loads(data)
    cls = _KINDS[fields.pop("kind")]
    for name in ("layers", "seccomp", "cgroup", "argv", "groups"):
        if name in fields:
            fields[name] = tuple(fields[name])
    plan: Plan = cls(**fields)
    return plan
