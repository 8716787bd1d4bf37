"""Finds the manifests and lock files of package managers in a commit: near its root, bounded in every way.

Must not read what it needn't: a repository of 50,000 files costs some trees, each once. Links are no manifests, folders whose
names say that they hold examples, fixtures or other people's code aren't entered, names with control characters don't exist.
"""

import re
from collections import deque
from typing import Any

import pygit2

from rootfs.manifests import facts, wanted

DEPTH = 2  # folders below the root
_FOLDERS, _ENTRIES, _FILES, _BYTES = 400, 200_000, 200, 16 << 20
_NAME = 128  # characters
_ENTRY = re.compile(rb"(\d+) ([^\0]+)\0(.{20})", re.DOTALL)
_REGULAR = (b"100644", b"100755", b"100664")
# Made by installing; where they are tracked, nothing has to be made.
_MADE = frozenset(("node_modules", "vendor", ".venv"))
_CACHES = {".yarn": "cache"}
_REQUIREMENTS = tuple(f"requirements/{name}.txt" for name in ("dev", "test", "tests"))
_LEFT_OUT = frozenset(
    "node_modules bower_components vendor third_party third-party thirdparty external deps site-packages venv env virtualenv "
    "fixtures fixture __fixtures__ testdata test-data test tests __tests__ spec specs examples example samples sample demos demo "
    "templates template docs doc dist build out target bin obj coverage".split()
)  # fmt: skip


def read(repo: pygit2.Repository, commit: str) -> dict[str, Any]:
    """{"files": [{"path", "id", "facts"}], "made": [directory], "cut": bool}: of the root first, then of the folders below.

    `made`: tracked directories that package managers make elsewhere. `cut`: some folders were not looked into. A commit
    that isn't whole has none: who checks it out says what is wrong with it.
    """
    try:
        return _Reading(repo).read(repo[commit].peel(pygit2.Tree).id.raw)
    except (KeyError, ValueError, pygit2.GitError):
        return {"files": [], "made": [], "cut": False}


class _Reading:
    def __init__(self, repo: pygit2.Repository) -> None:
        self._odb = repo.odb
        self._files: list[dict[str, Any]] = []
        self._made: list[str] = []
        self._folders, self._entries, self._bytes = _FOLDERS, _ENTRIES, _BYTES

    def read(self, root: bytes) -> dict[str, Any]:
        queue = deque([("", root)])
        while queue and self._folders and self._entries > 0 and len(self._files) < _FILES:
            path, tree = queue.popleft()
            self._folders -= 1
            queue.extend(self._folder(path, tree))
        cut = bool(queue) or self._entries <= 0 or len(self._files) >= _FILES
        return {"files": self._files, "made": self._made, "cut": cut}

    def _folder(self, path: str, tree: bytes) -> list[tuple[str, bytes]]:
        """Take the files of one folder; returns the folders to look into."""
        below = []
        for mode, raw, sha in self._tree(tree):
            name = _text(raw)
            if name is None:
                continue
            inside = f"{path}{name}"
            if mode == b"40000":
                self._mark(inside, name, sha)
                if inside.count("/") < DEPTH and name[0] != "." and name.lower() not in _LEFT_OUT:
                    below.append((f"{inside}/", sha))
            elif mode in _REGULAR and len(self._files) < _FILES:
                self._file(inside, name, sha)
        return below

    def _tree(self, tree: bytes) -> list[tuple[bytes, bytes, bytes]]:
        if self._size(tree) > self._entries * 40:  # bytes of an ordinary entry
            self._entries = 0
            return []
        entries: list[tuple[bytes, bytes, bytes]] = _ENTRY.findall(self._odb.read(pygit2.Oid(raw=tree))[1])
        self._entries -= len(entries)
        return entries

    def _mark(self, path: str, name: str, tree: bytes) -> None:
        if name in _MADE:
            self._made.append(path)
        elif name in _CACHES and any(_text(raw) == _CACHES[name] for _, raw, _ in self._tree(tree)):
            self._made.append(f"{path}/{_CACHES[name]}")

    def _file(self, path: str, name: str, sha: bytes) -> None:
        kind = "requirements.txt" if path.endswith(_REQUIREMENTS) else name
        most = wanted(kind)
        if most is not None:
            said = facts(kind, self._content(sha, most)) if most else {}
            self._files.append({"path": path, "id": sha.hex(), "facts": said})

    def _content(self, sha: bytes, most: int) -> bytes | None:
        """Its first bytes; None for a file that is larger than any real one, since git unpacks it whole."""
        size = self._size(sha)
        if size > self._bytes:
            return None
        self._bytes -= size
        data: bytes = self._odb.read(pygit2.Oid(raw=sha))[1]
        return data[:most]

    def _size(self, sha: bytes) -> int:
        size: int = self._odb.read_header(pygit2.Oid(raw=sha))[1]
        return size


def _text(raw: bytes) -> str | None:
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        return None
    return name if len(name) <= _NAME and name.isprintable() else None
