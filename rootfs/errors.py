"""The errors of images and layers: one sentence each, with what to do about it.

Must not print, exit or know who shows the sentence.

    ImageError            cannot do X with Y because Z; remedy
     ├─ ArchiveError      the archive that was given is wrong, hostile or unsupported
     └─ UnknownImage      no image has that name
"""

_SHOWN_MAX = 120
"".encode("unicode_escape")  # loads the codec now: `shown` is used where no module can be found any more (chroot)


class ImageError(Exception):
    """Something about an image failed. `str()` is the whole sentence: operation, object, reason; remedy."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message


class ArchiveError(ImageError):
    """What an archive contains cannot be taken. The job puts 'cannot import FILE: ' in front."""


class UnknownImage(ImageError):
    """There is no image of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"there is no image named '{name}'", "`hutch image ls` lists them")


def shown(name: bytes | str) -> str:
    """A name out of untrusted data, made fit for a message: quoted, printable, short.

    Escape sequences and bidirectional marks in a member's name must not reach somebody's terminal.
    """
    text = name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else name
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in text)
    return f"'{safe[:_SHOWN_MAX]}…'" if len(safe) > _SHOWN_MAX else f"'{safe}'"
