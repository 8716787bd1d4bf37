"""uv, poetry, pipenv and pip. Pure.

pip installs for the image's own Python, which is what `python` and `pytest` mean to the agent; the others make their virtual
environments, used by `uv run`, `poetry run`, `pipenv run`.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from typing import Final

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Folder, Tree

_CONVENTIONAL: Final = frozenset(("dev", "develop", "development", "test", "tests", "testing"))
_NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_REQUIREMENTS: Final = (
    "requirements.txt", "requirements-dev.txt", "requirements_dev.txt", "requirements-test.txt", "requirements_test.txt",
    "requirements-tests.txt", "dev-requirements.txt", "test-requirements.txt",
)  # fmt: skip
_IN_FOLDER: Final = ("tests.txt", "test.txt", "dev.txt")  # of a folder called requirements: the smallest that will do
_PACKAGE: Final = ("pyproject.toml", "setup.cfg", "setup.py")
_EGG_INFO: Final = ("**/*.egg-info/",)


def steps(tree: Tree) -> Iterator[Step | str]:
    """One step for each Python project that is no member of a workspace above it."""
    members: set[str] = set()
    for folder in tree.folders:
        if folder.path in members or folder.path.rpartition("/")[2] == "requirements":
            continue
        if folder.has("uv.lock"):
            mine = _members(tree, folder)
            members.update(member.path for member in mine)
            yield _uv(folder, mine)
        elif folder.has("poetry.lock") or folder.fact("pyproject.toml", "poetry"):
            yield _poetry(folder)
        elif folder.has("Pipfile"):
            yield _pipenv(folder)
        elif step := _pip(tree, folder):
            yield step


def _members(tree: Tree, folder: Folder) -> tuple[Folder, ...]:
    excluded = [f"!{pattern}" for pattern in folder.texts("pyproject.toml", "exclude")]
    return tuple(tree.members(folder, [*folder.texts("pyproject.toml", "members"), *excluded]))


def _uv(folder: Folder, members: tuple[Folder, ...]) -> Step:
    words = ["uv", "sync", "--frozen"]
    words += ["--all-packages"] if members else []
    words += _options("--extra", folder.texts("pyproject.toml", "extras"))
    words += _options("--group", [name for name in folder.texts("pyproject.toml", "groups") if name != "dev"])
    return Step(
        folder, shlex.join(words), "uv.lock", (shlex.join(words),), ("hutch_python", "hutch_pip_tool uv"),
        ("uv.lock", *_PACKAGE), (".venv/", *_EGG_INFO), members=members,
    )  # fmt: skip


def _poetry(folder: Folder) -> Step:
    locked = folder.has("poetry.lock")
    words = ["poetry", "sync" if locked else "install", "--no-interaction"]
    words += _options("--extras", folder.texts("pyproject.toml", "extras"))
    words += _options("--with", folder.texts("pyproject.toml", "groups"))
    drop = () if locked else ("hutch_drop poetry.lock",)
    return Step(
        folder, f"poetry {'sync' if locked else 'install without a lock file'}", "poetry.lock" if locked else "pyproject.toml",
        (shlex.join(words), *drop), ("hutch_pip_tool poetry",),
        ("pyproject.toml", "poetry.lock", "poetry.toml"), (".venv/", *_EGG_INFO),
    )  # fmt: skip


def _pipenv(folder: Folder) -> Step:
    locked = folder.has("Pipfile.lock")
    command = "pipenv sync --dev" if locked else "pipenv install --dev --skip-lock"
    drop = () if locked else ("hutch_drop Pipfile.lock",)
    return Step(
        folder, command, "Pipfile.lock" if locked else "Pipfile", (command, *drop), ("hutch_pip_tool pipenv",),
        ("Pipfile", "Pipfile.lock"), (".venv/", *_EGG_INFO),
    )  # fmt: skip


def _pip(tree: Tree, folder: Folder) -> Step | None:
    files, nested = _requirement_files(tree, folder)
    words = [word for file in (*files, *nested) for word in ("-r", file)]
    project = next((name for name in _PACKAGE if _is_package(folder, name)), None)
    extras = _conventional([*folder.texts("pyproject.toml", "extras"), *folder.texts("setup.cfg", "extras")])
    if project and (extras or not any(folder.fact(file, "editable") for file in files)):
        words += ["-e", f".[{','.join(extras)}]" if extras else "."]
    groups = _conventional(folder.texts("pyproject.toml", "groups"))
    if not words and not groups:
        return None
    commands = [shlex.join(["python3", "-m", "pip", "install", *words])] if words else []
    commands += [shlex.join(["hutch_pip_groups", *groups])] if groups else []
    title = " ".join(["pip install", *words, *(f"--group {group}" for group in groups)])
    beside = tuple(it for path, it in tree.below(folder) if path == "requirements") if nested else ()
    return Step(
        folder, title, (*files, *nested, project, "pyproject.toml")[0] or "pyproject.toml", tuple(commands), ("hutch_python",),
        (*files, *_PACKAGE, *_IN_FOLDER), _EGG_INFO, members=beside,
    )  # fmt: skip


def _requirement_files(tree: Tree, folder: Folder) -> tuple[list[str], list[str]]:
    """Those in the folder, and the one in its folder `requirements`."""
    files = [name for name in _REQUIREMENTS if folder.has(name)]
    beside = next((it for path, it in tree.below(folder) if path == "requirements"), None)
    nested = beside.first(*_IN_FOLDER) if beside and files in ([], ["requirements.txt"]) else None
    return files, [f"requirements/{nested}"] if nested else []


def _is_package(folder: Folder, name: str) -> bool:
    return folder.has(name) and (name == "setup.py" or bool(folder.fact(name, "package")))


def _conventional(names: Sequence[str]) -> list[str]:
    """Those whose names say that developing or testing needs them."""
    return list(dict.fromkeys(name for name in names if name.lower() in _CONVENTIONAL and _NAME.fullmatch(name)))


def _options(option: str, names: Sequence[str]) -> list[str]:
    return [word for name in _conventional(names) for word in (option, name)]
