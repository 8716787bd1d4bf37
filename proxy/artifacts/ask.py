"""What a worker asks the cache for, and what a server answers: values, parsed once at the edge.

Pure. A worker is no tenant, but it carries what a tenant wrote: whatever could be read in two ways is refused.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy.artifacts.route import FORWARDED, forwarded
from proxy.destination import Denied, authority, is_address
from proxy.names import BadName, canonical
from proxy.rules import DEFAULT_PORTS

UPSTREAM_HEADER = "x-hutch-upstream"
CACHE_HEADER = "x-hutch-cache"  # hit, miss, revalidated, bypass; none: no server has said this, but the cache
REASON_HEADER = "x-hutch-reason"  # with none: why
MAX_TARGET = 8_192

_TARGET = re.compile(r"/[!\"$-~]*")  # no fragment, nothing but visible ASCII
_UPSTREAM = re.compile(r"(https?)://([a-z0-9.-]+):([1-9][0-9]{0,4})")
_MAX_AGE = re.compile(r"max-age=([0-9]+)")
# Meant for one connection, or leading away from here: neither stored nor passed on.
_ONE_HOP = frozenset(
    "alt-svc connection keep-alive proxy-authenticate proxy-authentication-info proxy-authorization proxy-connection te"
    " trailer transfer-encoding upgrade".split()
)

Pairs = tuple[tuple[str, str], ...]


class BadAsk(ValueError):
    """A request that a worker should not have sent. The message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Ask:
    """`fields` is what `forwarded` made: lower case, each once, in a fixed order. `tenant`: whose share it is of what
    can be under way at once; it changes nothing else."""

    scheme: str
    host: str
    port: int
    target: str
    fields: Pairs
    tenant: str = ""

    @property
    def url(self) -> str:
        """The key: everything but the fields that a server may choose by."""
        return f"{self.scheme}://{self.host}:{self.port}{self.target}"

    @property
    def authority(self) -> str:
        return self.host if self.port == DEFAULT_PORTS[self.scheme] else f"{self.host}:{self.port}"

    def get(self, name: str) -> str:
        return next((value for key, value in self.fields if key == name), "")

    @property
    def shareable(self) -> bool:
        """Whether its answer may be kept for others, or be one that was. A query may hold somebody's key."""
        return "?" not in self.target and "no-store" not in self.get("cache-control")

    @property
    def max_age(self) -> int | None:
        """How many seconds old an answer may be; 0 if it has to be confirmed by the server."""
        directives = self.get("cache-control")
        match = _MAX_AGE.search(directives)
        return 0 if "no-cache" in directives else int(match[1]) if match else None

    def unconditional(self) -> Pairs:
        """Its fields without the conditions, for a whole answer."""
        return tuple((name, value) for name, value in self.fields if not name.startswith("if-") and name != "range")


@dataclass(frozen=True, slots=True)
class Head:
    """A server's status and end-to-end fields, names in lower case. `length` is None if it isn't known before the end."""

    status: int
    fields: Pairs
    length: int | None
    whole: bool  # whether a body that broke off can be told from a whole one

    def get(self, name: str) -> str | None:
        return joined(self.fields, name)


def joined(fields: Pairs, name: str) -> str | None:
    """The values of all fields of that name as one, which is what they mean (RFC 9110, 5.3)."""
    values = [value for key, value in fields if key == name]
    return ", ".join(values) if values else None


def can_be_asked(target: str) -> bool:
    """Whether the cache takes such a target; a server may take others, too."""
    return len(target) <= MAX_TARGET and _TARGET.fullmatch(target) is not None


def parse_ask(method: str, target: str, fields: Pairs, tenant: str = "") -> Ask:
    """A worker's request for a tenant; raises BadAsk."""
    if method != "GET":
        raise BadAsk("the cache takes GET only")
    if not can_be_asked(target):
        raise BadAsk("the request target is malformed")
    ours = [(name, value) for name, value in fields if name in ("host", UPSTREAM_HEADER)]
    named = dict(ours)
    if len(ours) != 2 or len(named) != 2:
        raise BadAsk(f"it needs Host and {UPSTREAM_HEADER}, each once")
    scheme, host, port = _upstream(named[UPSTREAM_HEADER])
    try:
        stated_host, stated_port = authority(named["host"])
    except Denied as denied:
        raise BadAsk(denied.reason) from denied
    if stated_host != host or stated_port not in (None, port):
        raise BadAsk(f"Host and {UPSTREAM_HEADER} name different servers")
    if strange := [name for name, _ in fields if name not in (*named, *FORWARDED, "user-agent", "connection")]:
        raise BadAsk(f"{strange[0]} should not have been sent here")
    return Ask(scheme, host, port, target, tuple(forwarded(fields)), tenant)


def _upstream(text: str) -> tuple[str, str, int]:
    match = _UPSTREAM.fullmatch(text)
    if match is None or (port := int(match[3])) > 65_535:
        raise BadAsk(f"{UPSTREAM_HEADER} is not scheme://host:port")
    try:
        if not is_address(match[2]) and canonical(match[2]) != match[2]:
            raise BadAsk(f"the host in {UPSTREAM_HEADER} is not in its canonical form")
    except BadName as error:
        raise BadAsk(f"the host in {UPSTREAM_HEADER} is malformed: {error}") from error
    return match[1], match[2], port


def parse_head(status: int, raw: Iterable[tuple[bytes, bytes]]) -> Head:
    """A server's head. What it says about framing has been understood by h11, and is only judged here."""
    fields = [(name.decode("latin-1").lower(), value.decode("latin-1")) for name, value in raw]
    lengths = {value for name, value in fields if name == "content-length"}
    chunked = any(name == "transfer-encoding" for name, _ in fields)
    listed = {part.strip().lower() for name, value in fields if name == "connection" for part in value.split(",")}
    kept = tuple(
        (name, value)
        for name, value in fields
        if name not in _ONE_HOP and name not in listed and not name.startswith("x-hutch-") and name != "content-length"
    )
    length = int(next(iter(lengths))) if len(lengths) == 1 and not chunked else None
    return Head(status, kept, length, whole=chunked != bool(lengths))


def file_name(url: str) -> str:
    """The last part of a URL's path."""
    return urlsplit(url).path.rpartition("/")[2]
