"""Who asks, and what he may: users and groups of this host, as the kernel vouches for them. Pure but for their names.

root may everything. Whoever else may use the socket has tasks, secrets and environments of his own, and the environments that
were shared with him or with a group of his. What else there is he doesn't hear of: it is answered as though it weren't there.
"""

from __future__ import annotations

import contextlib
import functools
import grp
import os
import pwd
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from sandbox.core.errors import BadRequest, Forbidden

LEVELS: Final = ("see", "use", "change")  # what a member may; each has those before it
_OWNER: Final = len(LEVELS)
_MOST_MEMBERS: Final = 100
_LONGEST: Final = 256  # characters of a name
_DIGITS, _NO_ID = 10, 2**32 - 1  # of an id; (uid_t)-1 is none


@dataclass(frozen=True)
class User:
    """A user of this host, by his ids."""

    uid: int
    groups: frozenset[int] = frozenset()

    @property
    def is_root(self) -> bool:
        """Whether he administers this installation."""
        return self.uid == 0

    @property
    def sees_only(self) -> int | None:
        """The owner of what he sees; None for everybody's."""
        return None if self.is_root else self.uid

    def must_be_root(self, what: str) -> None:
        """Raise Forbidden unless he is."""
        if not self.is_root:
            raise Forbidden(f"cannot {what}: that is the administrator's", "ask who may use sudo on this host")


ROOT: Final = User(0)


@dataclass(frozen=True)
class Member:
    """A user or a group of this host that an environment is shared with, and what for: one of LEVELS."""

    kind: str
    id: int
    may: str

    @classmethod
    def named(cls, text: str, may: str) -> Member:
        """`user:alice` or `group:dev`, by name or number. Raises BadRequest."""
        kind, colon, name = text.partition(":")
        if not colon or kind not in ("user", "group"):
            raise BadRequest(f"cannot share with {text!r}", "say user:NAME or group:NAME")
        found = _id_of(kind, name)
        if found is None:
            raise BadRequest(
                f"cannot share with {text[:_LONGEST]!r}: this host has no such {kind}", f"getent {_BASE[kind]}"
            )
        return cls(kind, found, may)

    def shown(self) -> dict[str, str]:
        """The member as the API shows it."""
        return {"member": f"{self.kind}:{name_of(self.kind, self.id)}", "may": self.may}

    def to_json(self) -> dict[str, Any]:
        """As the store has it."""
        return {"kind": self.kind, "id": self.id, "may": self.may}

    def is_of(self, user: User) -> bool:
        """Whether this is the user, or a group of his."""
        return self.id == user.uid if self.kind == "user" else self.id in user.groups


_BASE: Final = {"user": "passwd", "group": "group"}


def level(user: User, owner: int, members: Iterable[Member]) -> int:
    """How far a user may go: an index of LEVELS, -1 for nothing, one more than the last for the owner."""
    if user.is_root or user.uid == owner:
        return _OWNER
    return max((LEVELS.index(one.may) for one in members if one.is_of(user)), default=-1)


def shared(members: Iterable[Member], member: Member) -> tuple[Member, ...]:
    """The members with this one, in place of what he was. Raises BadRequest when they are too many."""
    kept = (*without(members, member), member)
    if len(kept) > _MOST_MEMBERS:
        raise BadRequest(f"cannot share with more than {_MOST_MEMBERS} users and groups", "share with a group")
    return kept


def without(members: Iterable[Member], member: Member) -> tuple[Member, ...]:
    """The members but this one."""
    return tuple(one for one in members if (one.kind, one.id) != (member.kind, member.id))


def full_name(owner: int, name: str, uid: int) -> str:
    """An environment's name for a user: his own go by their names alone, all others by OWNER:NAME."""
    return name if owner == uid else f"{name_of('user', owner)}:{name}"


def shown_scope(scope: str | None, uid: int) -> str | None:
    """The same for what the store knows an environment by; None where there is none."""
    owner, _, name = (scope or "").rpartition(":")
    return full_name(int(owner or 0), name, uid) if name else None


def uid_of(text: str) -> int | None:
    """The uid that a user's name, or number, stands for."""
    return _id_of("user", text)


def user_of(uid: int) -> User:
    """A user with the groups that the host's databases give him."""
    try:
        found = pwd.getpwuid(uid)
    except KeyError:
        return User(uid)
    return User(uid, frozenset(os.getgrouplist(found.pw_name, found.pw_gid)))


def _id_of(kind: str, name: str) -> int | None:
    """The id behind a name or a number. What no host can have for a name, or for a number, is none."""
    if not name or len(name) > _LONGEST or not name.isprintable():
        return None
    with contextlib.suppress(KeyError, ValueError):
        return pwd.getpwnam(name).pw_uid if kind == "user" else grp.getgrnam(name).gr_gid
    number = int(name) if name.isascii() and name.isdigit() and len(name) <= _DIGITS else _NO_ID
    return number if number < _NO_ID else None


def name_of(kind: str, number: int) -> str:
    """The name of a user or group; its number where the host knows none. As it was in the last minute: databases may be far."""
    return _name_at(kind, number, int(time.monotonic() // 60))


@functools.lru_cache(maxsize=4096)
def _name_at(kind: str, number: int, _minute: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name if kind == "user" else grp.getgrgid(number).gr_name
    except (KeyError, OverflowError):
        return str(number)
