"""Environments: settings under a name, kept by the daemon, for the tasks of one repository or of none.

Settings are JSON that api/settings.py has checked; what becomes of them in a task is said in settings.py.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sandbox.core.access import LEVELS, Member, User, level, shared, uid_of, without
from sandbox.core.errors import BadRequest, Conflict, Forbidden, NotFound
from sandbox.core.model import Environment, EnvironmentHead, TaskSpec, now, without_login
from sandbox.core.store import Store

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LEVELS: Final = (*LEVELS, "own")
_PORTS: Final = {"https": ":443", "http": ":80", "ssh": ":22", "git": ":9418"}
_SCP: Final = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>[^/].*)")


_MOST_NAMES: Final = 1000  # environments of one owner
_MOST: Final = 16 << 20  # bytes of settings of one owner


@dataclass(frozen=True)
class Environments:
    """The environments of this installation, for a user who asks. What he may not see is told as what isn't there."""

    store: Store

    def create(self, user: User, name: str, settings: Mapping[str, Any]) -> Environment:
        """Keep settings under a new name of the user's. Raises BadRequest, Conflict."""
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"cannot use {name!r} as the name of an environment",
                "use at most 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
            )
        if self.store.environment(user.uid, name) is not None:
            raise Conflict(f"there is an environment {name!r} already", f"hutch env edit {name}, or take another name")
        moment = now()
        remote = remote_key(settings.get("repo"))
        environment = Environment(user.uid, name, dict(settings), remote, moment, moment, epoch=_epoch())
        self._put(environment)
        return environment

    def of(self, user: User) -> list[EnvironmentHead]:
        """Those that a user may see, in the order of their names."""
        return [one for one in self.store.environment_heads(user.sees_only) if _level(user, one) >= 0]

    def get(self, user: User, name: str, to: str) -> Environment:
        """The environment that a user means by NAME or, where it isn't his own, OWNER:NAME, which he wants to see, use, change or
        own. Raises NotFound, Forbidden.

        A name alone never is another's: whoever shares one would choose what others run.
        """
        owner, colon, own_name = name.rpartition(":")
        uid = uid_of(owner) if colon else user.uid
        found = self.store.environment(uid, own_name) if uid is not None else None
        may = -1 if found is None else _level(user, found)
        if found is None or may < 0:
            raise NotFound(
                f"there is no environment {name!r}", "hutch env ls shows what there is; another's is OWNER:NAME"
            )
        if may >= _LEVELS.index(to):
            return found
        if to == "own":
            raise Forbidden(f"cannot remove or share environment {name}: it isn't yours", "its owner can")
        raise Forbidden(
            f"cannot {to} environment {name}: you may only {_LEVELS[may]} it",
            f"its owner can let you: hutch env share {found.name} user:… --may {to}",
        )

    def by_id(self, user: User, identity: str) -> Environment | None:
        """The environment that tasks and snapshots know by this id, if the user may see it."""
        owner, _, name = identity.partition(":")
        found = self.store.environment(int(owner), name)
        return found if found is not None and _level(user, found) >= 0 else None

    def check_still(self, user: User, spec: TaskSpec) -> None:
        """Raise NotFound when a task's environment was removed, reset or taken from the user since the task was made."""
        if spec.environment is not None:
            found = self.by_id(user, spec.environment)
            if found is None or found.epoch != spec.epoch or not may_use(user, found):
                raise NotFound("the environment was changed meanwhile", "try again")

    def replace(self, user: User, name: str, settings: Mapping[str, Any]) -> Environment:
        """Give an environment other settings: all of them. Raises as `get`, and Forbidden for what is the owner's to say."""
        found = self.get(user, name, "change")
        given, kept = dict(settings), found.settings.get("repo")
        if kept and given.get("repo") == without_login(kept):  # as it was shown
            given["repo"] = kept
        if _level(user, found) < _LEVELS.index("own"):
            _check_members_change(found, given)
        changed = replace(found, settings=given, remote=remote_key(given.get("repo")), changed=now())
        self._put(changed)
        return changed

    def _put(self, environment: Environment) -> None:
        before = self.store.environment(environment.owner, environment.name)
        if before is None and self.store.count_environments(environment.owner) >= _MOST_NAMES:
            raise Conflict(f"cannot keep more than {_MOST_NAMES} environments of one user", "hutch env rm NAME")
        more = len(json.dumps(environment.settings)) - (len(json.dumps(before.settings)) if before else 0)
        if more > 0 and self.store.settings_size(environment.owner) + more > _MOST:
            raise Conflict(
                f"cannot keep environment {environment.name}: all of one user may have {_MOST >> 20} MiB of settings",
                "hutch env rm NAME, or keep scripts in the repository",
            )
        self.store.put_environment(environment)

    def share(self, user: User, name: str, member: Member) -> Environment:
        """Let a user or a group see, use or change an environment. Raises as `get`, BadRequest."""
        found = self.get(user, name, "own")
        before = next((one for one in found.members if (one.kind, one.id) == (member.kind, member.id)), member)
        lower = LEVELS.index(member.may) < LEVELS.index(before.may)
        changed = replace(found, members=shared(found.members, member), epoch=_epoch() if lower else found.epoch)
        self.store.put_environment(changed)
        return changed

    def unshare(self, user: User, name: str, member: Member) -> Environment:
        """Take that back; what members' tasks are setting up right now is kept for nobody. Raises as `get`."""
        found = self.get(user, name, "own")
        changed = replace(found, members=without(found.members, member), epoch=_epoch())
        self.store.put_environment(changed)
        return changed

    def renew(self, user: User, name: str) -> Environment:
        """Have nothing kept that tasks are setting up right now. Raises as `get`."""
        changed = replace(self.get(user, name, "change"), epoch=_epoch())
        self.store.put_environment(changed)
        return changed

    def remove(self, user: User, name: str) -> Environment:
        """Forget an environment; its snapshots stay until they expire. Raises as `get`."""
        found = self.get(user, name, "own")
        self.store.remove_environment(found.owner, found.name)
        return found

    def of_remote(self, user: User, url: str) -> Environment | None:
        """The user's one environment for this repository. Raises Conflict when there are several."""
        key = remote_key(url)
        found = (
            [one for one in self.store.environment_heads(user.uid) if one.owner == user.uid and one.remote == key]
            if key
            else []
        )
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise Conflict(f"several environments are for {key}: {names}", f"say which: --env {found[0].name}")
        return self.store.environment(user.uid, found[0].name) if found else None


def may_use(user: User, environment: Environment) -> bool:
    """Whether a user may run tasks in an environment."""
    return _level(user, environment) >= _LEVELS.index("use")


def keeps_for_others(store: Store, spec: TaskSpec) -> bool:
    """Whether what a task has set up may be kept: its environment is there, and nobody lost a part in it or reset it since."""
    if spec.environment is None:
        return True
    owner, _, name = spec.environment.partition(":")
    found = store.environment(int(owner), name)
    return found is not None and found.epoch == spec.epoch


def _check_members_change(found: Environment, settings: Mapping[str, Any]) -> None:
    """What would reach the owner's other secrets and repositories is for him to say. Raises Forbidden."""
    before = found.settings
    for name, what in (("secrets", "the secret"), ("secret_paths", "a place where secrets may stay,")):
        if added := set(settings.get(name, ())) - set(before.get(name, ())):
            raise Forbidden(
                f"cannot give environment {found.name} {what} {min(added)}: it would be its owner's",
                "its owner can give it, or name a secret of yours for a task: --secret",
            )
    if settings.get("repo") != before.get("repo"):
        raise Forbidden(f"cannot give environment {found.name} another repository: its owner's", "its owner can")
    if _trusted(settings) != _trusted(before):
        raise Forbidden(f"cannot say which refs environment {found.name} trusts", "its owner can")


def _trusted(settings: Mapping[str, Any]) -> Any:
    return (settings.get("cache") or {}).get("trusted_refs")


def _epoch() -> str:
    return secrets.token_hex(8)


def _level(user: User, environment: Environment | EnvironmentHead) -> int:
    return level(user, environment.owner, environment.members)


def remote_key(url: str | None) -> str | None:
    """What is the same for all spellings of one repository's URL: host/path; a local path as it is."""
    if not url:
        return None
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        place, _, path = rest.partition("/")
        host = place.rpartition("@")[2].removesuffix(_PORTS.get(scheme, ":"))
    elif not separator and (scp := _SCP.fullmatch(url)) and not url.startswith("/"):
        host, path = scp["host"], scp["path"]
    else:
        return (rest or url).rstrip("/").removesuffix("/.git")
    return f"{host.lower()}/{path.strip('/').removesuffix('.git')}"
