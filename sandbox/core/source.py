"""Where a task's files come from: the host's mirror of its repository, and the commit that its ref names."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sandbox.core.environment import WORKSPACE
from sandbox.core.model import TaskSpec
from sandbox.host import jobs

FETCH_TIMEOUT: Final = 3600.0


@dataclass(frozen=True)
class Source:
    """A fetched repository and the commit to work on. `branch` is None when the ref is no branch; `refs` by full name.

    `ref`: what the ref really is, in full (refs/heads/main), however it was written; None when it is a commit.
    """

    mirror: str
    objects: Path
    url: str
    workdir: str
    commit: str
    branch: str | None
    ref: str | None
    default_commit: str
    default_branch: str | None
    refs: Mapping[str, str]
    notices: tuple[str, ...]
    local: bool
    manifests: Mapping[str, Any]  # of `commit`, as rootfs/git_manifests.py read them
    default_manifests: Mapping[str, Any]

    @property
    def checkout(self) -> str:
        """Stands for all that checking out `commit` makes: the same, the same files and the same .git."""
        return self._checkout(self.commit, self.branch)

    @property
    def default_checkout(self) -> str:
        """The same for the default branch."""
        return self._checkout(self.default_commit, self.default_branch)

    @property
    def is_default(self) -> bool:
        """Whether this is what there would be without any ref."""
        return self.checkout == self.default_checkout

    def _checkout(self, commit: str, branch: str | None) -> str:
        made = [self.workdir, self.url, commit, branch, self.default_branch, dict(self.refs)]
        return hashlib.sha256(json.dumps(made, sort_keys=True).encode()).hexdigest()


async def fetch(state: Path, spec: TaskSpec, progress: Callable[[str], None]) -> Source:
    """Fetch the task's repository into its mirror. Raises JobFailed in the words of the one who must act."""
    request = {"op": "fetch", "state": str(state), "url": spec.repo, "ref": spec.ref, "user": _reader(spec)}
    result: dict[str, object] = {}
    told = ""
    async with contextlib.aclosing(jobs.lines("rootfs.git_job", request, FETCH_TIMEOUT)) as messages:
        async for message in messages:
            text = message.get("progress", "")
            if text and text != told:
                told = text
                progress(text)
            result = message.get("result", result)
    return _parse(result)


def _parse(found: Mapping[str, object]) -> Source:
    text = {name: str(value) for name, value in found.items()}
    refs, notices = found["refs"], found["notices"]
    branch, default_branch = found["branch"], found["default_branch"]
    assert isinstance(refs, dict)
    assert isinstance(notices, list)
    manifests, default_manifests = found["manifests"], found["default_manifests"]
    assert isinstance(manifests, dict)
    assert isinstance(default_manifests, dict)
    return Source(
        mirror=text["mirror"],
        objects=Path(text["objects"]),
        url=text["origin_url"],
        workdir=f"{WORKSPACE}/{text['name']}",
        commit=text["commit"],
        branch=str(branch) if branch else None,
        ref=str(found["ref"]) if found["ref"] else None,
        default_commit=text["default_commit"],
        default_branch=str(default_branch) if default_branch else None,
        refs=refs,
        notices=tuple(notices),
        local=bool(found["local"]),
        manifests=manifests,
        default_manifests=default_manifests,
    )


def _reader(spec: TaskSpec) -> int:
    return spec.owner if spec.reader is None else spec.reader


async def uncommitted(spec: TaskSpec) -> str | None:
    """A notice when a local repository has changes that are in no commit."""
    request = {"op": "uncommitted", "url": spec.repo, "user": _reader(spec)}
    return (await jobs.run("rootfs.git_job", request, FETCH_TIMEOUT)).get("notice")
