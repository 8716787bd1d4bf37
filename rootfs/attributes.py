"""What git would store for a file of the work tree: line endings and $Id$ as .gitattributes say. No filter is ever run.

Pure: must not read a file. Follows git's rules for `text`, `eol`, `crlf`, `ident` and macros; the sandbox's own
configuration (core.autocrlf) counts as unset, since it is the tenant's.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from rootfs.ignore import Pattern, parse_pattern

_LINE_MAX = 2048  # git ignores longer lines, too
_NAME = re.compile(rb"[A-Za-z0-9_.][-A-Za-z0-9_.]*\Z")
_IDENT = re.compile(rb"\$Id:[^$\n]*\$")
_NO_TEXT = bytes({*range(32)} - {8, 9, 10, 12, 13, 27} | {127})
_CRLF, _LONE_CR = re.compile(rb"\r\n"), re.compile(rb"\r(?!\n)")

State = bytes | bool | None  # a value, set, unset; None: expressly unspecified
Assignment = tuple[bytes, State]


@dataclass(frozen=True, slots=True)
class Rule:
    """One line: the assignments that it makes for the paths of its pattern."""

    pattern: Pattern
    assignments: tuple[Assignment, ...]


@dataclass(frozen=True, slots=True)
class AttributesFile:
    """One .gitattributes file; `macros` only count in the top directory's."""

    rules: tuple[Rule, ...]
    macros: Mapping[bytes, tuple[Assignment, ...]]


BINARY: Mapping[bytes, tuple[Assignment, ...]] = {b"binary": ((b"diff", False), (b"merge", False), (b"text", False))}


def parse(data: bytes) -> AttributesFile:
    """The rules and macros of a file. Lines that git would refuse are left out."""
    rules, macros = [], dict[bytes, tuple[Assignment, ...]]()
    for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n"):
        line = line.split(b"\0", 1)[0].lstrip(b" \t\r\n")
        if not line or line[:1] == b"#" or len(line) >= _LINE_MAX:
            continue
        name, rest = _first_word(line)
        if name.startswith(b"[attr]") and line[:1] != b'"':
            macro, states = name.removeprefix(b"[attr]"), rest.split()
            if not macro and states:  # `[attr] name`
                macro, states = states[0], states[1:]
            if _NAME.match(macro):
                macros[macro] = _assignments(states)
            continue
        pattern = parse_pattern(name)
        if pattern and not pattern.negative:
            rules.append(Rule(pattern, _assignments(rest.split())))
    return AttributesFile(tuple(rules), macros)


def _first_word(line: bytes) -> tuple[bytes, bytes]:
    """The pattern, which may be quoted as in C, and what follows it."""
    if line[:1] == b'"':
        quoted = re.match(rb'"((?:[^"\\]|\\.)*)"', line, re.DOTALL)
        if quoted:
            return _unquoted(quoted[1]), line[quoted.end() :]
    word = re.match(rb"[^ \t\r\n]+", line)
    return (word[0], line[word.end() :]) if word else (b"", b"")


_ESCAPES = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _unquoted(text: bytes) -> bytes:
    def one(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code, 8) & 255]) if len(code) == 3 else _ESCAPES.get(code, code)

    return re.sub(rb"\\([0-3][0-7]{2}|.)", one, text, flags=re.DOTALL)


def _assignments(words: Iterable[bytes]) -> tuple[Assignment, ...]:
    """What a line's words say; nothing at all if one of them is wrong, as in git."""
    found: list[Assignment] = []
    for word in words:
        name, equals, value = word.removeprefix(word[:1] if word[:1] in (b"-", b"!") else b"").partition(b"=")
        if not _NAME.match(name) or name.startswith(b"builtin_"):
            return ()
        if word[:1] in (b"-", b"!"):
            found.append((name, False if word[:1] == b"-" else None))
        else:
            found.append((name, value if equals else True))
    return tuple(found)


def attributes(
    path: bytes, files: Sequence[tuple[int, AttributesFile]], macros: Mapping[bytes, tuple[Assignment, ...]]
) -> dict[bytes, State]:
    """The attributes of the file `path`. `files`: from the nearest directory up, each with the length of its
    directory's path and slash. The first that assigns an attribute wins; within a file, the last line."""
    found: dict[bytes, State] = {}
    name = path.rpartition(b"/")[2]
    for length, file in files:
        for rule in reversed(file.rules):
            if rule.pattern.matches(path[length:], name, False):
                _fill(found, rule.assignments, macros)
    return found


def _fill(
    found: dict[bytes, State], assignments: Sequence[Assignment], macros: Mapping[bytes, tuple[Assignment, ...]]
) -> None:
    waiting = list(assignments)
    while waiting:
        name, state = waiting.pop()
        if name in found:
            continue
        found[name] = state
        if state is True and name in macros:
            waiting += macros[name]


def stored(data: bytes, states: Mapping[bytes, State], base: Callable[[], bytes | None]) -> bytes:
    """What git would put into the object store for a work-tree file with content `data`.

    `base` gives the content that is stored now, asked only where git would look: guessed text keeps its CRLFs once
    they are in the repository.
    """
    if b"\r\n" in data:
        data = _without_crlf(data, _text_action(states), base)
    if states.get(b"ident") is True and b"$Id:" in data:
        data = _IDENT.sub(b"$Id$", data)
    return data


def _text_action(states: Mapping[bytes, State]) -> str:
    """'text', 'auto' or 'binary', as git's convert_attrs."""
    action = _checked(states.get(b"text")) or _checked(states.get(b"crlf"))
    if action == "binary":
        return "binary"
    if states.get(b"eol") in (b"lf", b"crlf"):
        return "auto" if action == "auto" else "text"
    return action or "binary"


def _checked(state: State) -> str | None:
    if state is True or state == b"input":
        return "text"
    return "binary" if state is False else "auto" if state == b"auto" else None


def _without_crlf(data: bytes, action: str, base: Callable[[], bytes | None]) -> bytes:
    if action == "binary":
        return data
    if action == "auto":
        if _looks_binary(data):
            return data
        former = base()
        if former and b"\r\n" in former and not _looks_binary(former):
            return data
    return data.replace(b"\r\n", b"\n")


def _looks_binary(data: bytes) -> bool:
    """Git's guess: a NUL, a CR without LF, or more than one in 128 characters that no text has."""
    if b"\0" in data or _LONE_CR.search(data):
        return True
    strange = len(data) - len(data.translate(None, _NO_TEXT)) - (data[-1:] == b"\x1a")
    line_ends = data.count(b"\n") + data.count(b"\r")
    return (len(data) - line_ends - strange - (data[-1:] == b"\x1a")) >> 7 < strange
