"""Brokered credentials: what a sandbox may use and never read. Inside, a placeholder stands for the value.

Pure. The value leaves this process only towards the credential's own hosts, over TLS, in the places it was made for; it
is in no repr, no error and no record. insertion.py puts it in, masking.py takes it out of what comes back.
"""

import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, get_args

from proxy.encodings import encoded, written
from proxy.names import BadName, canonical
from proxy.paths import oddity

Place = Literal["header", "query", "body"]
PLACES: frozenset[str] = frozenset(get_args(Place))

# Shorter values occur by chance, in bodies that would be changed and in tests that would find nothing.
LEAST, MOST = 12, 8192
LEAST_SECRET = 8  # letters and digits: what a placeholder can differ in

# Nobody authenticates with these fields, and servers write them into logs and statistics that others read.
NEVER_IN = frozenset(
    "host user-agent referer origin from via forwarded x-forwarded-for x-forwarded-host x-forwarded-proto x-original-url"
    " x-rewrite-url accept accept-language content-type access-control-request-headers access-control-request-method"
    " connection expect sec-websocket-extensions sec-websocket-key te trailer transfer-encoding upgrade".split()
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_PRINTABLE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_PATH = re.compile(r"/[!-~]*")
_FIELD = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class BadCredential(ValueError):
    """A credential that can't be brokered as described. The message says what to write instead, and never the value."""


@dataclass(frozen=True, slots=True)
class Target:
    """A host, exactly, and the beginning of a path, up to a slash; an empty path is all of it."""

    host: str
    path: str = ""

    def covers(self, host: str, path: str) -> bool:
        """Whether a request for `path` (without its query) of `host` is for this target."""
        if self.host != host or not self.path:
            return self.host == host
        below = path == self.path or path.startswith(self.path.removesuffix("/") + "/")
        return below and oddity(path) is None


@dataclass(frozen=True, slots=True)
class Header:
    """The one field that a value may stand in, and the text around it there."""

    field: str  # lower case
    before: str = ""
    after: str = ""


@dataclass(frozen=True)
class Credential:
    """`placeholder` has the length of `value` and differs from it in nothing but letters and digits."""

    name: str
    placeholder: str
    value: str = field(repr=False)
    targets: tuple[Target, ...]
    header: Header | None = None
    places: frozenset[Place] = frozenset({"header"})

    def covers(self, host: str) -> bool:
        """Whether some path of this host (a canonical name) may get it."""
        return any(target.host == host for target in self.targets)

    def is_for(self, host: str, path: str) -> bool:
        """Whether a request for `path` (without its query) of `host` may get it."""
        return any(target.covers(host, path) for target in self.targets)

    def minds_the_path(self, host: str) -> bool:
        """Whether it depends on a request's path if this host gets it."""
        return all(target.path for target in self.targets if target.host == host)

    @cached_property
    def inserts(self) -> dict[bytes, bytes]:
        """Every spelling of the placeholder in a request -> the value in the same spelling."""
        return written(self.placeholder, self.value)

    @cached_property
    def masks(self) -> dict[bytes, bytes]:
        """Every spelling of the value in a response -> what to show instead."""
        value, shown = self.value, self.placeholder
        found = encoded(value, shown)
        for case in (str.lower, str.upper):  # names of fields come back in lower case, those of variables in upper
            found |= written(case(value), case(shown))
        return found | written(value, shown)


def parse_credential(value: Any) -> Credential:
    """The credential in one decoded JSON object {"name", "placeholder", "value", "for", "header", "places"}."""
    known = {"name", "placeholder", "value", "for", "header", "places"}
    if not isinstance(value, dict) or not {"name", "placeholder", "value", "for"} <= set(value) <= known:
        raise BadCredential(f"a credential is an object of {', '.join(sorted(known))}")
    name, hosts, header = value["name"], value["for"], value.get("header")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BadCredential("a credential's name is the name of a variable: letters, digits and underscores")
    if not _is_texts(hosts) or not hosts:
        raise BadCredential(f"{name} needs the hosts that it is for")
    placeholder, secret = value["placeholder"], value["value"]
    if not isinstance(placeholder, str) or not isinstance(secret, str):
        raise BadCredential(f"{name} needs a value and a placeholder, both text")
    check_value(secret)
    if not stands_for(placeholder, secret):
        raise BadCredential(f"the placeholder of {name} does not have the length and shape of its value, or shows it")
    if header is not None and not isinstance(header, str):
        raise BadCredential(f"the header of {name} is no text")
    return Credential(
        name=name,
        placeholder=placeholder,
        value=secret,
        targets=tuple(parse_target(text) for text in hosts),
        header=None if header is None else parse_header(header),
        places=parse_places(value.get("places", ["header"])),
    )


def check_value(value: str) -> None:
    """Raise BadCredential, which doesn't show the value, for one that can't be brokered."""
    if len(value) > MOST:
        raise BadCredential(f"a value of more than {MOST} characters can't be brokered: no server takes it in a header")
    if len(value) < LEAST:
        raise BadCredential(f"a value of less than {LEAST} characters can't be brokered: it may occur by chance")
    if not _PRINTABLE.fullmatch(value):
        raise BadCredential(
            "a value with line ends, tabs, spaces around it or characters that aren't ASCII can't be brokered: "
            "no header can carry it as it is"
        )
    if sum(character.isalnum() for character in value) < LEAST_SECRET:
        raise BadCredential(
            f"a value with less than {LEAST_SECRET} letters and digits can't be brokered: only they differ"
        )


def stands_for(placeholder: str, value: str) -> bool:
    """Whether they have one length, the same characters but for letters and digits, and those differ widely."""
    if len(placeholder) != len(value) or not (placeholder + value).isascii():
        return False
    pairs = [(a, b) for a, b in zip(placeholder, value, strict=True) if a.isalnum() or b.isalnum()]
    others_stay = all(a == b or (a.isalnum() and b.isalnum()) for a, b in zip(placeholder, value, strict=True))
    return others_stay and 2 * sum(a != b for a, b in pairs) >= LEAST_SECRET


def parse_target(text: str) -> Target:
    """HOST or HOST/path; raises BadCredential."""
    host, slash, path = text.partition("/")
    try:
        name = canonical(host)
    except BadName as error:
        raise BadCredential(
            f"{text!r} is no host with a path (like api.example.com or git.example.com/team/): {error}"
        ) from error
    path = slash + path
    if path and (not _PATH.fullmatch(path) or oddity(path) or set(path) & set("?#*;")):
        raise BadCredential(f"{text!r}: the path must be plain: percent-encoded, without ?, #, *, ; and dot segments")
    return Target(name, "" if path == "/" else path)


def parse_header(text: str) -> Header:
    """'Name: text {} text' or just 'Name'; raises BadCredential."""
    name, colon, template = text.partition(":")
    template = template.strip() if colon else "{}"
    if not _FIELD.fullmatch(name) or template.count("{}") != 1 or not _PRINTABLE.fullmatch(template):
        raise BadCredential(f"{text!r} is no header with one {{}} for the value, like 'Authorization: Bearer {{}}'")
    if name.lower() in NEVER_IN:
        raise BadCredential(f"a credential is never given to a server as {name}: servers write that into logs")
    before, _, after = template.partition("{}")
    return Header(name.lower(), before, after)


def parse_places(value: Any) -> frozenset[Place]:
    """The places named in a list; raises BadCredential."""
    if not _is_texts(value) or not value or not set(value) <= PLACES:
        raise BadCredential("a credential's places are some of header, query and body")
    return frozenset(value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
