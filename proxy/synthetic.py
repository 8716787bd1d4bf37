"""Synthetic addresses: what the resolver answers instead of real ones, without a table that could be lost or filled.

The address of a name is a keyed hash of (sandbox, name). Any worker can compute it and none has to remember it, so it
stays right when workers die, multiply or start anew. It is never a decision: what is decided and dialled is the name
that the connection itself states (SNI, Host), after this module has confirmed that the address stands for it.

    resolver: name ──hash──▶ 198.18.x.y          front: (198.18.x.y, SNI) ──hash again──▶ the same? then it is that name
"""

import hashlib
import mmap
from ipaddress import IPv4Address, IPv4Network

SYNTHETIC = IPv4Network("198.18.0.0/15")
# The first 256 addresses are the filter's own: 198.18.0.1 is the resolver's and the explicit proxy's.
OWN = IPv4Network("198.18.0.0/24")
PROXY_ADDRESS, PROXY_PORT = OWN[1], 8080

_FIRST = int(OWN.broadcast_address) + 1
_COUNT = int(SYNTHETIC.broadcast_address) - _FIRST


class Synthetic:
    """Names to addresses and, as far as hints go, back. `key`: secret, one for all workers of a filter."""

    def __init__(self, key: bytes, hints: "Hints") -> None:
        self._key, self._hints = key, hints

    def address(self, sandbox: str, name: str) -> IPv4Address:
        """The address that stands for the name in this sandbox."""
        return IPv4Address(self._number(sandbox, name))

    def give(self, sandbox: str, name: str) -> IPv4Address:
        """The address, for an answer to the sandbox: it may come back in a connection that states no name."""
        number = self._number(sandbox, name)
        self._hints.put(sandbox, number, name)
        return IPv4Address(number)

    def stands_for(self, sandbox: str, address: IPv4Address, name: str) -> bool:
        return self._number(sandbox, name) == int(address)

    def name(self, sandbox: str, address: IPv4Address) -> str | None:
        """The name that was asked for when this address was given out, or None if that has been forgotten."""
        name = self._hints.get(sandbox, int(address))
        # The hash is the hint's checksum too: a torn or foreign one is no hint.
        return name if name is not None and self.stands_for(sandbox, address, name) else None

    def _number(self, sandbox: str, name: str) -> int:
        digest = hashlib.blake2b(f"{sandbox} {name}".encode(), key=self._key, digest_size=8).digest()
        return _FIRST + int.from_bytes(digest) % _COUNT


class Hints:
    """Which name was last asked for behind an address: memory that all workers share and none owns, of fixed size.

    Every sandbox has a region of its own (as far as their addresses differ), so one that asks for thousands of names
    makes nobody forget but itself. Writers don't lock: readers check what they read.
    """

    REGIONS, SLOTS, SIZE = 256, 256, 256

    def __init__(self) -> None:
        # Anonymous and shared: workers that are forked later have it too. Untouched pages cost nothing.
        self._memory = mmap.mmap(-1, self.REGIONS * self.SLOTS * self.SIZE)

    def put(self, sandbox: str, number: int, name: str) -> None:
        text, at = name.encode(), self._slot(sandbox, number)
        self._memory[at : at + 1 + len(text)] = bytes([len(text)]) + text

    def get(self, sandbox: str, number: int) -> str | None:
        at = self._slot(sandbox, number)
        size = self._memory[at]
        return self._memory[at + 1 : at + 1 + size].decode("ascii", "replace") or None

    def _slot(self, sandbox: str, number: int) -> int:
        # A sandbox's address is odd, its gateway's even: the last bit says nothing.
        region = (int(IPv4Address(sandbox)) >> 1) % self.REGIONS
        return (region * self.SLOTS + number % self.SLOTS) * self.SIZE
