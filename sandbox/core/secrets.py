"""Secrets: kept sealed, shown never, and handed out to the phases that they are granted to.

Brokered ones, which are for hosts: a task's processes get a placeholder in the variable of the secret's name; the value goes
to the filter alone, which puts it in where it was made for. Plain ones: setup and maintenance have the value in the variable,
the agent never; what they print of it is hidden (hiding.py), what they leave of it is refused (phases.py). Nothing here writes a
value into a message, an answer or the journal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from proxy.credentials import BadCredential, parse_credential, stands_for
from proxy.placeholders import make_placeholder
from sandbox.core.errors import BadRequest, Conflict, NotFound
from sandbox.core.hiding import LEAST
from sandbox.core.model import Secret, now
from sandbox.core.network import PHASES
from sandbox.core.sealing import Sealer
from sandbox.core.store import Store

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
PLAIN_PHASES: Final = ("setup", "maintenance")
_MOST: Final = 64 << 10  # bytes: with its name, what Linux takes as one variable
_MOST_SECRETS: Final = 1000  # of one user
_NONE: Final[Mapping[str, int]] = MappingProxyType({})
_REMEDY: Final = "hutch secret set --help tells what can be brokered"


@dataclass(frozen=True)
class Grant:
    """Where a value may be used: hosts with paths, the header or None for any, header, query and body, and the phases.

    Without hosts the secret is a plain one.
    """

    hosts: tuple[str, ...]
    header: str | None = None
    places: tuple[str, ...] = ("header",)
    phases: tuple[str, ...] = PHASES


class Secrets:
    """The secrets of one user, among them those that others lent him: with `lent`, by their names, whose they are."""

    def __init__(self, store: Store, sealer: Sealer, owner: int = 0, lent: Mapping[str, int] = _NONE) -> None:
        self._store = store
        self._sealer = sealer
        self._owner = owner
        self._lent = lent

    def of(self, owner: int, lent: Mapping[str, int] = _NONE) -> Secrets:
        """Those of another user (a uid)."""
        return Secrets(self._store, self._sealer, owner, lent)

    def set(self, name: str, value: str, grant: Grant) -> dict[str, Any]:
        """Make a secret, or replace it; as `shown` has it. Raises BadRequest with the reason, without the value."""
        previous = self._known(name)
        if previous is None and len(self._store.list_secrets(self._owner)) >= _MOST_SECRETS:
            raise Conflict(f"cannot keep more than {_MOST_SECRETS} secrets of one user", "hutch secret rm NAME")
        if grant.hosts:
            broker = _checked(name, lambda: _broker(name, value, _placeholder(previous, value), grant))
        else:
            _check_plain(name, value, grant)
            broker = {}
        created = previous.created if previous else now()
        sealed = self._sealer.seal(_label(self._owner, name), value)
        secret = Secret(self._owner, name, sealed, list(grant.phases), broker, created, now())
        self._store.put_secret(secret)
        return _shown(secret)

    def rotate(self, name: str, value: str) -> dict[str, Any]:
        """Give a secret another value; what it may be used for stays. Raises NotFound, BadRequest."""
        secret = self._find(name)
        if secret.broker:
            broker = {**secret.broker, "placeholder": _checked(name, lambda: _placeholder(secret, value))}
        else:
            _check_plain(name, value, Grant((), phases=tuple(secret.phases)))
            broker = {}
        secret = replace(
            secret, sealed=self._sealer.seal(_label(secret.owner, name), value), broker=broker, changed=now()
        )
        self._store.put_secret(secret)
        return _shown(secret)

    def remove(self, name: str) -> None:
        """Forget a secret. Raises NotFound."""
        found = self._find(name)
        self._store.remove_secret(found.owner, found.name)

    def shown(self) -> list[dict[str, Any]]:
        """All secrets, in the order of their names, as the API shows them."""
        return [_shown(secret) for secret in self._store.list_secrets(self._owner)]

    def check(self, names: Iterable[str]) -> None:
        """Raise BadRequest for a name that no secret has."""
        for name in names:
            if self._known(name) is None:
                lent = name in self._lent
                remedy = (
                    "the owner of the environment has to make it"
                    if lent
                    else f"make it: hutch secret set {name} --for HOST"
                )
                raise BadRequest(f"there is no secret {name!r}", remedy)

    def placeholders(self, names: Iterable[str], phase: str) -> dict[str, str]:
        """The variables of a phase that these secrets are given to. Raises NotFound for one that isn't there (any more)."""
        found = [self._find(name) for name in names]
        return {
            secret.name: secret.broker["placeholder"] for secret in found if secret.broker and phase in secret.phases
        }

    def plain(self, names: Iterable[str]) -> dict[str, dict[str, str]]:
        """The values of the plain ones among these, by phase and name. Raises NotFound."""
        found = [secret for name in names if not (secret := self._find(name)).broker]
        values = {secret.name: self._open(secret) for secret in found}
        return {phase: {one.name: values[one.name] for one in found if phase in one.phases} for phase in PLAIN_PHASES}

    def fingerprint(self, values: Mapping[str, str]) -> str:
        """Stands for values in a cache key: who sees it can't try values out."""
        return self._sealer.fingerprint("\0".join(f"{name}={value}" for name, value in sorted(values.items())))

    def granted(self, names: Iterable[str], phase: str) -> list[dict[str, Any]]:
        """What the filter is told for such a phase, with the values. One that isn't there any more is left out."""
        found = [secret for name in names if (secret := self._known(name)) is not None]
        return [self._wire(secret) for secret in found if secret.broker and phase in secret.phases]

    def _wire(self, secret: Secret) -> dict[str, Any]:
        return {"name": secret.name, "value": self._open(secret), **secret.broker}

    def _open(self, secret: Secret) -> str:
        return self._sealer.open(_label(secret.owner, secret.name), secret.sealed)

    def _known(self, name: str) -> Secret | None:
        return self._store.secret(self._lent.get(name, self._owner), name)

    def _find(self, name: str) -> Secret:
        secret = self._known(name)
        if secret is None:
            raise NotFound(f"there is no secret {name!r}", "hutch secret ls shows what there is")
        return secret


def _label(owner: int, name: str) -> str:
    """What a value is sealed for: under another one it can't be opened."""
    return f"{owner}:{name}" if owner else name


def _broker(name: str, value: str, placeholder: str, grant: Grant) -> dict[str, Any]:
    """How it may be used, in the filter's words. Raises BadCredential."""
    asked = {"placeholder": placeholder, "for": list(grant.hosts), "header": grant.header, "places": list(grant.places)}
    credential = parse_credential({"name": name, "value": value, **asked})
    return {**asked, "for": list(dict.fromkeys(target.host + target.path for target in credential.targets))}


def _placeholder(previous: Secret | None, value: str) -> str:
    """The one that stood for the former value if it may stand for this: snapshots may hold it."""
    known = str(previous.broker["placeholder"]) if previous else ""
    fresh = make_placeholder(value)  # also checks the value
    return known if stands_for(known, value) else fresh


def _checked[T](name: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except BadCredential as error:
        raise BadRequest(f"cannot keep the secret {name}: {error}", _REMEDY) from error


def _check_plain(name: str, value: str, grant: Grant) -> None:
    """Raise BadRequest, which doesn't show the value, for what can't be a plain secret."""
    if not _NAME.fullmatch(name):
        raise BadRequest(
            f"cannot keep the secret {name!r}: it is no name of a variable", "letters, digits, underscores"
        )
    if not len(value) >= LEAST or "\0" in value:
        raise BadRequest(
            f"cannot keep the secret {name}: it needs {LEAST} characters or more, and no null byte",
            "shorter ones occur by chance, and could not be hidden",
        )
    if len(value.encode("utf-8", "surrogatepass")) > _MOST:
        raise BadRequest(
            f"cannot keep the secret {name}: it is longer than {_MOST >> 10} KiB, which is more than a variable should hold",
            "keep what is large where setup can fetch it, and the key to it here",
        )
    if set(grant.phases) - set(PLAIN_PHASES):
        raise BadRequest(
            f"cannot give the plain secret {name} to the agent",
            "give it hosts: hutch secret set NAME --for HOST brokers it",
        )
    if grant.header is not None or grant.places != ("header",):
        raise BadRequest(f"cannot keep the secret {name}: a header or places need hosts", _REMEDY)


def _shown(secret: Secret) -> dict[str, Any]:
    return {
        "name": secret.name,
        **(secret.broker or {"placeholder": None, "for": [], "header": None, "places": []}),
        "phases": secret.phases,
        "created": secret.created,
        "changed": secret.changed,
    }
