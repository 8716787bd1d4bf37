"""What manifests and lock files of package managers say that matters to an automatic setup: bytes → a few small facts.

Pure, and only for the git job: the bytes are a stranger's. Every text that leaves is short and printable, every list short; what
can't be read says {"unreadable": True}.

    package.json          manager, workspaces, dependencies     yarn.lock           version (of Berry's format)
    pnpm-workspace.yaml   workspaces                            pnpm-lock.yaml      version
    .yarnrc.yml           registry                              requirements*.txt   editable
    pyproject.toml        package, poetry, extras, groups, members, exclude
    setup.cfg             package, extras                       go.work             members
    Cargo.toml            members, exclude, workspace           pom.xml             members
    composer.json         vendor
"""

import configparser
import json
import re
import tomllib
from collections.abc import Callable, Iterable
from typing import Any

Facts = dict[str, Any]

_TEXT = 200  # characters of one text
_LIST = 100  # entries of one list
_LINE = 4000  # characters of one line of TOML
_DEPENDENCIES = ("dependencies", "devDependencies", "optionalDependencies")
_REQUIREMENTS = re.compile(r"(?:[a-z]+-)?requirements(?:[-_][a-z]+)?\.txt")


def facts(name: str, data: bytes | None) -> Facts:
    """The facts of a file called `name` that begins with `data`, None if that can't be had."""
    reader = _reader(name)
    if reader is None:
        return {}
    if data is None:
        return {"unreadable": True}
    try:
        said = reader(data.decode("utf-8", "replace").removeprefix("\ufeff"))
        return {key: value for key, value in said.items() if value}
    except (ValueError, RecursionError, configparser.Error):
        return {"unreadable": True}


def wanted(name: str) -> int | None:
    """How many bytes of a file called `name` have to be read, 0 if its id is enough; None for a file that doesn't matter."""
    if name in _HEADS:
        return 4 << 10
    if _reader(name) is not None:
        return (256 if name.endswith(".json") else 64) << 10
    return 0 if name in _BY_ID else None


def _reader(name: str) -> Callable[[str], Facts] | None:
    return _READERS.get(name) or (_requirements if _REQUIREMENTS.fullmatch(name) else None)


def _package_json(text: str) -> Facts:
    package = _table(json.loads(text))
    workspaces = package.get("workspaces")
    if isinstance(workspaces, dict):
        workspaces = workspaces.get("packages")
    manager = package.get("packageManager")
    return {
        "manager": manager if _is_text(manager) else None,
        "workspaces": _texts(workspaces),
        "dependencies": any(package.get(kind) for kind in _DEPENDENCIES),
    }


def _yarn_lock(text: str) -> Facts:
    return _found(r"^__metadata:\s*\n\s+version: *\"?(\d{1,3})\b", text)


def _pnpm_lock(text: str) -> Facts:
    return _found(r"^lockfileVersion: *['\"]?(\d{1,3}(?:\.\d{1,3})?)\b", text)


def _found(pattern: str, text: str) -> Facts:
    match = re.search(pattern, text, re.MULTILINE)
    return {"version": match[1]} if match else {}


def _pnpm_workspace(text: str) -> Facts:
    """The list below `packages:`, as people write it: one entry a line."""
    block = re.search(r"^packages:[ \t]*\r?\n((?:[ \t]*(?:-[^\n]*|#[^\n]*)?\n)*)", text + "\n", re.MULTILINE)
    entries = re.findall(r"^[ \t]*-[ \t]*['\"]?([^'\"#\r\n]+)", block[1], re.MULTILINE) if block else []
    return {"workspaces": _texts(entry.strip() for entry in entries)}


def _yarnrc(text: str) -> Facts:
    return {"registry": re.search(r"^npmRegistryServer:", text, re.MULTILINE) is not None}


def _pyproject(text: str) -> Facts:
    everything = _toml(text)
    project, tool = _table(everything.get("project")), _table(everything.get("tool"))
    poetry, workspace = _table(tool.get("poetry")), _table(_table(tool.get("uv")).get("workspace"))
    return {
        "package": "project" in everything or "build-system" in everything,
        "poetry": bool(poetry),
        "extras": _texts(_table(project.get("optional-dependencies"))) + _texts(_table(poetry.get("extras"))),
        "groups": _texts(_table(everything.get("dependency-groups"))),
        "members": _texts(workspace.get("members")),
        "exclude": _texts(workspace.get("exclude")),
    }


def _toml(text: str) -> dict[str, Any]:
    """A key `a.a.a…` takes time by the square of its length, which a line's end bounds."""
    if any(len(line) > _LINE for line in text.splitlines()):
        raise ValueError("a line is too long")
    return tomllib.loads(text)


def _setup_cfg(text: str) -> Facts:
    parser = configparser.RawConfigParser(strict=False)
    parser.read_string(text)
    extras = parser.options("options.extras_require") if parser.has_section("options.extras_require") else []
    return {"package": parser.has_section("metadata") or parser.has_section("options"), "extras": _texts(extras)}


def _requirements(text: str) -> Facts:
    return {"editable": re.search(r"^\s*(?:-e|--editable)[ =]\s*\.(?:\[|\s|$)", text, re.MULTILINE) is not None}


def _go_work(text: str) -> Facts:
    blocks = re.findall(r"^use\s*\(([^)]*)\)", text, re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()] + re.findall(
        r"^use\s+([^(\s]\S*)", text, re.MULTILINE
    )
    return {"members": _texts(line.partition("//")[0].strip().strip('"`') for line in lines)}


def _cargo(text: str) -> Facts:
    everything = _toml(text)
    workspace = _table(everything.get("workspace"))
    members, exclude = _texts(workspace.get("members")), _texts(workspace.get("exclude"))
    return {"workspace": "workspace" in everything, "members": members, "exclude": exclude}


def _composer(text: str) -> Facts:
    vendor = _table(_table(json.loads(text)).get("config")).get("vendor-dir")
    return {"vendor": vendor if _is_text(vendor) else None}


def _pom(text: str) -> Facts:
    return {"members": _texts(re.findall(r"<module>\s*([^<\s]+)\s*</module>", text))}


_READERS: dict[str, Callable[[str], Facts]] = {
    "package.json": _package_json,
    "yarn.lock": _yarn_lock,
    "pnpm-lock.yaml": _pnpm_lock,
    "pnpm-workspace.yaml": _pnpm_workspace,
    ".yarnrc.yml": _yarnrc,
    "pyproject.toml": _pyproject,
    "setup.cfg": _setup_cfg,
    "go.work": _go_work,
    "Cargo.toml": _cargo,
    "composer.json": _composer,
    "pom.xml": _pom,
}
_HEADS = ("yarn.lock", "pnpm-lock.yaml")  # what is said stands at the beginning
_BY_ID = frozenset(
    "package-lock.json npm-shrinkwrap.json .npmrc .yarnrc .pnp.cjs setup.py Pipfile Pipfile.lock poetry.lock poetry.toml uv.lock "
    "go.mod go.sum Cargo.lock Gemfile Gemfile.lock composer.lock build.gradle build.gradle.kts settings.gradle "
    "settings.gradle.kts gradle.lockfile gradlew mvnw".split()
)  # fmt: skip


def _table(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _texts(values: object) -> list[str]:
    """The first fit texts of what should be a list of them, or the names of a table."""
    if not isinstance(values, Iterable) or isinstance(values, str):
        return []
    found: list[str] = []
    for value in values:
        if _is_text(value):
            found.append(value)
        if len(found) == _LIST:
            break
    return found


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _TEXT and value.isprintable()
