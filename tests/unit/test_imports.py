"""Rules of the tree as tests: who may import whom, one door per dangerous library, length of files, their first words.

Must not import what it checks: it reads source text only, so it needs neither root nor the dependencies.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("sandbox", "proxy", "rootfs")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
ALL = SOURCES + sorted((ROOT / "tests").rglob("*.py"))

# What may be imported only by which files (relative names; a directory stands for all files in it).
DOORS = {
    "ctypes": ("sandbox/inside/syscalls.py", "proxy/tidy.py"),
    "prctl": ("sandbox/inside/",),
    "pyroute2": ("sandbox/host/network.py",),
    "hishel": ("proxy/artifacts/rules.py",),
    "mitmproxy": ("proxy/inspect/",),
    "pygit2": ("rootfs/git",),
    "pyseccomp": ("sandbox/host/seccomp.py",),
}
# What a package may not import at all.
WALLS = {
    "proxy": ("sandbox", "rootfs"),
    "rootfs": ("sandbox", "proxy"),
}
# The spawner runs as root with every fork copying it: nothing but the standard library, prctl and itself.
INSIDE_MAY = ("sandbox.inside", "prctl")
MAX_LINES = 350


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """Each imported module with its line, relative ones made absolute; imports inside functions count too."""
    for node in ast.walk(ast.parse(path.read_text(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(path.relative_to(ROOT).with_suffix("").parts[: -node.level]) if node.level else ""
            module = ".".join(filter(None, (base, node.module or "")))
            yield module, node.lineno
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def starts_with(module: str, prefix: str) -> bool:
    return module == prefix or module.startswith(prefix + ".")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_each_dangerous_library_has_one_door(path: Path) -> None:
    for module, line in imports_of(path):
        for library, doors in DOORS.items():
            if starts_with(module, library):
                assert name_of(path).startswith(doors), f"{name_of(path)}:{line} imports {library}; only {doors} may"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_packages_keep_to_their_side_of_the_wall(path: Path) -> None:
    for module, line in imports_of(path):
        for forbidden in WALLS.get(name_of(path).split("/")[0], ()):
            assert not starts_with(module, forbidden), f"{name_of(path)}:{line} must not import {forbidden}"


@pytest.mark.parametrize("path", [p for p in SOURCES if name_of(p).startswith("sandbox/inside/")], ids=name_of)
def test_the_inside_imports_only_the_standard_library_and_prctl(path: Path) -> None:
    import sys

    for module, line in imports_of(path):
        known = module.split(".")[0] in sys.stdlib_module_names or any(starts_with(module, m) for m in INSIDE_MAY)
        assert known or module == "sandbox", f"{name_of(path)}:{line} imports {module}: not in the standard library"


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_no_file_is_too_long(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{name_of(path)} has {lines} lines: split it where a reader would"


@pytest.mark.parametrize("path", ALL, ids=name_of)
def test_a_file_starts_with_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    if not text.strip():
        return
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{name_of(path)} has no module docstring"
    assert text.startswith(('"""', 'r"""')), f"{name_of(path)} must start with its docstring"


def test_the_rules_can_fail(tmp_path: Path) -> None:
    """A positive control: the reader of imports sees every form of an import."""
    source = tmp_path / "x.py"
    source.write_text("import a.b\nfrom c import d\ndef f():\n    import ctypes\n")
    assert [module for module, _ in imports_of(source)] == ["a.b", "c", "c.d", "ctypes"]
