"""Users of the host for tests: what one of them does, in a forked child that has his ids before it connects.

They need no entry in /etc/passwd. Must not be used with threads that hold locks: the child forks from the test.
"""

from __future__ import annotations

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest

from sandbox.client import Client
from tests.support import leaks, repos, tiny
from tests.support.daemon import Daemon

GROUP, GAMES = "operator", 60  # any group that every Debian has; and another one
ALICE, BOB = 61_001, 61_002
TASK: dict[str, Any] = {"command": ["true"], "image": "tiny", "setup": ""}
Calls = Callable[[Client], Any]


@dataclass(frozen=True)
class HostUser:
    """A user with his groups, who talks to the daemon on `socket`."""

    socket: Path
    uid: int
    groups: tuple[int, ...]

    def does[T](self, calls: Callable[[Client], T]) -> T:
        """What `calls` returns or raises, done as him."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.close(reader)
                os.setgroups(self.groups)
                os.setresgid(self.uid, self.uid, self.uid)
                os.setresuid(self.uid, self.uid, self.uid)
                with open(writer, "wb") as pipe:
                    pickle.dump(_outcome(calls, Client(str(self.socket))), pipe)
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader, "rb") as pipe:
            answer = pickle.load(pipe)  # from our own child
        os.waitpid(child, 0)
        if isinstance(answer, Exception):
            raise answer
        return cast("T", answer)

    def owns(self, path: Path) -> Path:
        """Give him a tree, which nobody else may look into."""
        for below in (path, *path.rglob("*")):
            os.chown(below, self.uid, self.uid, follow_symlinks=False)
        path.chmod(0o700)
        return path

    def repo(self, directory: Path, **files: str) -> Path:
        """A repository of his, below a directory that all may enter."""
        return self.owns(repos.make(directory / f"of-{self.uid}", files))


def _outcome(calls: Calls, client: Client) -> Any:
    try:
        return calls(client)
    except Exception as error:
        # Errors have other arguments than their text: unpickled they would lose what they say.
        return error if type(error).__module__ == "builtins" else _Told(error)


class _Told:
    """An error that finds its way through a pipe."""

    def __init__(self, error: Exception) -> None:
        self._class, self._fields = type(error), error.__dict__

    def __reduce__(self) -> Any:
        return _raised, (self._class, self._fields)


def _raised(kind: type[Exception], fields: dict[str, Any]) -> Exception:
    error = kind.__new__(kind)
    error.__dict__.update(fields)
    error.args = (fields["message"],)
    return error


def open_directory(prefix: str) -> Path:
    """A directory that every user may enter, outside of pytest's."""
    path = Path(tempfile.mkdtemp(prefix=prefix))
    path.chmod(0o755)
    return path


def ended(user: HostUser, **spec: Any) -> dict[str, Any]:
    """A user's task, after its end."""

    def run(client: Client) -> dict[str, Any]:
        task = client.create_task({**TASK, **spec})["id"]
        with client.events(task, follow=True) as stream:
            return {**list(stream)[-1]["task"], "log": [line for line in stream if line]}

    return user.does(run)


@contextmanager
def serving(paths: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon whose socket the group may use, with the image `tiny`."""
    before, state = leaks.look(), paths.mktemp("state")
    with Daemon(state, options=("--group", GROUP), directory=open_directory("hutch-test-")) as daemon:
        tiny.install(daemon, tiny.archive(paths.mktemp("image") / "tiny.tar"))
        yield daemon
    assert not leaks.settled_difference(before)
