"""One place to fetch packages from, and the one form of its URL that everything else sees.

Pure, and strict: an URL that two programs could read differently is no index. What is a secret in it (user, password,
query) is gone before anybody can log it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from proxy.names import BadName, canonical

# links: a page of links to files, as pip's find-links names it. mirrors: a list of apt mirrors, one a line.
Kind = Literal["pip", "links", "npm", "apt", "mirrors"]

MAX_URL = 2_048
MAX_PREFIXES = 16
# The user part ends at the last @, as all of these programs read it.
_URL = re.compile(r"(https?)://(?:[^/?#\\]*@)?([^/?#@:\\]+)(?::([0-9]{0,5}))?(/[^?#\\]*)?(?:[?#].*)?", re.IGNORECASE)
_PRINTABLE = re.compile(r"[!-~\x80-\U0010ffff]+")
_PATH = re.compile(r"[!-~]*")
_WEB_PORTS = ("", "80", "443")


class Files(Protocol):
    """The files of an image, as data: paths without their first /, links followed inside it only."""

    def text(self, path: str) -> str:
        """The file's text; empty when there is none, or when it is larger than a configuration is."""

    def find(self, path: str, pattern: re.Pattern[str]) -> tuple[str, ...] | None:
        """The groups of the first match in a program's source; None when there is no such file or match."""

    def names(self, directory: str) -> list[str]:
        """What is in a directory, sorted."""


@dataclass(frozen=True, slots=True, order=True)
class Index:
    """`url` is as `clean` gives it. `also`: hosts that are known to belong to it, before it was asked."""

    kind: Kind
    url: str
    also: tuple[str, ...] = ()

    @property
    def hosts(self) -> tuple[str, ...]:
        """What is known without asking, as policies take it: "host" or "host:port"."""
        return (host_of(self.url), *self.also)


def clean(url: str) -> str:
    """scheme://host[:port]/path with a canonical host; empty for what isn't the URL of a named web server.

    Also for an address: that may be reached only where a rule names it.
    """
    match = _URL.fullmatch(url) if len(url) <= MAX_URL and _PRINTABLE.fullmatch(url) else None
    if match is None:
        return ""
    scheme, host, port, path = match[1].lower(), match[2], match[3] or "", match[4] or "/"
    try:
        name = canonical(host)
    except BadName:
        return ""
    if not _PATH.fullmatch(path) or (port and not 0 < int(port) < 65_536):
        return ""
    return f"{scheme}://{name}{f':{int(port)}' if port else ''}{path}"


def host_of(url: str) -> str:
    """The host of any URL as policies take it, its port only where it isn't the web's; empty when it has no such host."""
    _, slashes, rest = clean(url).partition("://")
    name, _, port = rest.partition("/")[0].partition(":")
    return "" if not slashes else name if port in _WEB_PORTS else f"{name}:{port}"


def directory(url: str) -> str:
    """The cleaned URL with a / at its end; empty for what is no URL."""
    cleaned = clean(url)
    return cleaned.rstrip("/") + "/" if cleaned else ""


def prefixes(env: Mapping[str, str]) -> list[str]:
    """Where programs are installed, by PATH: /opt/python/bin → opt/python. Without the first /, as `Files` takes paths."""
    bins = [*env.get("PATH", "").split(":")[:MAX_PREFIXES], "/usr/local/bin", "/usr/bin"]
    parents = (each.strip("/").rpartition("/")[0] for each in bins if each.startswith("/"))
    return list(dict.fromkeys(parent for parent in parents if parent))


def home(env: Mapping[str, str]) -> str:
    """The home directory, as `Files` takes paths."""
    return env.get("HOME", "/root").strip("/")
