"""A patch that `git apply` turns into the very same tree: binary files, modes, links and any file name included.

Must not run a filter or textconv: libgit2 compares the stored blobs as they are. Headers are our own: `git apply` can't read
the unquoted names with spaces that git and libgit2 write into them (a directory `c ` is enough), quoted ones it can.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pygit2
from pygit2.enums import DeltaStatus, DiffOption

_BODY = re.compile(rb"^(?:@@ -|GIT binary patch$)", re.MULTILINE)
_PLAIN = re.compile(rb"[!#-\[\]-~]+\Z")  # printable ASCII without space, quote and backslash
_ESCAPES = {7: b"\\a", 8: b"\\b", 9: b"\\t", 10: b"\\n", 11: b"\\v", 12: b"\\f", 13: b"\\r", 34: b'\\"', 92: b"\\\\"}


@dataclass(slots=True)
class Counts:
    """Files changed, lines added, lines removed."""

    files: int = 0
    insertions: int = 0
    deletions: int = 0


def patches(repo: pygit2.Repository, old: Any, new: Any, counts: Counts) -> Iterator[bytes]:
    """The patch from tree `old` to tree `new`, one file at a time; counts along."""
    for patch in repo.diff(old, new, flags=DiffOption.SHOW_BINARY):
        _, added, removed = patch.line_stats
        counts.files += 1
        counts.insertions += added
        counts.deletions += removed
        data = patch.data
        body = _BODY.search(data)
        yield header(patch.delta, body is not None and body[0].startswith(b"@@")) + (
            data[body.start() :] if body else b""
        )


def header(delta: Any, has_lines: bool) -> bytes:
    """The lines before a file's hunks."""
    old, new = delta.old_file, delta.new_file
    before, after = quoted(b"a/" + old.raw_path), quoted(b"b/" + new.raw_path)
    lines = [b"diff --git %s %s" % (before, after)]
    index = b"index %s..%s" % (str(old.id).encode(), str(new.id).encode())
    if delta.status == DeltaStatus.ADDED:
        lines.append(b"new file mode %06o" % new.mode)
        before = b"/dev/null"
    elif delta.status == DeltaStatus.DELETED:
        lines.append(b"deleted file mode %06o" % old.mode)
        after = b"/dev/null"
    elif old.mode != new.mode:
        lines += [b"old mode %06o" % old.mode, b"new mode %06o" % new.mode]
    else:
        index += b" %06o" % new.mode
    if old.id != new.id:
        lines.append(index)
    if has_lines:
        lines += [b"--- " + before, b"+++ " + after]
    return b"\n".join(lines) + b"\n"


def quoted(path: bytes) -> bytes:
    """A path as git quotes it, in octal where it has to."""
    if _PLAIN.match(path):
        return path
    return (
        b'"'
        + b"".join(_ESCAPES.get(byte) or (b"%c" % byte if 32 <= byte < 127 else b"\\%03o" % byte) for byte in path)
        + b'"'
    )
