"""Replaces byte strings in a stream that arrives in pieces, as though it were one.

Pure. It holds back only what may be the beginning of something to replace, so that a stream which waits for an answer
(server-sent events, say) is not kept waiting, and what it holds is shorter than the longest key. Of two occurrences that
overlap the earlier counts, of two that begin together the longer.
"""

import heapq
from bisect import bisect_left
from collections.abc import Mapping, Sequence

_HEAD = 8  # bytes of a key that are looked for first where a piece ends


class Replacer:
    """Replaces the keys of `table` by its values. One for each stream, but for `whole`."""

    def __init__(self, table: Mapping[bytes, bytes]) -> None:
        self._table = table
        self._rest = b""

    def whole(self, data: bytes) -> bytes:
        """`data` with everything replaced, apart from any stream."""
        return self._replaced(data, final=True)[0]

    def feed(self, data: bytes) -> bytes:
        """What is certain after another piece."""
        done, self._rest = self._replaced(self._rest + data, final=False)
        return done

    def flush(self) -> bytes:
        """The rest, at the stream's end."""
        done, self._rest = self._replaced(self._rest, final=True)
        return done

    def _replaced(self, data: bytes, final: bool) -> tuple[bytes, bytes]:
        """`data` replaced up to where more may change it, and what is left."""
        unfinished = [] if final else self._unfinished(data)
        # The next occurrence of each key: all that is found is found once, whatever a server sends.
        nexts = [(at, -len(key), key) for key in self._table if (at := data.find(key)) >= 0]
        if not nexts and not unfinished:
            return data, b""
        heapq.heapify(nexts)
        pieces: list[bytes] = []
        position = 0
        end = _first(unfinished, position, len(data))
        while nexts and nexts[0][0] < end:
            at, _, key = heapq.heappop(nexts)
            if at >= position:
                pieces += (data[position:at], self._table[key])
                position = at + len(key)
                end = _first(unfinished, position, len(data))
            if (at := data.find(key, position)) >= 0:
                heapq.heappush(nexts, (at, -len(key), key))
        return b"".join((*pieces, data[position:end])), data[end:]

    def _unfinished(self, data: bytes) -> Sequence[int]:
        """Where a key begins whose end is still to come, in ascending order."""
        found: set[int] = set()
        for key in self._table:
            at = max(0, len(data) - len(key) + 1)
            while (at := data.find(key[:_HEAD], at)) >= 0:
                if key.startswith(data[at:]):
                    found.add(at)
                at += 1
            least = max(0, len(data) - min(len(key), _HEAD) + 1)
            found.update(at for at in range(least, len(data)) if key.startswith(data[at:]))
        return sorted(found)


def _first(positions: Sequence[int], least: int, otherwise: int) -> int:
    at = bisect_left(positions, least)
    return positions[at] if at < len(positions) else otherwise
