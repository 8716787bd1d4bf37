"""Composer. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from sandbox.core.autosetup.plan import Step
from sandbox.core.autosetup.tree import Tree

_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(?:/[A-Za-z0-9_][A-Za-z0-9_.-]*)*")
_PHP: Final = "php-cli php-curl php-mbstring php-xml php-zip unzip"


def steps(tree: Tree) -> Iterator[Step | str]:
    """`composer install` for each composer.json, which obeys the lock file if there is one."""
    for folder in tree.folders:
        if not folder.has("composer.json"):
            continue
        given = folder.fact("composer.json", "vendor") or "vendor"
        vendor = given if _PLAIN.fullmatch(given) else "vendor"
        if vendor in folder.made:
            yield f"{folder.path or '.'}/{vendor} is in the repository, nothing is installed there"
            continue
        locked = folder.has("composer.lock")
        command = "COMPOSER_ALLOW_SUPERUSER=1 composer install --no-interaction --no-progress"
        drop = () if locked else ("hutch_drop composer.lock",)
        yield Step(
            folder, "composer install" if locked else "composer install without a lock file",
            "composer.lock" if locked else "composer.json", (command, *drop),
            (f"hutch_apt php {_PHP}", "hutch_apt composer composer"),
            ("composer.json", "composer.lock"), (f"{vendor}/",),
        )  # fmt: skip
