"""Puts brokered credentials in place of their placeholders, in requests on their way out.

Pure. Only towards the credential's own hosts and paths, only over TLS, only in the places it was made for. Nothing is
added to a request that holds no placeholder: the placeholder is how a program inside says where the value belongs.
"""

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from proxy.credentials import NEVER_IN, Credential
from proxy.replacing import Replacer
from proxy.restrict import redirects

type Fields = Sequence[tuple[bytes, bytes]]

_BASIC = re.compile(rb"(basic +)([A-Za-z0-9+/]+)(={0,2}) *", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Inserted:
    """A request's head as it goes out. Not for any record: it holds the values."""

    target: str = field(repr=False)
    fields: Fields = field(repr=False)


def insert(credentials: Iterable[Credential], host: str, tls: bool, target: str, fields: Fields) -> Inserted:
    """The head of a request for `target` (origin form) of `host` (a canonical name), with the values in it."""
    for credential in _granted(credentials, host, tls, target, fields):
        fields = [(name, _in_field(credential, name, value)) for name, value in fields]
        target = _in_query(credential, target)
    return Inserted(target, fields)


class BodyInserter(Replacer):
    """The same for the body of one request, in pieces; its length stays the same. What is compressed is not looked into."""

    def __init__(
        self, credentials: Iterable[Credential], host: str, tls: bool, target: str, fields: Fields = ()
    ) -> None:
        self._granted = [it for it in _granted(credentials, host, tls, target, fields) if "body" in it.places]
        super().__init__({key: value for it in self._granted for key, value in it.inserts.items()})

    @property
    def needed(self) -> bool:
        """Whether any credential may stand in this body."""
        return bool(self._granted)


def _granted(credentials: Iterable[Credential], host: str, tls: bool, target: str, fields: Fields) -> list[Credential]:
    """Those that this request may get; none for a path where a field may lead to another one."""
    path, astray = target.partition("?")[0], redirects(name.decode("latin-1") for name, _ in fields)
    return [it for it in credentials if tls and it.is_for(host, path) and not (astray and it.minds_the_path(host))]


def _in_field(credential: Credential, name: bytes, value: bytes) -> bytes:
    field, header = name.decode("latin-1").lower(), credential.header
    if "header" not in credential.places or field in NEVER_IN or (header is not None and header.field != field):
        return value
    replaced = _in_text(credential, value)
    if replaced == value and field == "authorization":
        return _in_basic(credential, value)
    return replaced


def _in_text(credential: Credential, value: bytes) -> bytes:
    header, inserts = credential.header, credential.inserts
    if not any(key in value for key in inserts):
        return value
    if header is None:
        return Replacer(inserts).whole(value)
    # Words like Bearer are the same in upper and lower case; the placeholder is not.
    spellings = b"|".join(map(re.escape, sorted(inserts, key=len, reverse=True)))
    around = tuple(re.escape(text.encode()) for text in (header.before, header.after))
    pattern = rb"((?i:%b))(%b)((?i:%b))" % (around[0], spellings, around[1])
    return re.sub(pattern, lambda found: found[1] + inserts[found[2]] + found[3], value)


def _in_basic(credential: Credential, value: bytes) -> bytes:
    """Inside of the base64 of user:password, as git and curl send what stands in a URL or a credential helper."""
    if credential.header is not None and credential.header.before.strip().lower() not in ("", "basic"):
        return value
    if (basic := _BASIC.fullmatch(value)) is None:
        return value
    scheme, text, padding = basic.groups()
    try:
        decoded = b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return value
    replaced = Replacer(credential.inserts).whole(decoded)
    return value if replaced == decoded else scheme + b64encode(replaced).rstrip(b"=") + padding


def _in_query(credential: Credential, target: str) -> str:
    path, mark, query = target.partition("?")
    if "query" not in credential.places or not query:
        return target
    replaced = Replacer(credential.inserts).whole(query.encode("utf-8", "surrogateescape"))
    return path + mark + replaced.decode("utf-8", "surrogateescape")
