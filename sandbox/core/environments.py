"""Environments: settings under a name, kept by the daemon, for the tasks of one repository or of none.

Settings are JSON that api/settings.py has checked; what becomes of them in a task is said in settings.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sandbox.core.access import LEVELS, Member, User, level, shared, uid_of, without
from sandbox.core.errors import BadRequest, Conflict, Forbidden, NotFound
from sandbox.core.model import Environment, now
from sandbox.core.store import Store

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LEVELS: Final = (*LEVELS, "own")
_PORTS: Final = {"https": ":443", "http": ":80", "ssh": ":22", "git": ":9418"}
_SCP: Final = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>[^/].*)")


_MOST: Final = 1000  # environments of one owner


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
        own = [one for one in self.store.list_environments() if one.owner == user.uid]
        if any(one.name == name for one in own):
            raise Conflict(f"there is an environment {name!r} already", f"hutch env edit {name}, or take another name")
        if len(own) >= _MOST:
            raise Conflict(f"cannot keep more than {_MOST} environments of one user", "hutch env rm NAME")
        moment = now()
        environment = Environment(user.uid, name, dict(settings), remote_key(settings.get("repo")), moment, moment)
        self.store.put_environment(environment)
        return environment

    def of(self, user: User) -> list[Environment]:
        """Those that a user may see, in the order of their names."""
        return [one for one in self.store.list_environments() if _level(user, one) >= 0]

    def get(self, user: User, name: str, to: str) -> Environment:
        """The environment that a user means by NAME or OWNER:NAME, which he wants to see, use, change or own. Raises NotFound,
        Forbidden, and Conflict where several are shared with him.
        """
        found = self._named(user, name)
        may = _level(user, found)
        if may >= _LEVELS.index(to):
            return found
        if to == "own":
            raise Forbidden(f"cannot remove or share environment {name}: it isn't yours", "its owner can")
        raise Forbidden(
            f"cannot {to} environment {name}: you may only {_LEVELS[may]} it",
            f"its owner can let you: hutch env share {found.name} user:… --may {to}",
        )

    def _named(self, user: User, name: str) -> Environment:
        owner, colon, own_name = name.rpartition(":")
        visible = [one for one in self.of(user) if one.name == own_name]
        if colon:
            uid = uid_of(owner)
            visible = [one for one in visible if one.owner == uid]
        else:
            visible = [one for one in visible if one.owner == user.uid] or visible
        if len(visible) > 1:
            names = ", ".join(one.called(user.uid) for one in visible)
            raise Conflict(f"several users have an environment {name!r}: {names}", "say whose")
        if not visible:
            raise NotFound(f"there is no environment {name!r}", "hutch env ls shows what there is")
        return visible[0]

    def by_id(self, user: User, identity: str) -> Environment | None:
        """The environment that tasks and snapshots know by this id, if the user may see it."""
        owner, _, name = identity.partition(":")
        found = self.store.environment(int(owner), name)
        return found if found is not None and _level(user, found) >= 0 else None

    def replace(self, user: User, name: str, settings: Mapping[str, Any]) -> Environment:
        """Give an environment other settings: all of them. Raises as `get`."""
        found = self.get(user, name, "change")
        added = set(settings.get("secrets", ())) - set(found.settings.get("secrets", ()))
        if added and _level(user, found) < _LEVELS.index("own"):
            raise Forbidden(
                f"cannot give environment {name} the secret {min(added)}: it would be its owner's",
                "its owner can give it, or name a secret of yours for a task: --secret",
            )
        changed = replace(found, settings=dict(settings), remote=remote_key(settings.get("repo")), changed=now())
        self.store.put_environment(changed)
        return changed

    def share(self, user: User, name: str, member: Member) -> Environment:
        """Let a user or a group see, use or change an environment. Raises as `get`, BadRequest."""
        return self._share(self.get(user, name, "own"), lambda members: shared(members, member))

    def unshare(self, user: User, name: str, member: Member) -> Environment:
        """Take that back. Raises as `get`."""
        return self._share(self.get(user, name, "own"), lambda members: without(members, member))

    def _share(self, found: Environment, edit: Callable[[tuple[Member, ...]], tuple[Member, ...]]) -> Environment:
        changed = replace(found, members=edit(found.members))
        self.store.put_environment(changed)
        return changed

    def remove(self, user: User, name: str) -> Environment:
        """Forget an environment; its snapshots stay until they expire. Raises as `get`."""
        found = self.get(user, name, "own")
        self.store.remove_environment(found.owner, found.name)
        return found

    def of_remote(self, user: User, url: str) -> Environment | None:
        """The one environment that a user may use for this repository, his own first. Raises Conflict when there are several."""
        key = remote_key(url)
        use = _LEVELS.index("use")
        found = [one for one in self.of(user) if key is not None and one.remote == key and _level(user, one) >= use]
        found = [one for one in found if one.owner == user.uid] or found
        if len(found) > 1:
            names = ", ".join(one.called(user.uid) for one in found)
            raise Conflict(
                f"several environments are for {key}: {names}", f"say which: --env {found[0].called(user.uid)}"
            )
        return found[0] if found else None


def _level(user: User, environment: Environment) -> int:
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
