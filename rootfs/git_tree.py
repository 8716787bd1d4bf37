"""A base commit's tree, changed by what a task's upper directory holds: the heart of a task's result.

Must not run anything, follow a link, or trust a name, size or pattern: everything here was written by a tenant. Walks
with an explicit stack and reads only what changed.

    for each directory of the upper, depth first:
        what is in the upper          replaces, adds or (whiteout) removes, unless it is ignored or has to be skipped
        what is only in the base      stays if a layer below has it, else the task removed what its checkout had made
"""

import stat
from collections.abc import Sequence
from dataclasses import dataclass, field

import pygit2

from rootfs import attributes, ignore
from rootfs.attributes import BINARY, AttributesFile
from rootfs.git_names import is_git, is_modules
from rootfs.ignore import IgnoreFile
from rootfs.pack import BLOB, TREE, PackWriter, object_id
from rootfs.upper import Directory, Entry, Kind, TooLarge

FILE, EXECUTABLE, LINK, FOLDER, MODULE = 0o100644, 0o100755, 0o120000, 0o040000, 0o160000
Node = tuple[int, bytes]  # mode, id
Nodes = dict[bytes, Node]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a tenant's tree is taken. What is beyond is skipped and said."""

    file_bytes: int = 100 << 20
    total_bytes: int = 2 << 30
    entries: int = 1_000_000
    depth: int = 256
    path_bytes: int = 4095
    rules_bytes: int = 512 << 10  # one .gitignore or .gitattributes
    rules_total: int = 16 << 20


@dataclass(slots=True)
class Report:
    """What was left out and why, and what the user should know. Both bounded."""

    skipped: list[tuple[bytes, str]] = field(default_factory=list)
    more: int = 0
    notices: list[str] = field(default_factory=list)

    def skip(self, path: bytes, reason: str) -> None:
        if len(self.skipped) < 1000:
            self.skipped.append((path, reason))
        else:
            self.more += 1

    def notice(self, text: str) -> None:
        if text not in self.notices and len(self.notices) < 20:
            self.notices.append(text)


@dataclass(slots=True)
class _Frame:
    """One directory on the way down."""

    directory: Directory
    path: bytes  # with a slash at its end, empty for the top
    name: bytes
    tree: bytes | None  # the base tree's id
    base: Nodes
    nodes: Nodes
    entries: list[Entry]
    complete: bool  # `entries` is all that the upper has here
    ignored: bool  # only what is tracked counts from here on
    ignores: tuple[tuple[int, IgnoreFile], ...]  # nearest first, each with the length of its directory's path
    rules: tuple[tuple[int, AttributesFile], ...]
    at: int = 0


class TreeEditor:
    """Computes the changed tree and puts the new blobs and trees into a pack."""

    def __init__(
        self, repo: pygit2.Repository, pack: PackWriter, limits: Limits, exclude: Sequence[bytes] = ()
    ) -> None:  # fmt: skip
        self._repo, self._pack, self._limits = repo, pack, limits
        # As .git/info/exclude: any .gitignore wins. What that file says inside doesn't count, it may be the task's own.
        self._excluded = ((0, IgnoreFile(ignore.parse(b"\n".join(exclude)))),) if exclude else ()
        self.report = Report()
        self._macros = dict(BINARY)
        self._entries_left, self._bytes_left, self._rules_left = limits.entries, limits.total_bytes, limits.rules_total

    def edit(self, top: Directory, base_tree: bytes) -> bytes:
        """The id of the tree that `top` (closed here) makes of `base_tree`."""
        frames = [self._frame(None, top, b"", base_tree, False)]
        try:
            while True:
                frame = frames[-1]
                below = self._next_directory(frame)
                if below is not None:
                    frames.append(below)
                    continue
                self._drop_vanished(frame)
                tree = self._written(frame)
                frames.pop().directory.close()
                if not frames:
                    return tree or self._pack.add(TREE, b"")
                if tree:
                    frames[-1].nodes[frame.name] = (FOLDER, tree)
                else:
                    frames[-1].nodes.pop(frame.name, None)
        finally:
            for frame in frames:
                frame.directory.close()

    def _frame(
        self, parent: _Frame | None, directory: Directory, name: bytes, tree: bytes | None, ignored: bool
    ) -> _Frame:
        path = parent.path + name + b"/" if parent else b""
        ignores, rules = (parent.ignores, parent.rules) if parent else (self._excluded, ())
        try:
            entries, complete = directory.entries(self._entries_left), True
        except TooLarge:
            self._too_many(path)
            entries, complete = [], False
        self._entries_left -= len(entries)
        base = self._nodes(tree) if tree else {}
        frame = _Frame(directory, path, name, tree, base, dict(base), entries, complete, ignored, ignores, rules)
        if entries:
            self._read_rules(frame)
        return frame

    def _too_many(self, path: bytes) -> None:
        self.report.skip(
            path, f"the task changed more than {self._limits.entries} entries; nothing of this directory was read"
        )
        self.report.notice("the result is incomplete: the task changed too many files")

    def _read_rules(self, frame: _Frame) -> None:
        """Take up the directory's own .gitignore and .gitattributes, as the merged view (not only the upper) has them."""
        length = len(frame.path)
        data = None if frame.ignored else self._rules_text(frame, b".gitignore")
        if data:
            frame.ignores = ((length, IgnoreFile(ignore.parse(data))), *frame.ignores)
        data = self._rules_text(frame, b".gitattributes")
        if data is None and b".gitattributes" in frame.base and not frame.directory.exists(b".gitattributes"):
            data = self._blob(frame.base[b".gitattributes"])  # git asks its index then
        if data:
            file = attributes.parse(data)
            frame.rules = ((length, file), *frame.rules)
            if not frame.path:
                self._macros |= file.macros

    def _rules_text(self, frame: _Frame, name: bytes) -> bytes | None:
        try:
            data = frame.directory.read_merged(name, min(self._limits.rules_bytes, self._rules_left))
        except TooLarge:
            self.report.notice(f"{shown(frame.path + name)} is too large and was not read")
            return None
        self._rules_left -= len(data or b"")
        return data

    def _next_directory(self, frame: _Frame) -> _Frame | None:
        """Deal with the frame's entries up to the next directory that has to be entered; None at its end."""
        while frame.at < len(frame.entries):
            entry = frame.entries[frame.at]
            name = entry.name
            frame.at += 1
            if is_git(name):
                if name != b".git" and entry.kind is not Kind.WHITEOUT:
                    self.report.skip(frame.path + name, "this name is reserved for git")
            elif entry.kind is Kind.DIRECTORY:
                if (below := self._entered(frame, name)) is not None:
                    return below
            elif entry.kind is Kind.WHITEOUT:
                frame.nodes.pop(name, None)
            else:
                self._leaf(frame, entry)
        return None

    def _entered(self, frame: _Frame, name: bytes) -> _Frame | None:
        """The frame of a subdirectory, or None if nothing of it can count."""
        path, former = frame.path + name, frame.base.get(name)
        if former and former[0] == MODULE:
            return None  # a submodule's place: what stands there belongs to another repository
        tree = former[1] if former and former[0] == FOLDER else None
        if not tree:
            frame.nodes.pop(name, None)
        ignored = frame.ignored or self._is_ignored(frame, path, name, True)
        if ignored and not tree:
            return None
        if frame.path.count(b"/") + 1 >= self._limits.depth or len(path) >= self._limits.path_bytes:
            self.report.skip(path, "it is nested too deeply")
            return None
        directory = frame.directory.child(name)
        if not tree and directory.exists(b".git"):
            directory.close()
            self.report.skip(path, "it is a repository of its own")
            self.report.notice(f"{shown(path)} is a repository of its own: it is not part of the result")
            return None
        try:
            return self._frame(frame, directory, name, tree, ignored)
        except BaseException:
            directory.close()
            raise

    def _is_ignored(self, frame: _Frame, path: bytes, name: bytes, is_directory: bool) -> bool:
        for length, file in frame.ignores:
            verdict = file.verdict(path[length:], name, is_directory)
            if verdict is not None:
                return verdict
        return False

    def _leaf(self, frame: _Frame, entry: Entry) -> None:
        """A file, a link, or something that git has no place for."""
        name, path = entry.name, frame.path + entry.name
        former = frame.base.get(name)
        tracked = former is not None and former[0] != FOLDER
        if not tracked:
            frame.nodes.pop(name, None)  # a directory was replaced
            if frame.ignored or self._is_ignored(frame, path, name, False):
                return
        if entry.kind not in (Kind.FILE, Kind.LINK):
            frame.nodes.pop(name, None)
            self.report.skip(path, f"it is a {entry.kind.value}")
        elif len(path) > self._limits.path_bytes:
            self.report.skip(path, "its path is too long")
        elif entry.kind is Kind.FILE:
            self._file(frame, entry, path, former)
        elif is_modules(name):
            self.report.skip(path, "a .gitmodules that is a symbolic link is refused by git")
        else:
            target = frame.directory.target(name)
            known = object_id(BLOB, target)
            if former != (LINK, known):
                frame.nodes[name] = (LINK, self._pack.add(BLOB, target, known))

    def _file(self, frame: _Frame, entry: Entry, path: bytes, former: Node | None) -> None:
        limit = min(self._limits.file_bytes, self._bytes_left)
        try:
            data, executable = frame.directory.read(entry.name, limit)
        except TooLarge:
            what = (
                f"it is larger than {self._limits.file_bytes >> 20} MiB"
                if limit == self._limits.file_bytes
                else "the result is too large"
            )
            self.report.skip(path, f"{what}: its former content is kept" if former else what)
            return
        mode = EXECUTABLE if executable else FILE
        known = object_id(BLOB, data)
        if former and former[1] == known and former[0] in (FILE, EXECUTABLE):
            frame.nodes[entry.name] = (mode, known)
            return
        if frame.rules:
            states = attributes.attributes(path, frame.rules, self._macros)
            data = attributes.stored(data, states, lambda: self._blob(former))
            known = object_id(BLOB, data)
        if not (former and former[1] == known):
            self._bytes_left -= len(data)
            self._pack.add(BLOB, data, known)
        frame.nodes[entry.name] = (mode, known)

    def _drop_vanished(self, frame: _Frame) -> None:
        """Remove what only the base has. The task's checkout had put it into the upper, and there it is no more.

        Overlayfs leaves a whiteout only for what a layer below has: a file that came with the task's own checkout
        vanishes without a trace.
        """
        if not frame.complete:
            return
        listed = {entry.name for entry in frame.entries}
        for name in frame.base:
            if name not in listed and name in frame.nodes and frame.directory.below(name) is None:
                del frame.nodes[name]

    def _written(self, frame: _Frame) -> bytes | None:
        """The id of the directory's tree, None if it is empty (git knows no empty directories)."""
        if not frame.nodes:
            return None
        return frame.tree if frame.tree and frame.nodes == frame.base else self._pack.add(TREE, tree_data(frame.nodes))

    def _nodes(self, tree: bytes) -> Nodes:
        return parse_tree(self._repo.odb.read(pygit2.Oid(raw=tree))[1])

    def _blob(self, node: Node | None) -> bytes | None:
        if node is None or not stat.S_ISREG(node[0]):
            return None
        data: bytes = self._repo.odb.read(pygit2.Oid(raw=node[1]))[1]
        return data


def parse_tree(data: bytes) -> Nodes:
    """The entries of a tree object."""
    nodes, at = Nodes(), 0
    while at < len(data):
        space = data.index(b" ", at)
        end = data.index(b"\0", space)
        nodes[data[space + 1 : end]] = (int(data[at:space], 8), data[end + 1 : end + 21])
        at = end + 21
    return nodes


def tree_data(nodes: Nodes) -> bytes:
    """A tree object with these entries, in git's order: directories as if their name ended in a slash."""
    order = sorted(nodes.items(), key=lambda item: item[0] + b"/" if item[1][0] == FOLDER else item[0])
    return b"".join(b"%o %s\0%s" % (mode, name, sha) for name, (mode, sha) in order)


def shown(path: bytes) -> str:
    """A path fit for a message."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:200]
