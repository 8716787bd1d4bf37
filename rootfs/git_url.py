"""What a repository's URL or path says: how to reach it, its key in the store, its name in the sandbox, its login.

Pure: must not touch the network or a file (but `realpath` for local paths), and lets a password into no other string.
"""

import hashlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit

from rootfs.git_errors import RepositoryError
from rootfs.git_user import User

_SCP = re.compile(
    r"(?:(?P<user>[^@/:\s]+)@)?(?P<host>\[[0-9a-fA-F:.]+\]|[^@/:\s\[\]]+):(?P<path>(?!//|:).+)\Z", re.DOTALL
)
_SCHEMES = {"https": 443, "http": 80, "ssh": 22, "git": 9418}
_HOW = "give an https:// or ssh:// URL, user@host:path, file:// or an absolute path"


@dataclass(frozen=True, slots=True)
class Source:
    """One repository. `location` is what libgit2 gets and what may be shown: it has no password, and no user for http."""

    location: str
    key: str  # 32 hex digits, the same for every spelling of the URL
    name: str  # for /workspace/<name>
    path: str | None = None  # set for a local repository
    host: str | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    user: User | None = None  # for whom it is fetched, unless that is root

    @property
    def borrowed(self) -> bool:
        """Whether it lies on this host and is read as its user."""
        return self.path is not None and self.user is not None


def parse(text: str, user: User | None = None) -> Source:
    """The repository that `text` names, or RepositoryError. Of every user's his own mirror: what one of them may fetch, and what
    his tasks made of it, is not for another."""
    found = _parse(text, os.path.realpath if user is None else os.path.normpath)
    return replace(found, user=user, key=_key(f"{user.uid} {found.key}")) if user else found


def _parse(text: str, real: Callable[[str], str]) -> Source:
    if any(c < " " or c == "\x7f" for c in text) or not text.strip():
        raise RepositoryError("cannot use a repository URL that is empty or contains control characters", _HOW)
    if text.startswith("/"):
        return _local(text, real)
    if "://" not in text:
        return _scp(text)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise RepositoryError(f"cannot read the repository URL: {error}", _HOW) from error
    if parts.scheme.lower() == "file":
        if parts.netloc not in ("", "localhost"):
            raise RepositoryError(f"cannot read file:// from another host ({parts.hostname})", _HOW)
        return _local(unquote(parts.path), real)
    return _remote(parts, port)


def _local(path: str, resolve: Callable[[str], str]) -> Source:
    """`resolve`: not realpath for a user, who may not be able to see where a link leads."""
    if not path.startswith("/") or any(c < " " or c == "\x7f" for c in path):
        raise RepositoryError(
            "cannot use a repository's path that is not absolute or contains control characters", _HOW
        )
    real = resolve(path)
    name = os.path.basename(os.path.dirname(real)) if os.path.basename(real) == ".git" else os.path.basename(real)
    return Source(location=path, key=_key(f"file://{real}"), name=safe_name(name), path=path)


def _scp(text: str) -> Source:
    found = _SCP.match(text)
    if not found:
        raise RepositoryError(f"cannot find the repository '{text}': it is neither a URL nor an absolute path", _HOW)
    user, host, path = found["user"] or "git", found["host"].lower(), found["path"]
    key = _key(f"scp://{user}@{host}/{path.rstrip('/')}")
    return Source(f"{user}@{host}:{path}", key, safe_name(path), host=host.strip("[]"), username=user)


def _remote(parts: SplitResult, port: int | None) -> Source:
    scheme = parts.scheme.lower().removeprefix("git+")
    if scheme not in _SCHEMES or not parts.hostname:
        raise RepositoryError(f"cannot use '{parts.scheme}' to reach a repository", _HOW)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    where = host + (f":{port}" if port and port != _SCHEMES[scheme] else "")
    username = unquote(parts.username) if parts.username else None
    password = unquote(parts.password) if parts.password else None
    if scheme == "ssh":
        where = f"{username or 'git'}@{where}"
    path = parts.path + (f"?{parts.query}" if parts.query else "")
    location = f"{scheme}://{where}{path}"
    return Source(
        location, _key(location.rstrip("/")), safe_name(unquote(parts.path)), None, parts.hostname, username, password
    )


def _key(normal: str) -> str:
    return hashlib.sha256(normal.encode("utf-8", "surrogateescape")).hexdigest()[:32]


def safe_name(path: str) -> str:
    """The last component of `path` without .git, made of letters, digits, dot, underscore and hyphen only."""
    last = re.split(r"[/:\\]", path.rstrip("/"))[-1].removesuffix(".git")
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", last).lstrip("-")[:100]
    return "repository" if name.lower().strip(".") in ("", "git") else name
