"""What a method restriction has to know of a request: what it really does, whatever its method says.

Pure. It must not trust one place alone: the method is in the request line, in override fields, in what a WebSocket or a
body carries. A restriction that looks at the request line only restricts nobody.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from urllib.parse import unquote

from proxy.paths import oddity

READING = frozenset(("GET", "HEAD", "OPTIONS"))
WITHOUT_BODY = READING | {"TRACE"}
GIT_FETCH_TYPE = "application/x-git-upload-pack-request"
_GIT_FETCH, _GIT_PUSH = "git-upload-pack", "git-receive-pack"
_HARMLESS_UPGRADES = frozenset(("h2c", ""))  # offered with every plain request by some clients, and taken off
# X-HTTP-Method-Override, X-HTTP-Method, X-Method-Override and their relatives; not the fields of CORS.
_OVERRIDING_FIELD = re.compile(r"(?=x-|.*override).*\b(http)?(method|verb)(override)?\b.*")
# X-Original-URL, X-Rewrite-URL, X-Forwarded-Prefix and their relatives.
_REDIRECTING_FIELD = re.compile(r"x-.*\b(url|uri|path|prefix|rewrite)\b.*")
_OVERRIDING_PARAMETER = re.compile(r"(?:^|[&;])(?:_|\$|x[-_])[^=&;]*(?:method|verb)", re.IGNORECASE)


@dataclass(frozen=True)
class Request:
    """The head of one request. Its body counts as announced by content-length or transfer-encoding; one that HTTP/2
    carries without either must not be sent on by the caller."""

    method: str
    path: str
    query: str
    as_sent: Sequence[tuple[str, str]]

    @classmethod
    def read(cls, method: str, target: str, fields: Sequence[tuple[str, str]]) -> "Request":
        path, _, query = target.partition("?")
        return cls(method, path, query, fields)

    @cached_property
    def fields(self) -> list[tuple[str, str]]:
        """Names as a server may read them."""
        return [(_normal(name), value) for name, value in self.as_sent]

    @cached_property
    def trick(self) -> str | None:
        """How this request could do what its method doesn't show, or None."""
        if self.method.upper() == "CONNECT" or any(_upgrades(*field) for field in self.fields):
            return "a WebSocket or another upgrade carries what no method restriction sees"
        if overrides(name for name, _ in self.as_sent):
            return "a header field of the request overrides the method"
        if _OVERRIDING_PARAMETER.search(unquote(self.query)):
            return "a parameter in the query overrides the method"
        if self.method in WITHOUT_BODY and any(_announces_body(*field) for field in self.fields):
            return f"a {self.method} request has no body"
        return None

    def fetches_with_git(self) -> bool:
        """Is it the POST by which git fetches and clones, which changes nothing on the server?"""
        types = [value.strip().lower() for name, value in self.fields if name == "content-type"]
        return (
            self.method == "POST"
            and self.path.endswith(f"/{_GIT_FETCH}")
            and types == [GIT_FETCH_TYPE]
            # A server that takes off what follows these would have another path, to which POST may do anything.
            and not oddity(self.path)
            and not self.pushes_with_git()
            and not set(unquote(unquote(self.path))) & set("?#;")
        )

    def pushes_with_git(self) -> bool:
        """Is it part of a push, whose first step is a GET?"""
        return f"/{_GIT_PUSH}" in unquote(self.path) or _GIT_PUSH in unquote(self.query)


def _upgrades(name: str, value: str) -> bool:
    if name == "upgrade":
        return bool({offer.strip().lower() for offer in value.split(",")} - _HARMLESS_UPGRADES)
    return name == ":protocol" or name.startswith("sec-websocket-")


def overrides(names: Iterable[str]) -> bool:
    """Whether a server may take another method than the request's out of one of these header fields."""
    return any(_OVERRIDING_FIELD.fullmatch(name) for name in map(_normal, names) if "method" in name or "verb" in name)


def redirects(names: Iterable[str]) -> bool:
    """Whether a server may take another path than the request's out of one of these header fields."""
    return any(_REDIRECTING_FIELD.fullmatch(_normal(name)) for name in names)


def _normal(name: str) -> str:
    """In lower case, and with hyphens: gateways to CGI, WSGI and PHP make X_A and X-A the same variable."""
    return name.lower().replace("_", "-")


def _announces_body(name: str, value: str) -> bool:
    return name == "transfer-encoding" or (name == "content-length" and bool(value.strip().strip("0")))
