"""Whom the kernel killed because a sandbox had used its memory up, out of the kernel's log: its counters tell no names.

The names are the tenant's: they are data for whoever prints them.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

_LINES: Final = 20_000  # as many as the kernel's ring holds
_RECORD: Final = re.compile(
    rb"[0-9]+,[0-9]+,(?P<at>[0-9]+),[^;]*;oom-kill:.*?,task_memcg=(?P<group>[^,]*),task=(?P<name>.*),pid=[0-9]+,"
)


def victims(group: Path, since: float) -> list[str]:
    """The names of the processes of a cgroup that were killed since a moment of the monotonic clock, in order.

    Not all of them where the kernel's log can't be read, has been overwritten since, or where more than ten were killed in five
    seconds: of those it tells no more.
    """
    place = os.fsencode(f"/{group.parent.name}/{group.name}")  # numbers of groups are used again, instances are not
    found = []
    try:
        log = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        for _ in range(_LINES):
            try:
                record = _RECORD.match(os.read(log, 8192))
            except BrokenPipeError:
                continue  # what was to come next has been overwritten
            if record and record["group"].endswith(place) and int(record["at"]) / 1e6 >= since:
                found.append(record["name"].decode(errors="replace"))
    except OSError:
        pass  # the end
    finally:
        os.close(log)
    return found
