"""From a request to what holds: its settings over those of a project over those of an environment, checked together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from sandbox.api.requests import TaskRequest
from sandbox.api.settings import MergedSettings, Project, SettingsRequest
from sandbox.core import cache, settings
from sandbox.core.access import User
from sandbox.core.environments import Environments, remote_key
from sandbox.core.errors import BadRequest
from sandbox.core.model import Environment, TaskSpec
from sandbox.core.network import PHASES
from sandbox.core.settings import Effective, Layer
from sandbox.host.cgroup_layout import Limits

REQUEST: Final = "the request"
PROJECT: Final = "hutch.toml"
_NETWORK: Final = ("access", "preset", "rules", "methods")
CHECKOUT: Final = "the checkout"


@dataclass(frozen=True)
class Resolved:
    """What holds, the environment that it is from, and the source of each value."""

    settings: MergedSettings
    effective: Effective
    environment: Environment | None
    user: User

    @property
    def source(self) -> str:
        """What the environment is called as a source."""
        return f"environment {self.environment.called(self.user.uid)}" if self.environment else ""

    def shown(self, default: Limits) -> dict[str, Any]:
        """Everything that would hold, defaults too; `sources` has the paths of what is none."""
        spec = self.settings.to_spec(default, (), None)
        values = {
            **{name: getattr(spec, name) for name in ("repo", "image", "setup", "maintenance", "timeout", "env")},
            "runtimes": dict(spec.runtimes),
            "secrets": list(spec.secrets),
            "secret_paths": list(spec.secret_paths),
            "network": {phase: asdict(setting) for phase, setting in spec.network.items()},
            "limits": {**asdict(spec.limits or default), "disk": spec.disk, "files": spec.files},
            "cache": {
                "lifetime": cache.LIFETIME if spec.cache_lifetime is None else spec.cache_lifetime,
                "trusted_refs": None if spec.trusted_refs is None else list(spec.trusted_refs),
            },
        }
        name = self.environment.called(self.user.uid) if self.environment else None
        return {"environment": name, "settings": values, "sources": self._sources()}

    def _sources(self) -> dict[str, str]:
        found = dict(self.effective.sources)
        if "cache.enabled" in found:
            found["cache.lifetime"] = found.pop("cache.enabled")
        for phase in PHASES:
            given = phase if phase in self.effective.values.get("network", {}) else "setup"
            mine = {name: found[path] for name in _NETWORK if (path := f"network.{given}.{name}") in found}
            if mine:  # what allows something makes the access `limited`
                mine.setdefault("access", next(iter(mine.values())))
            if phase != "agent" or given == "agent":
                found |= {f"network.{phase}.{name}": source for name, source in mine.items()}
        return found


def resolve(environments: Environments, user: User, body: SettingsRequest, to: str) -> Resolved:
    """Find the environment that the user wants to see or use, lay the layers over each other, check what they make. Raises
    BadRequest, NotFound, Forbidden, Conflict."""
    environment = _environment(environments, user, body, to)
    layers = []
    if environment is not None:
        layers.append(Layer(f"environment {environment.called(user.uid)}", environment.settings))
    if body.project is not None:
        _check_secrets(body, environment)
        _check_project_trusts(body.project)
        layers.append(Layer(PROJECT, body.project.given()))
    if body.checkout and (body.project or (environment and environment.remote in (None, remote_key(body.remote)))):
        layers.append(Layer(CHECKOUT, {"repo": body.checkout}))
    _check_request_trusts(body, environment)
    layers.append(Layer(REQUEST, body.given()))
    effective = settings.merge(layers)
    return Resolved(check(effective), effective, environment, user)


def task_spec(environments: Environments, user: User, body: TaskRequest, default: Limits) -> TaskSpec:
    """The task that a user's request asks for. Raises BadRequest, NotFound, Forbidden, Conflict."""
    found = resolve(environments, user, body, "use")
    if body.ref and not found.settings.repo:
        raise BadRequest('"ref" goes with a "repo"', "hutch run --repo URL --ref REF")
    spec = found.settings.to_spec(default, tuple(body.command), body.ref)
    spec = replace(spec, owner=user.uid, fresh=body.fresh)
    if found.environment is None:
        return spec
    # An environment gives its owner's secrets to those who may use it; all others are the user's own.
    lender, names = found.environment.owner, found.environment.settings.get("secrets", ())
    lent = {name: lender for name in names if lender != user.uid}
    # And its repository is the one that he may read.
    reader = lender if found.effective.sources.get("repo") == found.source and lender != user.uid else None
    return replace(spec, environment=found.environment.id, epoch=found.environment.epoch, lent=lent, reader=reader)


def check(effective: Effective) -> MergedSettings:
    """The settings, if they make sense together. Raises BadRequest that names the source of what doesn't."""
    try:
        return MergedSettings.model_validate(effective.values)
    except ValidationError as error:
        place, reason = first_error(error.errors())
        source = next((found for path, found in effective.sources.items() if f"{path}.".startswith(f"{place}.")), "")
        raise BadRequest(f"{place}: {reason}" if place else reason, f"set by {source}" if source else "") from error


def first_error(errors: Any) -> tuple[str, str]:
    """Where in what was given the first error is (`limits.memory`), and what it is."""
    first: Mapping[str, Any] = errors[0]
    place = ".".join(str(part) for part in first["loc"] if part != "body")
    if first["type"] == "extra_forbidden":
        return place, "there is no such setting"
    return place, str(first["msg"]).removeprefix("Value error, ")


def _environment(environments: Environments, user: User, body: SettingsRequest, to: str) -> Environment | None:
    if body.environment == "":  # none, whatever there is
        return None
    name = body.environment or (body.project.environment if body.project else None)
    if name is not None:
        return environments.get(user, name, to)
    for url in (body.remote, body.repo):
        if url and (found := environments.of_remote(user, url)) is not None:
            return found
    return None


def _check_secrets(body: SettingsRequest, environment: Environment | None) -> None:
    """A file in a repository may name the secrets that it wants; giving them is for the user. Raises BadRequest."""
    assert body.project is not None
    if body.project.secret_paths:
        raise BadRequest(
            "project.secret_paths: a project can't let secrets stay", "--allow-secret-in does, or an environment"
        )
    given = {*body.secrets, *(environment.settings.get("secrets", ()) if environment else ())}
    if refused := [name for name in body.project.secrets if name not in given]:
        raise BadRequest(
            f"project.secrets: the secret {refused[0]} is not given to this project",
            f"--secret {refused[0]} gives it, or an environment for its repository that names it",
        )


def _check_project_trusts(project: Project) -> None:
    """The file comes from the very ref that would be judged. Raises BadRequest."""
    if project.cache and project.cache.trusted_refs is not None:
        raise BadRequest(
            "project.cache.trusted_refs: a project can't say which of its refs are trusted",
            "an environment does: hutch env edit NAME --trusted-ref PATTERN",
        )


def _check_request_trusts(body: SettingsRequest, environment: Environment | None) -> None:
    """A task may trust fewer refs than its environment, never more. Raises BadRequest."""
    wanted = body.cache.trusted_refs if body.cache else None
    most = (environment.settings.get("cache") or {}).get("trusted_refs") if environment else None
    if environment and wanted is not None and most is not None and not set(wanted) <= set(most):
        raise BadRequest(
            f"cache.trusted_refs: the environment {environment.name} does not trust {min(set(wanted) - set(most))!r}",
            f"hutch env edit {environment.name} --trusted-ref PATTERN",
        )
