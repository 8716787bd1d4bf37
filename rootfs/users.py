"""Whom an image's commands run as: the `User` of its config, looked up in its own /etc/passwd and /etc/group as docker does.

Both files are strangers' data: lines that make no sense are passed over. Must not ask the host who anybody is.

    name or uid             its group is passwd's; further ones are those of /etc/group that list the name
    name or uid : group     that group, and no further ones
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from rootfs.errors import ImageError, shown
from rootfs.image import Image
from rootfs.read_image import read_from_image
from rootfs.store import Store

_IDS: Final = 65536  # as many as a sandbox has
_FILE_MAX: Final = 4 << 20  # bytes
_HOME_MAX: Final = 4096
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_ROOT: Final = ("root", "0")


@dataclass(frozen=True, slots=True)
class User:
    """Ids as they are inside a sandbox, and what a login tells of them."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()  # further ones
    name: str = "root"
    home: str = "/root"


ROOT: Final = User()


def image_user(store: Store, image: Image) -> User:
    """The user of an image. Raises ImageError where the image doesn't have it."""
    spec = image.config.user
    name, _, group = spec.partition(":")
    if name in ("", *_ROOT) and group in ("", *_ROOT):
        return ROOT
    try:
        files = [read_from_image(store, image, f"etc/{file}", _FILE_MAX) or b"" for file in ("passwd", "group")]
        return find_user(spec, *files)
    except ImageError as error:
        raise ImageError(
            f"cannot run commands in the image '{image.name}' as its user {shown(spec)}: {error.message}", error.remedy
        ) from error


def find_user(spec: str, passwd: bytes, group: bytes) -> User:
    """What `spec` (name or uid, maybe with a group behind a colon) means by these two files. Raises ImageError."""
    name, colon, wanted = spec.partition(":")
    user = next((account for account in _accounts(passwd) if _is(name, account.name, account.uid)), None)
    if user is None:
        user = ROOT if name in _ROOT else User(_number(name, "passwd"), name=name, home="/")
    if colon:
        gid = next((gid for known, gid, _ in _groups(group) if _is(wanted, known, gid)), None)
        user = replace(user, gid=_number(wanted, "group") if gid is None else gid)
    else:
        further = {gid: None for _, gid, members in _groups(group) if user.name in members and gid < _IDS}
        user = replace(user, groups=tuple(further))
    if max(user.uid, user.gid) >= _IDS:
        raise ImageError(f"{user.uid}:{user.gid} is above {_IDS - 1}", "give it lower ids in the image")
    return user


def _is(wanted: str, name: str, number: int) -> bool:
    return number == int(wanted) if wanted.isdecimal() else name == wanted


def _number(wanted: str, file: str) -> int:
    """An id that no line of the file has; a name must have one."""
    if not wanted.isdecimal():
        raise ImageError(f"its /etc/{file} has no {shown(wanted)}", "add it there, or give the image another user")
    return int(wanted)


def _accounts(passwd: bytes) -> Iterator[User]:
    for name, uid, gid, _, home in _lines(passwd, 6):
        if (user := _id(uid)) is not None and (group := _id(gid)) is not None:
            plain = home.startswith("/") and home.isprintable() and len(home) <= _HOME_MAX
            yield User(user, group, (), name if _NAME.fullmatch(name) else str(user), home if plain else "/")


def _groups(group: bytes) -> Iterator[tuple[str, int, list[str]]]:
    for name, gid, members in _lines(group, 4):
        if (number := _id(gid)) is not None:
            yield name, number, members.split(",")


def _lines(data: bytes, fields: int) -> Iterator[list[str]]:
    """The first fields of each line without the second, the password; those that are missing are empty, as for docker."""
    for line in data.decode("utf-8", "replace").split("\n"):
        name, _, *rest = (line.strip().split(":") + [""] * fields)[:fields]
        yield [name, *rest]


def _id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else None
