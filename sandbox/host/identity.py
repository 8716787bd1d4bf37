"""Host id ranges: each sandbox maps its ids to 65,536 host ids of its own, unique among all daemons on the host.

A daemon claims a block of ranges by a lock on a file; the kernel drops the lock when the daemon dies, however it dies. Nothing
else is kept. The block lies in the ids that systemd's documentation reserves for containers, above what it allocates itself.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sandbox.host.errors import OutOfResources

FIRST_ID: Final = 0x50000000
IDS_PER_RANGE: Final = 65536
RANGES_PER_BLOCK: Final = 256
_BLOCKS: Final = 32
LOCK_DIRECTORY: Final = Path("/run/hutch/ids")


@dataclass(frozen=True)
class IdBlock:
    """256 ranges of host ids, held as long as `lock` is open. Range 0 belongs to the filter, the others to sandboxes."""

    number: int
    lock: int

    def base(self, index: int) -> int:
        """The first host id of range `index` (0..255)."""
        return FIRST_ID + (self.number * RANGES_PER_BLOCK + index) * IDS_PER_RANGE

    @property
    def filter_uid(self) -> int:
        """The unprivileged host id that the filter runs as; no sandbox maps it."""
        return self.base(0) + 1

    @property
    def errand_uid(self) -> int:
        """The unprivileged host id of jobs that talk to strangers. Not the filter's: a process may look into its equals."""
        return self.base(0) + 2

    def release(self) -> None:
        """Give the block back."""
        os.close(self.lock)


def claim_block(directory: Path = LOCK_DIRECTORY) -> IdBlock:
    """Claim a block that no running daemon of this host holds. Raises OutOfResources when all are taken."""
    directory.mkdir(parents=True, exist_ok=True)
    for number in range(_BLOCKS):
        lock = os.open(directory / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return IdBlock(number, lock)
    raise OutOfResources(
        f"cannot claim host ids: all {_BLOCKS} blocks in {directory} are held by running daemons", "stop one of them"
    )
