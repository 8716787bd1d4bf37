"""Amounts as people write and read them: durations and sizes. Pure; raises ValueError with what to write."""

from __future__ import annotations

import re

_LONGEST = 20  # characters of an amount
_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", re.ASCII)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", re.ASCII | re.IGNORECASE)


def duration(text: str) -> int:
    """Seconds of 90, 90s, 15m, 2h, 1h30m, 1d."""
    text = text.strip()
    match = _DURATION.fullmatch(f"{text}s" if text.isdecimal() else text) if len(text) <= _LONGEST else None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (0, 0, 0, 0)
    total = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    if total <= 0:
        raise ValueError(f"{text!r} is no duration: write 90, 90s, 15m, 2h or 1h30m, more than zero")
    return total


def bytes_text(count: float) -> str:
    """An amount of bytes as people read it: 0 B, 1.5 KiB, 12 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def size(text: str) -> int:
    """Bytes of 1048576, 512M, 2G, 1.5GiB; every unit is a power of 1024."""
    match = _SIZE.fullmatch(text.strip()) if len(text) <= _LONGEST else None
    total = int(float(match[1]) * 1024 ** " KMGT".index(match[2].upper() or " ")) if match else 0
    if total <= 0:
        raise ValueError(f"{text!r} is no size: write bytes or a unit, for example 512M or 2G, more than zero")
    return total
