"""Makes what a sandbox printed harmless for a terminal: text, line ends, tabs and colours stay, nothing else does.

Pure: bytes in, bytes out, no I/O. It must never let an escape through that is not a colour (SGR), because terminals
take commands that way: titles, clipboard writes, answers typed back into the shell. Redirected output is not for it.
"""

from __future__ import annotations

import codecs
import re

# An escape that never ends must not hold text back for ever, nor fill memory.
_HELD_MAX = 4096

_SGR = re.compile(r"\x1b\[[0-9;:]{0,64}m")
_UNSAFE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: cursor, modes, reports - and SGR, which _replace keeps
    r"|\x1b[\]PX^_][^\x07\x18\x1a\x1b]*(?:\x07|\x18|\x1a|\x1b\\|(?=\x1b))"  # OSC, DCS, SOS, PM, APC: strings
    r"|\x1b[ -/]*[0-~]"  # all other escapes
    # Lone controls, C1 (the 8-bit spelling of the above) and marks that reorder the line. \t, \n and \r stay.
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)
_UNFINISHED = re.compile(r"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x18\x1a\x1b]*\x1b?|[ -/]*)\Z")


class Sanitizer:
    """One stream's filter. Escapes and UTF-8 characters may be cut anywhere between two calls."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""

    def feed(self, data: bytes, final: bool = False) -> bytes:
        """What may be shown of the stream so far. `final`: nothing more comes, so nothing is held back."""
        text = self._held + self._decoder.decode(data, final)
        unfinished = None if final else _UNFINISHED.search(text, max(0, len(text) - _HELD_MAX))
        cut = unfinished.start() if unfinished else len(text)
        self._held = text[cut:]
        # With the held escape's first byte, which is dropped: it also ends a string that stands before it.
        return _UNSAFE.sub(_replace, text[: cut + 1]).encode()


def _replace(match: re.Match[str]) -> str:
    return match[0] if _SGR.fullmatch(match[0]) else ""
