"""The one canonical form of a host name, in which every other module compares names.

Pure, and strict: whatever two programs could read differently is refused here, before anything is matched.
"""

import re
from collections.abc import Iterable

import idna

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_LOOKS_LIKE_A_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


class BadName(ValueError):
    """A host name that has no canonical form. The message says why."""


def canonical(text: str) -> str:
    """Lower case ASCII without the trailing dot, at most 253 characters of letters, digits, hyphens and dots.

    Raises BadName for everything else, and for addresses in all their spellings.
    """
    if not text.isascii():
        text = _to_ascii(text)
    name = text.lower()
    name = name[:-1] if name.endswith(".") else name
    if not 1 <= len(name) <= 253:
        raise BadName("a host name has 1 to 253 characters")
    labels = name.split(".")
    for label in labels:
        if not _LABEL.fullmatch(label):
            raise BadName("a host name consists of labels of letters, digits and hyphens, joined by single dots")
    # inet_aton reads 127.1, 0x7f.1, 017700000001 and 2130706433 as addresses, and so do browsers and libraries.
    # All of these, and no public name, end in a label that is a number; IPv6 needs a colon and has failed above.
    if _LOOKS_LIKE_A_NUMBER.fullmatch(labels[-1]):
        raise BadName("it is an address, and only names can be reached")
    return name


def _to_ascii(text: str) -> str:
    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as error:
        raise BadName("it has no valid internationalised (IDNA 2008) form") from error


def covering(name: str, domains: Iterable[str]) -> str | None:
    """The first of the domains that is the name or one of its parents (a border is always a dot), or None."""
    return next((domain for domain in domains if name == domain or name.endswith("." + domain)), None)
