"""Which paths .gitignore files exclude: git's own rules, on patterns that a hostile tenant may have written.

Pure: must not read a file. And must not backtrack: git's and libgit2's matchers take exponential time on some patterns,
Python's `re` would too, so a pattern becomes atomic groups only and costs at most pattern length times path length squared.

That works because between two stars everything has a fixed length: if the shortest text that a star can take lets the
next piece match, then whatever follows has the most room left, so no other length ever needs to be tried.
"""

import re
from dataclasses import dataclass
from functools import cached_property

_SPECIAL = frozenset(b"*?[\\")
_CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": rb"\t ",
    b"cntrl": rb"\x00-\x1f\x7f",
    b"digit": b"0-9",
    b"graph": rb"\x21-\x7e",
    b"lower": b"a-z",
    b"print": rb"\x20-\x7e",
    b"punct": rb"\x21-\x2f\x3a-\x40\x5b-\x60\x7b-\x7e",
    b"space": rb"\t-\r ",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}
_NEVER = rb"(?!)"
_LINE_MAX = 4096  # bytes of a pattern; no path is as long


@dataclass(frozen=True)
class Pattern:
    """One pattern of an ignore or attributes file, relative to the directory that the file stands in."""

    text: bytes
    negative: bool = False
    directory_only: bool = False
    by_name: bool = False  # no slash in it: compared with the last component

    def matches(self, path: bytes, name: bytes, is_directory: bool) -> bool:
        """`path` is relative to the file's directory, `name` its last component."""
        if self.directory_only and not is_directory:
            return False
        subject = name if self.by_name else path
        if self.literal is not None:
            return subject == self.literal
        if self.ending is not None:
            return subject.endswith(self.ending)
        return self._compiled.match(subject) is not None

    @cached_property
    def literal(self) -> bytes | None:
        return None if _SPECIAL.intersection(self._pattern) else self._pattern

    @cached_property
    def ending(self) -> bytes | None:
        if self.by_name and self.text[:1] == b"*" and not _SPECIAL.intersection(self.text[1:]):
            return self.text[1:]
        return None

    @property
    def _pattern(self) -> bytes:
        return self.text if self.by_name else self.text.removeprefix(b"/")

    @cached_property
    def _compiled(self) -> re.Pattern[bytes]:
        return re.compile(translate(self._pattern), re.DOTALL)


def parse_pattern(line: bytes) -> Pattern | None:
    """The pattern of one line that is neither empty nor a comment; None if it can match nothing."""
    negative = line[:1] == b"!"
    text = line[1:] if negative else line
    directory_only = text[-1:] == b"/"
    text = text[:-1] if directory_only else text
    return Pattern(text, negative, directory_only, b"/" not in text) if text else None


def parse(data: bytes) -> tuple[Pattern, ...]:
    """The patterns of a .gitignore file in order."""
    patterns = []
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        if line[:1] == b"#":
            continue
        line = _without_trailing_spaces(line.removesuffix(b"\r").split(b"\0", 1)[0])
        pattern = parse_pattern(line) if 0 < len(line) <= _LINE_MAX else None
        if pattern:
            patterns.append(pattern)
    return tuple(patterns)


def _without_trailing_spaces(line: bytes) -> bytes:
    """Git keeps a last space only behind a backslash."""
    cut = len(line.rstrip(b" "))
    backslashes = cut - len(line[:cut].rstrip(b"\\"))
    return line[: cut + 1] if backslashes % 2 and cut < len(line) else line[:cut]


class IgnoreFile:
    """The patterns of one file. The last one that matches decides."""

    def __init__(self, patterns: tuple[Pattern, ...]) -> None:
        self._names: dict[bytes, list[int]] = {}
        self._others: list[int] = []
        self._patterns = patterns
        for index, pattern in enumerate(patterns):
            if pattern.by_name and pattern.literal is not None:
                self._names.setdefault(pattern.literal, []).append(index)
            else:
                self._others.append(index)
        self._others.reverse()

    def verdict(self, path: bytes, name: bytes, is_directory: bool) -> bool | None:
        """True: excluded, False: expressly not, None: this file says nothing."""
        found = -1
        for index in reversed(self._names.get(name, ())):
            if is_directory or not self._patterns[index].directory_only:
                found = index
                break
        for index in self._others:
            if index < found:
                break
            if self._patterns[index].matches(path, name, is_directory):
                found = index
                break
        return None if found < 0 else not self._patterns[found].negative


def translate(pattern: bytes) -> bytes:
    """A regular expression for a wildmatch pattern, to be matched against a path or a name from its start."""
    prefix = 0
    while prefix < len(pattern) and pattern[prefix] not in _SPECIAL:
        prefix += 1
    # Git compares the part before the first special character by itself, then matches the rest as if the pattern began
    # there: so `a**/b` means `a`, then `**/b`.
    groups = _groups(pattern[prefix:])
    return _NEVER if groups is None else re.escape(pattern[:prefix]) + _join(groups)


_STAR, _DEEP, _REST = b"*", b"**/", b"**"  # within a component; any number of directories; everything


def _groups(pattern: bytes) -> list[bytes] | None:
    """Pieces of fixed length and the stars between them, in turn; None for a pattern that matches nothing."""
    groups: list[bytes] = [b""]
    at = 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            end = at
            while pattern[end : end + 1] == b"*":
                end += 1
            whole = end - at > 1 and (at == 0 or pattern[at - 1 : at] == b"/")
            follows = pattern[end : end + 2]
            if whole and not follows:
                groups += [_REST, b""]
            elif whole and follows[:1] == b"/":
                groups += [_DEEP, b""]
                end += 1
            elif whole and follows == b"\\/":
                # An escaped slash: everything up to some slash, which must be there.
                groups += [_REST, b""]
            else:
                groups += [_STAR, b""]
            at = end
            continue
        piece, at = _one(pattern, at)
        if piece is None:
            return None
        groups[-1] += piece
    return groups


def _one(pattern: bytes, at: int) -> tuple[bytes | None, int]:
    """The expression for the one character that pattern[at] begins to describe, and where the next one begins."""
    char = pattern[at : at + 1]
    if char == b"?":
        return b"[^/]", at + 1
    if char == b"\\":
        return (re.escape(pattern[at + 1 : at + 2]), at + 2) if at + 1 < len(pattern) else (None, at)
    if char == b"[":
        return _bracket(pattern, at + 1)
    return re.escape(char), at + 1


def _bracket(pattern: bytes, at: int) -> tuple[bytes | None, int]:
    """A bracket expression from behind its `[`. None if it is not closed or malformed: git lets it match nothing."""
    negative = pattern[at : at + 1] in (b"!", b"^")
    at += negative
    members, first, previous = [], True, -1
    while first or pattern[at : at + 1] != b"]":
        if at >= len(pattern):
            return None, at
        first = False
        if pattern[at : at + 1] == b"-" and previous >= 0 and pattern[at + 1 : at + 2] not in (b"", b"]"):
            at += 1 + (pattern[at + 1 : at + 2] == b"\\")
            if at >= len(pattern):
                return None, at
            if previous <= pattern[at]:
                members.append(b"\\x%02x-\\x%02x" % (previous, pattern[at]))
            previous, at = -1, at + 1
        elif pattern[at : at + 2] == b"[:":
            end = pattern.find(b"]", at + 2)
            if end < 0:
                return None, at
            if end - at < 3 or pattern[end - 1 : end] != b":":
                members.append(rb"\[")  # no class: the bracket stands for itself
                previous, at = ord("["), at + 1
                continue
            named = _CLASSES.get(pattern[at + 2 : end - 1])
            if named is None:
                return None, at
            members.append(named)
            previous, at = -1, end + 1
        else:
            at += pattern[at : at + 1] == b"\\"
            if at >= len(pattern):
                return None, at
            members.append(b"\\x%02x" % pattern[at])
            previous, at = pattern[at], at + 1
    inside = b"".join(members)
    if negative:
        return b"[^/" + inside + b"]", at + 1
    return (b"(?!/)[" + inside + b"]" if inside else _NEVER), at + 1


def _join(groups: list[bytes]) -> bytes:
    """Pieces and stars as an expression without backtracking, see the module's docstring.

    A star that crosses directories starts a new unit. From a given start a unit can end in one place only, since single stars
    stay within their directory; so the first start that lets a unit match is as good as any other.
    """
    units: list[tuple[bytes, list[bytes]]] = [(b"", [groups[0]])]
    for star, piece in zip(groups[1::2], groups[2::2], strict=True):
        if star == _STAR:
            units[-1][1].append(piece)
        else:
            units.append((_DEEPER[star], [piece]))
    last_start, last = units.pop()
    before = b"".join(b"(?>" + start + _unit(pieces) + b")" for start, pieces in units)
    final = last[0] if len(last) == 1 else _unit(last[:-1]) + b"[^/]*?" + last[-1]
    return before + last_start + final + rb"\Z"


_DEEPER = {_DEEP: b"(?:[^/]*+/)*?", _REST: b".*?"}


def _unit(pieces: list[bytes]) -> bytes:
    return pieces[0] + b"".join(b"(?>[^/]*?" + piece + b")" for piece in pieces[1:])
