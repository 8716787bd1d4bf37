"""What the API takes about networks: the setting of each phase of a task, and changes of a running one."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from sandbox.core import network
from sandbox.core.network import MAX_RULES, Edited, NetworkSpec

type Rules = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(max_length=MAX_RULES)]
type Name = Annotated[str, Field(max_length=64)]
type Methods = Annotated[list[Name], Field(min_length=1, max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PhaseNetworkRequest(_Strict):
    """One phase's setting. Without access it is the phase's default, or limited where something is allowed.

    Rules are like `example.com`, `*.example.com`, `https://example.com/path/`, `tcp://example.com:22`, `deny example.com`;
    methods null means every method.
    """

    access: Literal["off", "limited", "unrestricted"] | None = None
    preset: Name = "none"
    rules: Rules = []
    methods: Methods | None = None

    @field_validator("rules")
    @classmethod
    def _spelling(cls, rules: list[str]) -> list[str]:
        return list(network.canonical(rules))


class NetworkLayer(_Strict):
    """What each phase may reach, as far as one layer of settings says so."""

    setup: PhaseNetworkRequest = PhaseNetworkRequest()
    maintenance: PhaseNetworkRequest | None = None
    agent: PhaseNetworkRequest = PhaseNetworkRequest()


class NetworkRequest(NetworkLayer):
    """What each phase may reach. Setup is unrestricted by default, maintenance like setup, the agent off."""

    _specs: dict[str, NetworkSpec] = PrivateAttr()

    @model_validator(mode="after")
    def _read(self) -> NetworkRequest:
        setup = _spec("setup", self.setup)
        maintenance = _spec("maintenance", self.maintenance) if self.maintenance else setup
        self._specs = {"setup": setup, "maintenance": maintenance, "agent": _spec("agent", self.agent)}
        return self

    def to_specs(self) -> dict[str, NetworkSpec]:
        """The frozen value of each phase."""
        return self._specs


def _spec(phase: str, asked: PhaseNetworkRequest) -> NetworkSpec:
    if not asked.model_fields_set:
        return network.DEFAULTS[phase]
    try:
        return network.make(phase, asked.model_dump())
    except ValueError as error:
        raise ValueError(f"{phase}: {error}") from error


class RulesRequest(_Strict):
    """Rules to add to what the agent of a running task may reach; a rule that begins with `deny` takes away."""

    rules: Annotated[Rules, Field(min_length=1)]

    def edit(self, spec: NetworkSpec) -> Edited:
        """What becomes of a setting. Raises ValueError."""
        return network.with_rules(spec, self.rules)


class OptionsRequest(_Strict):
    """Another setting for the agent of a running task: what is not named stays; `rules` replaces all rules."""

    access: Literal["off", "limited", "unrestricted"] | None = None
    preset: Name | None = None
    rules: Rules = []
    methods: Methods | None = None

    def edit(self, spec: NetworkSpec) -> Edited:
        """What becomes of a setting. Raises ValueError."""
        given: dict[str, Any] = self.model_dump(include=self.model_fields_set)
        if not given:
            raise ValueError("nothing is to be set: name access, preset, rules or methods")
        return network.with_options(spec, given)
