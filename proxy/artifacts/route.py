"""Which requests may be answered by the artifact cache, and what of them it gets to see.

Pure; the workers ask it, and the cache asks it again. What reaches the cache must neither hold anything of one tenant,
nor be able to shape what another gets in a way that isn't part of the cache's key.
"""

import re
from collections.abc import Collection, Iterable

Fields = Iterable[tuple[str, str]]

USER_AGENT = "Hutch/1 (artifact cache)"
MAX_VALUE = 1024

# The order in which they are sent. All of them but the first two are conditions, which the cache evaluates itself.
FORWARDED = ("accept", "accept-encoding", "cache-control", "if-modified-since", "if-none-match", "if-range", "range")
# What is left out without changing what an answer means. A request with any other field doesn't come here: it may be
# a credential under a name that nobody has heard of.
_LEFT_OUT = frozenset(
    "accept-charset accept-language cache-store connection dnt expires host keep-alive pragma priority proxy-connection"
    " referer te upgrade-insecure-requests user-agent"
    " npm-auth-type npm-command npm-in-ci npm-scope npm-session"
    " pacote-integrity pacote-pkg-id pacote-req-type pacote-version"
    " x-nuget-client-version x-nuget-session-id x-nuget-protocol-version".split()
)
_VALUE = re.compile(r"[\t -~]*")
_RANGE = re.compile(r"bytes=[0-9, -]{1,100}")
_DIRECTIVE = re.compile(r"no-cache|no-store|max-age=[0-9]{1,9}")
_ENCODING = re.compile(r"(?:gzip|x-gzip|\*)(?:;q=(?:1(?:\.0{0,3})?|0\.[0-9]{0,2}[1-9]0{0,2}))?")


def may_use(method: str, fields: Fields, host: str, hosts: Collection[str]) -> bool:
    """Whether this request, which the policy allows, may be answered by the cache. `hosts`: Policy.artifact_hosts.

    The caller knows beyond this that it carries no body and no placeholder of a credential.
    """
    if method != "GET" or host not in hosts:
        return False
    seen: set[str] = set()
    for name, value in fields:
        name = name.lower()
        if name in FORWARDED:
            if len(value) > MAX_VALUE or not _VALUE.fullmatch(value) or (name in seen and name != "cache-control"):
                return False
            seen.add(name)
        elif name not in _LEFT_OUT:
            return False
    return True


def forwarded(fields: Fields) -> list[tuple[str, str]]:
    """The fields that the cache gets, each once, normalised, in a fixed order; what it gets of itself is the same."""
    given: dict[str, str] = {}
    for name, value in fields:
        name, value = name.lower(), " ".join(value.split())
        if name in FORWARDED and len(value) <= MAX_VALUE and _VALUE.fullmatch(value):
            given[name] = f"{given[name]}, {value}" if name == "cache-control" and name in given else value
    given["accept"] = given.get("accept") or "*/*"
    given["accept-encoding"] = _encoding(given.get("accept-encoding", ""))
    given["cache-control"] = _directives(given.get("cache-control", ""))
    if not _RANGE.fullmatch(given.get("range", "")):
        given["range"] = given["if-range"] = ""
    return [(name, given[name]) for name in FORWARDED if given.get(name)] + [("user-agent", USER_AGENT)]


def _encoding(value: str) -> str:
    """One of two, so that there are never more than two versions of a body: what all servers and clients have."""
    return (
        "gzip" if any(_ENCODING.fullmatch(part.replace(" ", "")) for part in value.lower().split(",")) else "identity"
    )


def _directives(value: str) -> str:
    """Those that make an answer newer, or forbid to keep it; the others are a client's wishes that need no heeding."""
    parts = {part.strip() for part in value.lower().split(",")}
    return ", ".join(sorted(part for part in parts if _DIRECTIVE.fullmatch(part)))
