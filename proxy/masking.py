"""Takes the values of brokered credentials out of what comes back, and asks servers for answers in which they can be found.

Pure. It finds a value that is written as it is, escaped for a URL, JSON or HTML, in base64 or in hex. It doesn't find what a
server has shortened, compressed, encrypted or otherwise transformed: whom a credential is for is trusted not to.
What it holds back of a stream until more comes must not depend on any value, nor how long it looks: who has a server echo
guesses, and sees which of them arrive later, would read the value letter by letter.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from time import perf_counter_ns

from proxy.credentials import Credential
from proxy.replacing import Replacer

type Fields = Sequence[tuple[bytes, bytes]]

# Requests for a compressed answer, a difference, a part (whose border may lie in the value) or another character set.
_HIDING = frozenset({b"accept-encoding", b"a-im", b"range", b"request-range", b"if-range", b"accept-charset"})


_PRINTABLE = bytes(range(0x20, 0x7F))  # what every spelling of a value is made of


class Masker(Replacer):
    """Replaces values by their placeholders in one response: its fields, and its body in pieces."""

    def __init__(self, credentials: Iterable[Credential]) -> None:
        table = {key: value for credential in credentials for key, value in credential.masks.items()}
        super().__init__(table)
        self._most = max(map(len, table), default=1) - 1  # of a value whose end is still to come
        self._pace = len(table) * _slowest_search()

    def _replaced(self, data: bytes, final: bool) -> tuple[bytes, bytes]:
        """Always as slowly as at the slowest: Python's search skips by which bytes are in what it looks for, and where."""
        until = perf_counter_ns() + len(data) * self._pace
        found = super()._replaced(data, final)
        while perf_counter_ns() < until:
            pass
        return found

    def _unfinished(self, data: bytes) -> Sequence[int]:
        """Everything from the last line end on (or another byte that no value has), as far back as a value may begin.

        Streams of events and lines are not kept waiting: each of these ends with one.
        """
        end = data[max(0, len(data) - self._most) :]
        return range(len(data) - len(end) + len(end.rstrip(_PRINTABLE)), len(data))

    def mask_fields(self, fields: Fields) -> list[tuple[bytes, bytes]]:
        """The header or trailer fields without values."""
        return [(self.whole(name), self.whole(value)) for name, value in fields]

    def mask_text(self, text: str) -> str:
        """A reason phrase, an error, a path in a record without values."""
        return self.whole(text.encode("utf-8", "surrogateescape")).decode("utf-8", "surrogateescape")


@cache
def _slowest_search() -> float:
    """Nanoseconds that a search takes for each byte here, whatever it is for and in."""
    key, slowest = b"Aa0Bb1Cc2Dd3Ee4Ff5Gg6Hh7", 0
    for data in (bytes([byte]) * 8192 for byte in key):
        times = []
        for _ in range(3):
            began = perf_counter_ns()
            data.find(key)
            times.append(perf_counter_ns() - began)
        slowest = max(slowest, min(times))
    return 1.5 * slowest / 8192


def request_fields(fields: Fields) -> list[tuple[bytes, bytes]]:
    """The fields of a request whose answer will be masked: it comes whole and as it is."""
    kept = [(name, value) for name, value in fields if not _hides(name.lower(), value)]
    return [*kept, (b"accept-encoding", b"identity")]


def _hides(name: bytes, value: bytes) -> bool:
    return name in _HIDING or (name == b"te" and value.strip().lower() != b"trailers")


def refused_encoding(fields: Fields) -> bool:
    """Whether an answer came compressed or in part all the same, so that nothing could be found in it."""
    for name, value in fields:
        match name.lower():
            case b"content-encoding":
                harmless = {b"", b"identity"}
            case b"transfer-encoding":
                harmless = {b"", b"identity", b"chunked"}
            case b"content-range" | b"im":
                harmless = set()
            case _:
                continue
        if not {coding.strip().lower() for coding in value.split(b",")} <= harmless:
            return True
    return False
