"""The rules of a policy: one grammar for command line, API and file, read into a frozen value with one spelling.

    example.com                  it and all below it, on ports 80 and 443; example.com:8443 on that port only
    =example.com                 exactly it                *.example.com                only what is below it
    https://example.com/path/    exactly this host (or *.host), and what begins with this path; also http://
    tcp://db.example.com:5432    any protocol
    10.1.2.3  10.0.0.0/8         addresses (IPv4), also in https://10.1.2.3/ and tcp://10.1.2.3:22
    deny RULE                    always wins; with methods= or a path it denies only those requests

After it: methods=GET,HEAD  mode=inspect|splice  git=read. Pure. It must not guess what was meant: whatever it doesn't
understand is refused, with what to write instead.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from typing import Literal

from proxy.names import BadName, canonical
from proxy.paths import oddity

Scheme = Literal["", "http", "https", "tcp"]
Match = Literal["domain", "exact", "subdomains", "network"]
Mode = Literal["inspect", "splice"]

WEB_PORTS = (80, 443)
MAX_LENGTH = 2_048

METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_NETWORK = re.compile(r"([0-9.]+(?:/[0-9]{1,2})?)(?::([0-9]+))?")
_NETWORK_SIZE = re.compile(r"/[0-9]{1,2}/?")
_AUTHORITY = re.compile(r"([^:]*)(?::([0-9]+))?")
_PATH = re.compile(r"/[!-~]*")
DEFAULT_PORTS = {"http": 80, "https": 443}


class BadRule(ValueError):
    """A rule that can't be understood or enforced. The message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`text` is the canonical spelling; for all else see the grammar. No ports means every port."""

    text: str
    deny: bool
    scheme: Scheme  # "" = the web, http and https; for a deny anything
    host: str  # canonical name without markers; "" for a network
    match: Match
    network: IPv4Network | None
    ports: tuple[int, ...]
    path: str  # "" or "/prefix"
    methods: frozenset[str] | None
    mode: Mode | None
    git: bool

    def covers(self, host: str) -> bool:
        """Is this host (a canonical name or a dotted address) among those the rule is about?"""
        if self.network is not None:
            address = as_address(host)
            return address is not None and address in self.network
        if host == self.host:
            return self.match != "subdomains"
        return self.match != "exact" and host.endswith("." + self.host)

    def fits(self, port: int | None, tls: bool | None) -> bool:
        """Is the rule about connections to this port, with or without TLS? None stands for any."""
        if port is not None and self.ports and port not in self.ports:
            return False
        return tls is None or self.scheme not in DEFAULT_PORTS or (self.scheme == "https") is tls

    @property
    def partial(self) -> bool:
        """It is about some requests of a connection only, so that they must be seen."""
        return bool(self.path or self.methods is not None or self.git)


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: Scheme
    host: str
    match: Match
    network: IPv4Network | None
    port: int | None
    path: str

    def spelled(self) -> str:
        place = str(self.network).removesuffix("/32") if self.network else self.host
        place = {"subdomains": "*." + place, "exact": place if self.scheme else "=" + place}.get(self.match, place)
        if self.port is not None and self.port != DEFAULT_PORTS.get(self.scheme):
            place += f":{self.port}"
        return {"": place, "tcp": f"tcp://{place}"}.get(self.scheme, f"{self.scheme}://{place}{self.path or '/'}")

    def ports(self, deny: bool) -> tuple[int, ...]:
        if self.port is not None:
            return (self.port,)
        return (DEFAULT_PORTS[self.scheme],) if self.scheme else () if deny else WEB_PORTS


@dataclass(slots=True)
class _Options:
    methods: frozenset[str] | None = None
    mode: Mode | None = None
    git: bool = False

    def spelled(self) -> list[str]:
        methods = [] if self.methods is None else ["methods=" + ",".join(sorted(self.methods))]
        return [*methods, *([f"mode={self.mode}"] if self.mode else []), *(["git=read"] if self.git else [])]


def parse_rule(text: str) -> Rule:
    """One rule as a person wrote it; raises BadRule."""
    try:
        if len(text) > MAX_LENGTH:
            raise BadRule(f"a rule has at most {MAX_LENGTH} characters")
        words = text.split()
        if deny := words[:1] == ["deny"]:
            del words[0]
        if not words:
            raise BadRule("a rule names a host, for example example.com")
        target, options = _target(words[0]), _options(words[1:])
        _check(deny, target, options)
    except BadRule as error:
        raise BadRule(f"rule {text[:200]!r}: {error}") from error
    return Rule(
        " ".join([*(["deny"] if deny else []), target.spelled(), *options.spelled()]),
        deny, target.scheme, target.host, target.match, target.network, target.ports(deny), target.path,
        options.methods, options.mode, options.git,
    )  # fmt: skip


def parse_methods(names: list[str]) -> frozenset[str]:
    """HTTP methods in upper case; raises BadRule."""
    methods = frozenset(name.upper() for name in names)
    if not methods or not all(METHOD.fullmatch(method) for method in methods):
        raise BadRule("methods are named like GET,HEAD,OPTIONS")
    if "CONNECT" in methods:
        raise BadRule("CONNECT is no method that requests can be allowed: for any protocol write tcp://HOST:PORT")
    return methods


def as_address(host: str) -> IPv4Address | None:
    """The address that a host is in dotted decimal spelling, or None: then it is a name."""
    if not host or host[-1] not in "0123456789":
        return None
    try:
        return IPv4Address(host)
    except AddressValueError:
        return None


def _target(word: str) -> _Target:
    scheme, separator, rest = word.partition("://")
    match scheme.lower() if separator else "":
        case "":
            return _plain(word)
        case "tcp":
            return _tcp(rest)
        case "http" | "https" as web:
            return _url(web, rest)
        case _:
            raise BadRule("the scheme is http, https or tcp: for wss write https, for ssh write tcp://HOST:22")


def _plain(word: str) -> _Target:
    if network := _NETWORK.fullmatch(word):
        return _Target("", "", "network", _network(network[1]), _port(network[2]), "")
    if "/" in word:
        raise BadRule(f"a path needs its scheme: write https://{word}")
    if word.startswith("="):
        return _named("", word[1:], "exact")
    return _named("", word, "domain")


def _tcp(rest: str) -> _Target:
    if network := _NETWORK.fullmatch(rest):
        target = _Target("tcp", "", "network", _network(network[1]), _port(network[2]), "")
    elif "/" in rest:
        raise BadRule("tcp:// has no path: write tcp://HOST:PORT")
    else:
        target = _named("tcp", rest, "exact")
    if target.port is None:
        raise BadRule(f"tcp:// needs its port, as in tcp://{rest}:22")
    return target


def _url(scheme: Literal["http", "https"], rest: str) -> _Target:
    authority, slash, path = rest.partition("/")
    path = slash + path if path else ""
    if path and (not _PATH.fullmatch(path) or set(path) & set("?#*")):
        raise BadRule("a path is the beginning of what is allowed, percent-encoded, without ?, # and *")
    if path and (odd := oddity(path)):
        raise BadRule(f"the path can't be compared, because it has {odd}: write it as a client sends it")
    if network := _NETWORK.fullmatch(authority):
        if _NETWORK_SIZE.fullmatch(path):
            raise BadRule(f"for a network write {authority}{path.removesuffix('/')}, without the scheme")
        return _Target(scheme, "", "network", _network(network[1]), _port(network[2]), path)
    return _named(scheme, authority, "exact", path)


def _named(scheme: Scheme, authority: str, match: Match, path: str = "") -> _Target:
    if authority.startswith("*."):
        if match == "exact" and not scheme:
            raise BadRule(f"either exactly one name or all below it: write {authority}")
        authority, match = authority[2:], "subdomains"
    if authority == "*":
        raise BadRule("everything is no rule, it is unrestricted access")
    if "@" in authority:
        raise BadRule("a rule has no user name: leave out what stands before the @")
    parts = _AUTHORITY.fullmatch(authority)
    if authority.startswith("[") or authority.count(":") > 1:
        raise BadRule("of addresses only IPv4 can be named, and a port is a number behind one colon")
    if parts is None:
        raise BadRule("a port is a number, as in example.com:8443")
    try:
        host = canonical(parts[1])
    except BadName as error:
        raise BadRule(f"{parts[1]!r} is no host name like example.com: {error}") from error
    return _Target(scheme, host, match, None, _port(parts[2]), path)


def _network(text: str) -> IPv4Network:
    try:
        if (network := IPv4Network(text, strict=False)).network_address == IPv4Address(text.partition("/")[0]):
            return network
    except ValueError as error:
        raise BadRule(f"{text!r} is no IPv4 address or network like 10.1.2.3 or 10.0.0.0/8") from error
    raise BadRule(f"the network is written {network}")


def _port(text: str | None) -> int | None:
    if text is not None and (len(text) > 5 or not 1 <= int(text) <= 65_535):
        raise BadRule("a port is a number from 1 to 65535")
    return None if text is None else int(text)


def _options(words: list[str]) -> _Options:
    options, seen = _Options(), set()
    for word in words:
        key, _, value = word.partition("=")
        if key in seen:
            raise BadRule(f"{key}= is there twice")
        seen.add(key)
        match key, value:
            case "methods", _:
                options.methods = parse_methods(value.split(","))
            case "mode", "inspect" | "splice" as mode:
                options.mode = mode
            case "git", "read":
                options.git = True
            case _:
                raise BadRule(
                    f"behind the host stands methods=GET,HEAD or mode=inspect, mode=splice or git=read, not {word!r}"
                )
    return options


def _check(deny: bool, target: _Target, options: _Options) -> None:
    """Raise BadRule where the parts, each one good, can't be enforced together."""
    partial = bool(target.path or options.methods is not None or options.git)
    if deny and (options.mode or options.git):
        raise BadRule("a deny takes no mode= and no git=: leave them out")
    if deny and target.network and (target.scheme or target.port or partial):
        # Names that resolve into the network are refused when they are dialled, where nobody knows of requests.
        raise BadRule(f"an address is denied as a whole: write deny {str(target.network).removesuffix('/32')}")
    if target.scheme == "tcp" and (partial or options.mode):
        raise BadRule("tcp:// lets any protocol through unseen: leave the options out, or write https://")
    if target.scheme == "http" and options.mode == "splice":
        raise BadRule("without TLS there is nothing to splice: leave mode=splice out, or write https://")
    if options.mode == "splice" and partial:
        raise BadRule("methods=, git= and paths can't be seen in what is spliced: leave mode=splice out")
