"""Is this HTTP request for the host it was sent to? The rules for one request's head, each with its attack.

Pure, and without mitmproxy: inspect/hooks.py fills in a `Head` and obeys. It only looks at what can change the destination
or the framing; what the policy says about the name has been decided before.
"""

import re
from collections.abc import MutableMapping
from dataclasses import dataclass

from proxy.destination import Denied, authority
from proxy.records import printable

DENIED_HEADER = "x-hutch-denied"

_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_TARGET = re.compile(r"/[!-~\x80-\U0010ffff]*")


@dataclass(frozen=True, slots=True)
class Head:
    """`authority` is what the request target named: :authority in HTTP/2, the absolute form or CONNECT in HTTP/1."""

    http2: bool
    method: str
    authority: str
    target: str
    hosts: tuple[str, ...]  # all Host fields
    texts: tuple[bytes, ...] = ()  # names and values of all fields


def refusal(head: Head, name: str, port: int, *, absolute: bool = False) -> str | None:
    """Why this request must not be forwarded to (name, port), or None. `absolute`: it may name its host in the target,
    as requests to a proxy do."""
    if head.method.upper() == "CONNECT":
        return "CONNECT is refused: a tunnel would carry what nobody can check"
    if not _METHOD.fullmatch(head.method):
        return "the method is malformed"
    if head.authority and not head.http2 and not absolute:
        return "the request target names a host (absolute form): only the form that starts with / is forwarded"
    # A target with spaces or line ends becomes a second request when HTTP/2 is translated to HTTP/1.
    if not _TARGET.fullmatch(head.target) and not (head.target == "*" and head.method == "OPTIONS"):
        return "the request target is malformed"
    if any(map(_CONTROL.search, head.texts)):
        return "a header field contains a line end, a null byte or another control character"
    if len(head.hosts) > 1:
        return "there is more than one Host field"
    named = [*head.hosts, *filter(None, [head.authority])]
    if not named:
        return "the request names no host"
    # An empty Host counts: beside an :authority it would be what an HTTP/1 server gets.
    return next((why for host in named if (why := _differs(host, name, port))), None)


def _differs(text: str, name: str, port: int) -> str | None:
    try:
        host, named_port = authority(text)
    except Denied:
        host, named_port = "", None
    if host != name:
        return f"the request is for another host than the connection, which was made to {name}"
    if named_port is not None and named_port != port:
        return f"the request is for another port than the connection, which was made to port {port}"
    return None


def response(reason: str) -> bytes:
    """A whole HTTP/1.1 response that refuses, for connections that get no further."""
    text = printable(reason)
    return (
        f"HTTP/1.1 403 Forbidden\r\n{DENIED_HEADER}: {text}\r\ncontent-type: text/plain\r\n"
        f"content-length: {len(body(reason))}\r\nconnection: close\r\n\r\n"
    ).encode() + body(reason)


def body(reason: str, what: str = "denied") -> bytes:
    """The text of a refusal: one line."""
    return f"Hutch: {what}: {printable(reason)}\n".encode()


def strip_upgrades(fields: MutableMapping[str, str]) -> None:
    """Take offers to change the protocol off a request, except for WebSocket: they lead out of what is parsed.

    Servers are free to ignore such offers. Refusing them instead would break clients that make one with every plain
    request, as Java's does (h2c).
    """
    fields.pop("http2-settings", None)
    if fields.get("upgrade", "websocket").lower() != "websocket":
        del fields["upgrade"]
        fields.pop("connection", None)
    # Compressed WebSocket frames would be unpacked here, to any size.
    fields.pop("sec-websocket-extensions", None)


def path_of(target: str) -> str:
    """What of a request target goes into the record: not the query, which may hold credentials."""
    return target.partition("?")[0]
