"""The spellings in which a text may stand in an HTTP message: escaped for URLs, JSON and HTML, in base64 and in hex.

Pure. For each spelling of one text it gives the same spelling of another, always of the same length, so that a message
keeps its content-length. It must not be asked for two texts that differ in more than ASCII letters and digits: no escaping
changes those, and in base64 no + and no / comes from them (but from > ? ~), so that what is escaped stands at the same places.
"""

import html
import json
import re
from base64 import b64encode
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus

type Spelling = Callable[[str], str]


def written(text: str, other: str) -> dict[bytes, bytes]:
    """Every spelling of `text` that whoever writes a URL, JSON or HTML may use -> the same spelling of `other`."""
    return {spell(text).encode(): spell(other).encode() for spell in _WRITTEN}


def encoded(text: str, other: str) -> dict[bytes, bytes]:
    """`text` inside of base64 and hex -> `other` there."""
    plain, replaced = text.encode(), other.encode()
    found = {plain.hex(): replaced.hex(), plain.hex().upper(): replaced.hex().upper()}
    for offset in range(3):
        for spell in _BASE64:
            found[spell(_base64_core(plain, offset))] = spell(_base64_core(replaced, offset))
    return {key.encode(): value.encode() for key, value in found.items()}


def _base64_core(text: bytes, offset: int) -> str:
    """The base64 characters made of nothing but `text`, if `offset` bytes (modulo 3) stand before it. Up to one at each
    end holds bits of what surrounds it, too: unknown, and left as it is."""
    whole = b64encode(bytes(offset) + text + bytes(2)).decode()
    return whole[-(-8 * offset // 6) : 8 * (offset + len(text)) // 6]


def _form(text: str) -> str:
    """application/x-www-form-urlencoded as browsers and Java write it."""
    return quote_plus(text, safe="*").replace("~", "%7E")


def _lower(spell: Spelling) -> Spelling:
    return lambda text: re.sub("%[0-9A-F]{2}", lambda escape: escape[0].lower(), spell(text))


def _json(text: str) -> str:
    return json.dumps(text)[1:-1]


def _slashes(spell: Spelling) -> Spelling:
    """As PHP's json_encode does."""
    return lambda text: spell(text).replace("/", "\\/")


def _go_json(text: str) -> str:
    return re.sub("[&<>]", lambda match: f"\\u{ord(match[0]):04x}", _json(text))


def _dotnet_json(text: str) -> str:
    return re.sub("[\"&'+<>`]", lambda match: f"\\u{ord(match[0]):04X}", text.replace("\\", "\\\\"))


def _html(text: str, double: str, single: str, plus: str) -> str:
    return html.escape(text, quote=False).replace('"', double).replace("'", single).replace("+", plus)


# What encoders leave as it is beside letters, digits and _.-~: RFC 3986, paths, JavaScript, user information, lax ones.
_PERCENT: tuple[Spelling, ...] = (
    *(partial(quote, safe=kept) for kept in ("", "/", "!*'()", "!$&'()*+,;=", ":@!$&'()*+,;=/")),
    *(quote_plus, _form),
)
_HTML: tuple[Spelling, ...] = (
    *(partial(_html, double="&quot;", single=single, plus="+") for single in ("'", "&#x27;", "&#39;", "&#039;")),
    partial(_html, double="&#34;", single="&#39;", plus="&#43;"),
)
_WRITTEN: tuple[Spelling, ...] = (
    *(str, _json, _slashes(_json), _go_json, _dotnet_json),
    *_PERCENT,
    *map(_lower, _PERCENT),
    *_HTML,
)
_URL_SAFE = str.maketrans("+/", "-_")
_BASE64: tuple[Spelling, ...] = (
    *(str, lambda text: text.translate(_URL_SAFE), _slashes(str), _dotnet_json),
    *(_PERCENT[0], _lower(_PERCENT[0]), _HTML[-1]),
)
