"""Small projects with real lock files, one for each package manager: tests/e2e/projects, made into one repository.

The lock files name no registry; where their format wants one, it is filled in here: the one that pip or npm asks.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from pip._internal.models.index import PyPI

from tests.support import repos

FILES = Path(__file__).parents[1] / "e2e" / "projects"


def monorepo(path: Path) -> Path:
    """A repository with one project in each folder, and nothing ignored."""
    return repos.make(
        path, {str(file.relative_to(FILES)): filled(file) for file in sorted(FILES.rglob("*")) if file.is_file()}
    )


def filled(file: Path) -> str:
    text = file.read_text()
    if "@NPM@" in text:
        said = subprocess.run(
            ["npm", "config", "get", "registry"], capture_output=True, text=True, check=True, timeout=60
        )
        text = text.replace("@NPM@", said.stdout.strip().rstrip("/"))
    return text.replace("@PYPI@", PyPI.simple_url.rstrip("/")).replace("@FILES@", f"https://{PyPI.file_storage_domain}")
