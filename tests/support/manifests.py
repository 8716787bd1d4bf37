"""What the git job would find in a repository of these files, without a repository: for tables of plans."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from rootfs.manifests import facts, wanted
from sandbox.core.autosetup.detect import detect
from sandbox.core.autosetup.plan import Plan


def found(files: Mapping[str, str], made: Iterable[str] = ()) -> dict[str, Any]:
    listed = []
    for path, text in files.items():
        data = text.encode()
        if wanted(_kind(path)) is not None:
            identity = hashlib.sha1(data, usedforsecurity=False).hexdigest()
            listed.append({"path": path, "id": identity, "facts": facts(_kind(path), data)})
    return {"files": listed, "made": list(made), "cut": False}


def plan(files: Mapping[str, str], made: Iterable[str] = ()) -> Plan:
    return detect(found(files, made))


def _kind(path: str) -> str:
    folder, _, name = path.rpartition("/")
    return "requirements.txt" if folder.rpartition("/")[2] == "requirements" else name
