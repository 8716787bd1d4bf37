"""Where a connection is to go: what its address, its TLS handshake and its first request say, which must be the same.

Pure. It finds the one name; whether that may be reached is the policy's decision.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address

from proxy.names import BadName, canonical
from proxy.sniff import Hello, Http

# ASCII only: what a client writes in another way, a server may read as another name than we do.
_AUTHORITY = re.compile(r"([0-9A-Za-z.-]+)(?::([0-9]{1,5}))?")
_ABSOLUTE = re.compile(r"http://([^/?#]*)(?:[/?#].*)?", re.IGNORECASE)


class Denied(Exception):
    """A refusal on its way to the one who asked and to the record."""

    def __init__(self, reason: str, rule: str = "") -> None:
        super().__init__(reason)
        self.reason, self.rule = reason, rule


@dataclass(frozen=True, slots=True)
class Destination:
    """What is known before the first bytes. `host`: a canonical name or a dotted address; None if only a hash is known."""

    host: str | None
    port: int
    shown: str  # what a record calls it as long as nothing better is known
    # Tells whether a name that the connection states is the one that it was made to.
    stands_for: Callable[[str], bool]
    absolute: bool = False  # plain HTTP at the explicit proxy: requests whose target is a whole URL

    @classmethod
    def fixed(cls, host: str, port: int, *, absolute: bool = False) -> "Destination":
        """A destination that is known by its host: an address without a name, or what the explicit proxy was told."""
        return cls(host, port, host, lambda name: name == host, absolute)


def stated_host(destination: Destination, start: Hello | Http) -> str:
    """The one host that the connection is for; raises Denied where two places name different ones, or none does."""
    stated = _sni(start) if isinstance(start, Hello) else _host_field(start)
    if stated is None and destination.host is not None and is_address(destination.host):
        return destination.host  # TLS to an address names no server
    if stated is None:
        raise Denied("the TLS handshake names no server (no SNI)")
    if not destination.stands_for(stated):
        what = "TLS handshake" if isinstance(start, Hello) else "request"
        if stated == destination.shown:
            raise Denied(f"the address {stated} stands for a name, and the {what} doesn't say which")
        raise Denied(f"the {what} is for {stated}, the connection was made to {destination.shown}")
    return stated


def _sni(hello: Hello) -> str | None:
    if hello.sni is None:
        return None
    try:
        return canonical(hello.sni)
    except BadName as error:
        raise Denied(f"the server name in the TLS handshake is malformed: {error}") from error


def _host_field(head: Http) -> str:
    if len(head.hosts) > 1:
        raise Denied("there is more than one Host field")
    if not head.hosts or not head.hosts[0]:
        raise Denied("the request names no host")
    return authority(head.hosts[0])[0]


def authority(text: str) -> tuple[str, int | None]:
    """Host and port of "host[:port]"; the host in canonical form or a dotted address. Raises Denied."""
    match = _AUTHORITY.fullmatch(text)
    if match is None:
        raise Denied("the host that the request names is malformed")
    port = int(match[2]) if match[2] else None
    if port is not None and not 0 < port < 65_536:
        raise Denied("the port that the request names is none")
    if is_address(match[1]):
        return match[1], port
    try:
        return canonical(match[1]), port
    except BadName as error:
        raise Denied(f"the host that the request names is malformed: {error}") from error


def asked_of_proxy(head: Http) -> Destination:
    """Where a request to the explicit proxy wants to go; raises Denied."""
    if head.method == "CONNECT":
        host, port = authority(head.target)
        if port is None:
            raise Denied("CONNECT needs a port")
        return Destination.fixed(host, port)
    if (match := _ABSOLUTE.fullmatch(head.target)) is None:
        raise Denied("this is a proxy: it takes CONNECT, and requests whose target is an http:// URL")
    host, port = authority(match[1])
    return Destination.fixed(host, port or 80, absolute=True)


def is_address(text: str) -> bool:
    """Whether the text is an IPv4 address in its one usual spelling."""
    try:
        return str(IPv4Address(text)) == text
    except AddressValueError:
        return False
