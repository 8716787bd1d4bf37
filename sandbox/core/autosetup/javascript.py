"""npm, yarn (classic and berry) and pnpm: the lock file decides, then `packageManager` of package.json. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Folder, Tree

_ASKED: Final = re.compile(r"(npm|pnpm|yarn)@(\d+(?:\.\d+){0,2}(?:-[0-9A-Za-z.-]{1,40})?)(?:\+.*)?")
_LOCKS: Final = {
    "pnpm": ("pnpm-lock.yaml",),
    "yarn": ("yarn.lock",),
    "npm": ("npm-shrinkwrap.json", "package-lock.json"),
}
_SETTINGS: Final = ("package.json", ".npmrc", ".yarnrc", ".yarnrc.yml", "pnpm-workspace.yaml")
# The pnpm that wrote a lock file of this version, and what else reads it without writing another.
_PNPM: Final = {"5.3": ("6", "6."), "5.4": ("7", "7."), "6.0": ("8", "8."), "6.1": ("8", "8.")}
_NEWEST_PNPM: Final = ("10", "10.", "9.")
# The yarn whose lock files have this version: any other one would write it anew.
_BERRY: Final = {"4": "3.0.2", "5": "3.1.1", "6": "3.8.7", "7": "4.13.0", "8": "4.13.0", "9": "4.14.1"}
_BERRY_MAKES: Final = (
    ".yarn/cache/", ".yarn/unplugged/", ".yarn/install-state.gz", ".yarn/build-state.yml", ".pnp.cjs", ".pnp.loader.mjs",
)  # fmt: skip


def steps(tree: Tree) -> Iterator[Step | str]:
    """One step for each package.json that is no member of a workspace above it; or why there is none."""
    members: set[str] = set()
    for folder in tree.folders:
        if not folder.has("package.json") or folder.path in members:
            continue
        manager = _manager(folder)
        source = "pnpm-workspace.yaml" if manager == "pnpm" else "package.json"
        mine = tree.members(folder, folder.texts(source, "workspaces"))
        members.update(member.path for member in mine)
        lock = folder.first(*_LOCKS[manager])
        if "node_modules" in folder.made:
            yield f"{folder.path or '.'}/node_modules is in the repository, nothing is installed there"
        elif lock or mine or folder.fact("package.json", "dependencies"):
            yield _step(folder, manager, lock, tuple(mine))


def _manager(folder: Folder) -> str:
    asked = _asked(folder)[0]
    locked = [manager for manager, locks in _LOCKS.items() if folder.has(*locks)]
    if asked and (asked in locked or not locked):
        return asked
    if locked:
        return locked[0]
    return "pnpm" if folder.has("pnpm-workspace.yaml") else "yarn" if folder.has(".yarnrc.yml") else "npm"


def _asked(folder: Folder) -> tuple[str, str]:
    match = _ASKED.fullmatch(folder.fact("package.json", "manager") or "")
    return (match[1], match[2]) if match else ("", "")


def _step(folder: Folder, manager: str, lock: str | None, members: tuple[Folder, ...]) -> Step:
    asked, version = _asked(folder)
    wanted = version if asked == manager else ""
    build = {"npm": _npm, "pnpm": _pnpm, "yarn": _berry if _is_berry(folder, wanted) else _classic}[manager]
    title, tools, commands, makes = build(folder, lock, wanted)
    reason = lock or "package.json"
    decided = (*_SETTINGS, *(_LOCKS[manager] if lock else ()))
    below = ("**/node_modules/",) if members else ()
    return Step(folder, title, reason, commands, tools, decided, ("node_modules/", *below, *makes), members=members)


type _Parts = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # title, tools, commands, what it makes


def _npm(folder: Folder, lock: str | None, version: str) -> _Parts:
    quiet = "--no-audit --no-fund --no-update-notifier"
    title = "npm ci" if lock else "npm install without a lock file"
    command = f"npm ci {quiet}" if lock else f"npm install --no-package-lock --no-save {quiet}"
    return title, ("hutch_node",), (command,), ()


def _pnpm(folder: Folder, lock: str | None, version: str) -> _Parts:
    words = (version,) if version else _PNPM.get(folder.fact("pnpm-lock.yaml", "version") or "", _NEWEST_PNPM)
    title = "pnpm install --frozen-lockfile" if lock else "pnpm install without a lock file"
    # Without it, a folder that is no member would install the workspace above it.
    alone = "" if folder.has("pnpm-workspace.yaml") else " --ignore-workspace"
    command = f"pnpm install {'--frozen-lockfile' if lock else '--no-lockfile'}{alone}"
    return title, (f"hutch_npm_tool pnpm pnpm {' '.join(words)}",), (command,), (".pnpm-store/",)


def _classic(folder: Folder, lock: str | None, version: str) -> _Parts:
    title = "yarn install --frozen-lockfile" if lock else "yarn install without a lock file"
    command = f"yarn install --non-interactive --no-progress {'--frozen-lockfile' if lock else '--no-lockfile'}"
    tool = f"hutch_npm_tool yarn yarn {version or '1.22.22 1.'}"
    return title, (tool,), ("hutch_yarn_registry", command), ()


def _berry(folder: Folder, lock: str | None, version: str) -> _Parts:
    fitting = _BERRY.get(folder.fact("yarn.lock", "version") or "", "4")
    tool = f"hutch_npm_tool yarn @yarnpkg/cli-dist {version or fitting}"
    own = () if folder.fact(".yarnrc.yml", "registry") else ("hutch_yarn_registry",)
    commands = ("export YARN_ENABLE_TELEMETRY=0", *own)
    if lock:
        return "yarn install --immutable", (tool,), (*commands, "yarn install --immutable"), _BERRY_MAKES
    # An empty lock file keeps yarn from looking for a project above.
    install = (": >yarn.lock", "yarn install --no-immutable", "hutch_drop yarn.lock")
    return "yarn install without a lock file", (tool,), (*commands, *install), _BERRY_MAKES


def _is_berry(folder: Folder, version: str) -> bool:
    if folder.has("yarn.lock") and not folder.fact("yarn.lock", "unreadable"):
        return bool(folder.fact("yarn.lock", "version"))
    return folder.has(".yarnrc.yml") or bool(version and not version.startswith(("0.", "1.")))
