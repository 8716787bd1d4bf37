"""Environments: settings under a name, kept by the daemon, for the tasks of one repository or of none.

Settings are JSON that api/settings.py has checked; what becomes of them in a task is said in settings.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sandbox.core.errors import BadRequest, Conflict, NotFound
from sandbox.core.model import Environment, now
from sandbox.core.store import Store

_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_PORTS: Final = {"https": ":443", "http": ":80", "ssh": ":22", "git": ":9418"}
_SCP: Final = re.compile(r"(?:[^@/]+@)?(?P<host>[^:/]+):(?P<path>[^/].*)")


@dataclass(frozen=True)
class Environments:
    """The environments of this installation."""

    store: Store

    def create(self, name: str, settings: Mapping[str, Any]) -> Environment:
        """Keep settings under a new name. Raises BadRequest, Conflict."""
        if not _NAME.fullmatch(name):
            raise BadRequest(
                f"cannot use {name!r} as the name of an environment",
                "use at most 64 lower-case letters, digits, '.', '_' and '-', beginning with a letter or digit",
            )
        if self.store.environment(name) is not None:
            raise Conflict(f"there is an environment {name!r} already", f"hutch env edit {name}, or take another name")
        moment = now()
        environment = Environment(name, dict(settings), remote_key(settings.get("repo")), moment, moment)
        self.store.put_environment(environment)
        return environment

    def get(self, name: str) -> Environment:
        """The environment of this name. Raises NotFound."""
        found = self.store.environment(name)
        if found is None:
            raise NotFound(f"there is no environment {name!r}", "hutch env ls shows what there is")
        return found

    def replace(self, name: str, settings: Mapping[str, Any]) -> Environment:
        """Give an environment other settings: all of them. Raises NotFound."""
        changed = replace(
            self.get(name), settings=dict(settings), remote=remote_key(settings.get("repo")), changed=now()
        )
        self.store.put_environment(changed)
        return changed

    def remove(self, name: str) -> None:
        """Forget an environment; its snapshots stay until they expire. Raises NotFound."""
        self.store.remove_environment(self.get(name).name)

    def of_remote(self, url: str) -> Environment | None:
        """The one environment that is for this repository. Raises Conflict when there are several."""
        key = remote_key(url)
        found = [one for one in self.store.list_environments() if key is not None and one.remote == key]
        if len(found) > 1:
            names = ", ".join(one.name for one in found)
            raise Conflict(f"several environments are for {key}: {names}", f"say which: --env {found[0].name}")
        return found[0] if found else None


def remote_key(url: str | None) -> str | None:
    """What is the same for all spellings of one repository's URL: host/path; a local path as it is."""
    if not url:
        return None
    scheme, separator, rest = url.partition("://")
    if separator and scheme != "file":
        place, _, path = rest.partition("/")
        host = place.rpartition("@")[2].removesuffix(_PORTS.get(scheme, ":"))
    elif not separator and (scp := _SCP.fullmatch(url)) and not url.startswith("/"):
        host, path = scp["host"], scp["path"]
    else:
        return (rest or url).rstrip("/").removesuffix("/.git")
    return f"{host.lower()}/{path.strip('/').removesuffix('.git')}"
