"""Memory that is given back. mitmproxy's objects refer to each other in circles, and hold buffers while they wait for a
collector that counts objects and no bytes; and the C library keeps what was freed between what is still used.
"""

import asyncio
import ctypes
import gc
import time
from pathlib import Path
from resource import getpagesize
from typing import Final, NoReturn

_EVERY: Final = 1.0  # seconds between looks
_STEP: Final = 24 << 20  # bytes that it may grow by before it is tidied, which takes tens of milliseconds
_PAUSE: Final = 10.0  # seconds until a process that stays large is tidied again,
_SHARE: Final = 1 / 300  # or more, so that it takes no more of its time than this
_trim = ctypes.CDLL(None).malloc_trim


async def keep_tidy() -> NoReturn:
    """Collect what is no longer used: at once when this process has grown, now and then while it is large."""
    small = settled = _resident()
    again = 0.0
    while True:
        await asyncio.sleep(_EVERY)
        now = _resident()
        grown, large = now > settled + max(_STEP, settled // 4), now > small + _STEP
        if grown or (large and time.monotonic() > again):
            began = time.monotonic()
            gc.collect()
            _trim(0)
            ended, settled = time.monotonic(), _resident()
            again = ended + max(_PAUSE, (ended - began) / _SHARE)


def _resident() -> int:
    """Bytes of memory of this process."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * getpagesize()
