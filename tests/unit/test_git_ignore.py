"""The ignore rules against git itself: random patterns and paths, and patterns made to be slow.

Must not depend on the user's git configuration.
"""

import os
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rootfs.ignore import IgnoreFile, parse, parse_pattern

CLEAN = {
    "PATH": os.environ["PATH"],
    "HOME": "/nonexistent",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": "/dev/null",
}


def excluded(patterns: bytes, path: bytes) -> bool:
    """Ours: the path or a directory on its way is excluded by the one file at the top."""
    file = IgnoreFile(parse(patterns))
    parts = path.split(b"/")
    for depth in range(1, len(parts) + 1):
        here = b"/".join(parts[:depth])
        if file.verdict(here, parts[depth - 1], depth < len(parts)):
            return True
    return False


def excluded_by_git(repo: Path, patterns: bytes, paths: list[bytes]) -> set[bytes]:
    (repo / ".gitignore").write_bytes(patterns)
    command = ["git", "-C", str(repo), "check-ignore", "--no-index", "-z", "--stdin"]
    run = subprocess.run(
        command, input=b"\0".join(paths) + b"\0", capture_output=True, env=CLEAN, timeout=30, check=False
    )
    assert run.returncode in (0, 1), run.stderr
    return set(run.stdout.split(b"\0")) - {b""}


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ignore")
    subprocess.run(["git", "init", "-q", str(path)], env=CLEAN, check=True, timeout=30)
    return path


PLAIN = r"a b ab * ** *** ? / // **/ /** [ab] [!a] [^b] [a-c] []a] [[:alpha:]] [[:digit:]x] [ ] \ \* \a ! # - . [a"
ODD = r"[[:nope:]] [[:a] [a-] [-a] [\]] [a/b] \/ é $ ^ ( ) + | { [:] [c-a] [a\-c] [a-\c] [&&a] [~~a] [a||b] [--a]"
PIECES = st.sampled_from([*PLAIN.split(), *ODD.split(), " ", "\\ ", "\t"])
LINES = st.lists(PIECES, min_size=1, max_size=7).map("".join)
NAMES = st.text(alphabet="abc-.x1 []*\\é!#", min_size=1, max_size=4).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(NAMES, min_size=1, max_size=4).map("/".join).filter(lambda path: path != ".gitignore")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lines=st.lists(LINES, min_size=1, max_size=3),
    paths=st.lists(PATHS, min_size=1, max_size=40, unique=True),
    ending=st.sampled_from(["\n", "\r\n", ""]),
)
def test_the_rules_are_gits(repo: Path, lines: list[str], paths: list[str], ending: str) -> None:
    patterns = ("\n".join(lines) + ending).encode()
    asked = [path.encode() for path in paths]
    assert {path for path in asked if excluded(patterns, path)} == excluded_by_git(repo, patterns, asked)


@pytest.mark.parametrize(
    ("pattern", "path", "wanted"),
    [
        ("*.py[co]", "a/b/x.pyc", True),
        ("/build/", "build/x", True),
        ("/build/", "a/build/x", False),
        ("build/", "build", False),
        ("a/**/b", "a/b", True),
        ("a/**/b", "a/x/y/b", True),
        ("**/a*/c", "ax/ay/c", True),
        ("a**/b", "axx/b", True),
        ("doc/*.txt", "doc/sub/x.txt", False),
        ("**/x/**/y/*z", "p/x/q/y/r/x/y/az", True),
        ("*ab", "abab", True),
        ("*\n!keep", "keep", False),
        ("d\n!d/keep", "d/keep", True),
        ("\\!x", "!x", True),
        ("x\\ ", "x ", True),
    ],
)
def test_known_cases(repo: Path, pattern: str, path: str, wanted: bool) -> None:
    assert excluded(pattern.encode(), path.encode()) is wanted
    assert (path.encode() in excluded_by_git(repo, pattern.encode(), [path.encode()])) is wanted


@pytest.mark.parametrize(
    "pattern",
    [
        b"*a" * 100 + b"b",
        b"**/a" * 60 + b"/b",
        b"**/*a*a*a*a*a" * 20 + b"b",
        b"[a-z]*" * 100 + b"!",
        b"?*" * 200 + b"/x/**/" * 20 + b"q",
    ],
)
def test_hostile_patterns_take_no_time(pattern: bytes) -> None:
    parsed = parse_pattern(pattern)
    assert parsed
    long_name, deep_path = b"a" * 255, b"/".join([b"a"] * 1500)
    started = time.monotonic()
    assert not parsed.matches(long_name, long_name, False)
    assert not parsed.matches(deep_path, b"a", False)
    assert not parsed.matches(b"/".join([b"a" * 200] * 19), b"a" * 200, False)
    assert time.monotonic() - started < 2


def test_a_byte_that_is_no_utf8_is_a_byte() -> None:
    assert excluded(b"*\xff*\n", b"d/a\xffb")
    assert not excluded(b"\xff?\n", b"\xff")
