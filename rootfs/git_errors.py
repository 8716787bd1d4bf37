"""What can go wrong with a repository, as one sentence and one remedy. Knows no library.

Must not carry a credential: whoever raises puts only the URL without its user part into a message.
"""

from collections.abc import Callable

FREE_SPACE = "free space where the state directory is, for example with `hutch gc`"
Progress = Callable[..., None]  # progress(text, done=None, total=None)


class RepositoryError(Exception):
    """The operation, its object and the reason in one sentence; what to do about it in another."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message}; {remedy}" if remedy else message)
        self.message = message
        self.remedy = remedy
