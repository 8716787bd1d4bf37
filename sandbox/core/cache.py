"""Which snapshot fits a task: the cache key, and why there is none. Pure functions.

The key is the digest of everything that setup's result depends on. Its parts are kept as digests of their own, so that a miss can
name what changed without storing a script or a secret twice.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from sandbox.core.model import Snapshot, TaskSpec

LIFETIME: Final = 12 * 3600.0  # seconds
_NAMES: Final = {
    "repo": "repository",
    "environment": "environment",
    "image": "image",
    "runtimes": "runtimes",
    "setup": "setup script",
    "automatic": "automatic setup",
    "maintenance": "maintenance script",
    "env": "variables",
    "secrets": "secrets",
    "network": "setup's network",
}


_FILE: Final = "file:"  # before the path of a file that decided what automatic setup does
_SHOWN_FILES: Final = 5


def inputs(
    spec: TaskSpec,
    image_digest: str,
    repo_url: str | None,
    placeholders: Mapping[str, str] = MappingProxyType({}),
    automatic: Mapping[str, str] = MappingProxyType({}),
    secrets: str = "",
    runtimes: Mapping[str, str] = MappingProxyType({}),
) -> dict[str, str]:
    """The digest of each thing that setup's result depends on, by its name.

    `placeholders`: of secrets given to setup; `secrets`: the fingerprint of plain ones. `automatic`: what automatic setup depends
    on ("automatic", "file:PATH"…). `runtimes`: the keys of their layers by name.
    """
    values = {
        "repo": repo_url,
        "environment": spec.scope,
        "image": image_digest,
        "setup": spec.setup,
        "maintenance": spec.maintenance,
        "env": dict(sorted({**spec.env, **placeholders}.items())),
        "network": asdict(spec.network["setup"]),
        "secrets": [secrets, spec.secret_paths],
        **({"runtimes": dict(sorted(runtimes.items()))} if runtimes else {}),
        **automatic,
    }
    return {name: _digest(value) for name, value in values.items()}


def key(parts: Mapping[str, str]) -> str:
    """The cache key of these inputs: 64 hex digits."""
    return _digest(dict(sorted(parts.items())))


def explain_miss(parts: Mapping[str, str], latest: Snapshot | None, moment: float | None = None) -> str:
    """Why no snapshot fits, judged by the repository's latest one."""
    if latest is None:
        return "first run of this environment"
    changed = [_NAMES[name] for name in _NAMES if latest.inputs.get(name) != parts.get(name)]
    changed += _changed_files(parts, latest.inputs)
    age = _age((time.time() if moment is None else moment) - latest.created)
    if changed:
        return f"changed since the latest snapshot ({age} ago): {', '.join(changed)}"
    return f"the latest snapshot ({age} old) has expired"


def trusts(patterns: Sequence[str] | None, ref: str | None) -> bool:
    """Whether tasks of this ref (its full name; None is a commit) may leave a snapshot to others.

    A pattern is of branches (main, release/*), unless it begins with refs/ (refs/tags/v*): so a tag never counts as the branch
    whose name it has taken. `*` is any text, slashes too. No patterns at all trust every ref.
    """
    if patterns is None:
        return True
    full = (pattern if pattern.startswith("refs/") else f"refs/heads/{pattern}" for pattern in patterns)
    return ref is not None and any(fnmatchcase(ref, pattern) for pattern in full)


def _changed_files(parts: Mapping[str, str], before: Mapping[str, str]) -> list[str]:
    """The manifests that decide automatic setup, where both were automatic."""
    if "automatic" not in parts or "automatic" not in before:
        return []
    names = sorted(name for name in parts.keys() | before.keys() if name.startswith(_FILE))
    files = [name.removeprefix(_FILE) for name in names if parts.get(name) != before.get(name)]
    return files[:_SHOWN_FILES] + (["…"] if len(files) > _SHOWN_FILES else [])


def explain_hit(snapshot: Snapshot, moment: float | None = None) -> str:
    """How old the snapshot in use is."""
    return f"snapshot is {_age((time.time() if moment is None else moment) - snapshot.created)} old"


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _age(seconds: float) -> str:
    """A duration as people say it."""
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {unit}{'s' if count != 1 else ''}"
    return f"{max(0, int(seconds))} s"
