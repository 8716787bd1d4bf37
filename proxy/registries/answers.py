"""What an index answered → the hosts that its downloads come from.

Pure. Answers may be cut off anywhere, and are strangers' bytes: no parser, only patterns whose work grows with the text.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urljoin

from proxy.records import printable
from proxy.registries.apt import parse_mirrors
from proxy.registries.index import Kind, clean, host_of

MAX_HOSTS = 32  # of one index
MAX_LINKS = 20_000
MAX_ERROR = 200
_PACKAGE = re.compile(r"[^?#]*\.(?:whl|tar\.gz|tgz|zip|tar\.bz2|tar\.xz|egg)(?:[?#].*)?", re.DOTALL)
_HREF = re.compile(r"""\bhref\s{0,9}=\s{0,9}["']?([^"'\s<>]{1,2048})""", re.IGNORECASE)
_JSON_URL = re.compile(r'"url"\s{0,9}:\s{0,9}"((?:[^"\\]|\\.){1,2048})"')
_TARBALL = re.compile(r'"tarball"\s{0,9}:\s{0,9}"((?:[^"\\]|\\.){1,2048})"')


@dataclass(frozen=True, slots=True)
class Answer:
    """What an index said. `hosts`: of its downloads. `error`: why it said nothing, a clause for people; else empty."""

    hosts: tuple[str, ...]
    error: str = ""


def believed(said: object) -> Answer:
    """What the process that asked says an index said: it has read strangers' bytes, so it may say anything."""
    match said:
        case {"error": str(error)}:
            return Answer((), printable(error)[:MAX_ERROR])
        case {"hosts": [*found]} if all(isinstance(host, str) for host in found):
            return Answer(tuple([host for host in found if host_of(f"https://{host}/") == host][:MAX_HOSTS]))
    return Answer((), "nobody could ask it")


def downloads(kind: Kind, text: str, page: str) -> list[str]:
    """The clean URLs that this answer leads to. `page`: where it came from, for links that are relative to it."""
    match kind:
        case "npm":
            links = _strings(_TARBALL, text)
        case "mirrors":
            links = parse_mirrors(text)
        case _:
            found = _strings(_JSON_URL, text) if text.lstrip().startswith("{") else _HREF.findall(text)
            links = [link for link in found if _PACKAGE.fullmatch(link)]
    return list(dict.fromkeys(url for link in links[:MAX_LINKS] if (url := _joined(page, link))))


def hosts(urls: Iterable[str]) -> list[str]:
    """Their hosts, as policies take them."""
    return list(dict.fromkeys(host for url in urls if (host := host_of(url))))[:MAX_HOSTS]


def _strings(pattern: re.Pattern[str], text: str) -> list[str]:
    found = []
    for match in pattern.finditer(text):
        try:
            found.append(str(json.loads(f'"{match[1]}"')))  # JSON may write / as \/
        except ValueError:
            continue
    return found


def _joined(page: str, link: str) -> str:
    try:
        return clean(urljoin(page, link))
    except ValueError:  # as for "https://[": it is no URL
        return ""
