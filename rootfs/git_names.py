"""Names that must not get into a commit: every spelling of .git that some file system takes for it.

Pure. The commit is made to be checked out elsewhere: on HFS+ and NTFS as well, where these names are the repository itself.
"""

import re

# Code points that HFS+ leaves out when it compares names.
_HFS_IGNORED = re.compile("[\u200c-\u200f\u202a-\u202e\u206a-\u206f\ufeff]")
_NTFS_GIT = re.compile(rb"(?:\.git|git~1)[. ]*(?::.*)?\Z", re.IGNORECASE | re.DOTALL)
_NTFS_MODULES = re.compile(rb"(?:\.gitmodules|gitmod~[1-4]|gi7eba~[1-9])[. ]*(?::.*)?\Z", re.IGNORECASE | re.DOTALL)

_FIRST = (b".", b"g", b"G")


def is_git(name: bytes) -> bool:
    """Whether `name` is .git in any spelling, or a name that can't stand in a tree at all."""
    if (
        name[:1] not in _FIRST
        and b"\\" not in name
        and b"/" not in name
        and b"\0" not in name
        and name.isascii()
        and name
    ):
        return False  # nearly all names
    if name in (b"", b".", b"..") or b"/" in name or b"\0" in name:
        return True
    return _without_ignored(name) == ".git" or any(_NTFS_GIT.match(part) for part in name.split(b"\\"))


def is_modules(name: bytes) -> bool:
    """Whether `name` is .gitmodules in any spelling: as a symbolic link it would make git read a file elsewhere."""
    return _without_ignored(name) == ".gitmodules" or any(_NTFS_MODULES.match(part) for part in name.split(b"\\"))


def _without_ignored(name: bytes) -> str:
    return _HFS_IGNORED.sub("", name.decode("utf-8", "surrogateescape")).lower()
