"""Whether the artifact cache lives: a time that its process renews, in memory that it shares with the workers.

Must not be relied on for more: a worker that finds it alive may still wait for an answer, and one may write to it.
"""

import mmap
import struct
import time

BEAT_SECONDS = 1.0
_MISSED_SECONDS = 3.0  # without a beat: it is dead, can't start, or hangs


class Pulse:
    """Made before the processes are forked."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)

    def beat(self) -> None:
        """It lives now."""
        self._write(time.monotonic())

    def stop(self) -> None:
        """It takes nothing any more, or not yet."""
        self._write(0.0)

    def _write(self, when: float) -> None:
        struct.pack_into("d", self._memory, 0, when)

    @property
    def alive(self) -> bool:
        """Whether it has beaten lately."""
        when: float = struct.unpack_from("d", self._memory)[0]
        return when > 0 and time.monotonic() - when < _MISSED_SECONDS
