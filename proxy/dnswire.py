"""DNS datagrams: one question read, one answer written. The rest of the protocol has no use here.

Pure, and of our own because of what it costs: with a general parser one crafted datagram (records that point to each
other, a name of 120 labels) keeps a worker busy for seconds. Of this one, nothing behind the question is looked at.
"""

import string
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

A, AAAA, INTERNET = 1, 28, 1
_HEADER, _LONGEST_NAME, _LONGEST_LABEL = 12, 255, 63
_PLAIN = frozenset(f"{string.ascii_letters}{string.digits}-_".encode())


class Code(IntEnum):
    NOERROR, NOTIMP, REFUSED = 0, 4, 5


@dataclass(frozen=True, slots=True)
class Question:
    """`name`: labels joined by dots, without the last one; what belongs into no host name is escaped as in \\046."""

    name: str
    kind: int
    network: int  # the class, INTERNET but for tricks
    wire: bytes


def is_query(datagram: bytes) -> bool:
    """Whether there is anything to answer to: answers are not answered."""
    return len(datagram) >= _HEADER and not datagram[2] & 0x80


def is_plain_query(datagram: bytes) -> bool:
    """A standard query (no update, no status) with one question."""
    return not datagram[2] & 0x78 and datagram[4:6] == b"\0\1"


def read_question(datagram: bytes) -> Question | None:
    """The question of a plain query, or None if it is malformed."""
    labels, at = [], _HEADER
    while at < len(datagram) and (size := datagram[at]):
        # Names may end with a pointer to an earlier one: before the first there is none.
        if size > _LONGEST_LABEL or at + 1 + size - _HEADER >= _LONGEST_NAME:
            return None
        labels.append(datagram[at + 1 : at + 1 + size])
        at += 1 + size
    end = at + 5
    if end > len(datagram):
        return None
    kind, network = int.from_bytes(datagram[at + 1 : at + 3]), int.from_bytes(datagram[at + 3 : end])
    return Question(".".join(map(_text, labels)), kind, network, datagram[_HEADER:end])


def _text(label: bytes) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"\\{byte:03}" for byte in label)


def answer(
    datagram: bytes,
    code: Code,
    question: Question | None = None,
    address: IPv4Address | IPv6Address | None = None,
    ttl: int = 0,
) -> bytes:
    """The answer to a query: its question again, and for it one address or none."""
    flags = bytes((0x80 | datagram[2] & 0x79, 0x80 | code))  # an answer, same operation; recursion is available
    counts = bytes((0, question is not None, 0, address is not None, 0, 0, 0, 0))
    reply = datagram[:2] + flags + counts + (question.wire if question else b"")
    if question is None or address is None:
        return reply
    name = b"\xc0" + bytes([_HEADER])  # the one of the question
    numbers = question.kind.to_bytes(2) + question.network.to_bytes(2) + ttl.to_bytes(4)
    return reply + name + numbers + len(address.packed).to_bytes(2) + address.packed
