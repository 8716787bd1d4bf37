"""A daemon that is to be killed, on a state of its own with the image `tiny`, and what must hold when it is back.

Looks into the state directory: what a crash leaves there is what these tests are about.
"""

from __future__ import annotations

import contextlib
import re
import signal
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.client import HutchError
from tests.support import leaks, repos, tasks, tiny
from tests.support.daemon import Daemon
from tests.support.tasks import sh

SOURCES = Path(__file__).parents[2] / "sandbox"
RUNTIME = """
description = "a file that says which version it is"
variable = "WORD_VERSION"
exact = true
keep = ["opt/hutch"]
script = 'mkdir -p "$PREFIX" && echo "$VERSION" >"$PREFIX/version"'
check = "cat /opt/hutch/word-*/version"
[versions]
"1" = {}
"""
WORK = (
    "cat /opt/hutch/word-*/version >/dev/null; echo at-work; cat made-by-setup tracked; echo agent >>tracked; sleep 0.2"
)


@dataclass
class Victim:
    """The daemon, its fault file and a repository to work on."""

    daemon: Daemon
    fault: Path
    repo: Path

    @classmethod
    @contextlib.contextmanager
    def make(cls, directory: Path, *, alone: bool = True) -> Iterator[Victim]:
        """With the image imported and the daemon running; at the end it is stopped and nothing may be left.

        Where it isn't alone, others change meanwhile, and looking at what is left is up to the caller.
        """
        fault = directory / "fault"
        fault.write_text("")
        before = leaks.look()
        (own := directory / "runtimes").mkdir()
        (own / "word.toml").write_text(RUNTIME)
        environment = {"HUTCH_FAULT": str(fault), "HUTCH_RUNTIMES": str(own)}
        with Daemon(directory / "state", environment=environment) as daemon:
            tiny.install(daemon, tiny.archive(directory / "tiny.tar"))
            victim = cls(daemon, fault, repos.make(directory / "repo", {"tracked": "base\n"}))
            yield victim
            fault.write_text("")
            victim.crash()  # however the last test left it, a start after a crash and an end in order clean up
        if alone:
            victim.nothing_is_left(before)

    def spec(self, word: str) -> dict[str, Any]:
        """A task that goes through every phase, in the environment `word`."""
        setup = f"echo {word} >made-by-setup; head -c 300000 /dev/urandom >/root/bulk"
        runtimes = {"word": f"1.{zlib.crc32(word.encode())}"}
        return {
            "image": "tiny", "repo": str(self.repo), "runtimes": runtimes, "setup": setup, "command": sh(f"set -e; {WORK}"),
        }  # fmt: skip

    def submit(self, word: str) -> str:
        return self.daemon.client.create_task(self.spec(word))["id"]  # type: ignore[arg-type]

    def must_work(self, word: str) -> dict[str, Any]:
        """The task of that environment runs to its end with the right output and diff, from whatever snapshot there is."""
        done = tasks.finish(self.daemon, self.submit(word))
        assert (done["state"], done["exit_code"]) == ("succeeded", 0), (
            done["error"],
            tasks.events(self.daemon, done["id"]),
        )
        assert tasks.output(self.daemon, done["id"]).decode() == f"at-work\n{word}\nbase\n"
        assert done["diff"] == {"files": 1, "insertions": 1, "deletions": 0}
        assert b"+agent" in self.daemon.client.diff(done["id"]).read()
        return done

    def has_died(self, seconds: float = 60) -> bool:
        """Wait for the daemon to kill itself; False if the task has ended before."""
        assert self.daemon.process is not None
        deadline = time.monotonic() + seconds
        while self.daemon.process.poll() is None:
            assert time.monotonic() < deadline, "neither did the daemon die nor the task end"
            try:
                if not any(task["state"] in ("queued", "running") for task in self.daemon.client.tasks()):
                    time.sleep(
                        1
                    )  # the last steps come after the end is stored, those of a lease when the pool is filled again
                    return self.daemon.process.poll() is not None
            except HutchError:
                continue
            time.sleep(0.02)
        return True

    def crash(self) -> None:
        """SIGKILL the daemon alone, and start it again. What must hold then is checked."""
        if self.daemon.process is not None:
            self.daemon.stop(signal.SIGKILL)
        self.fault.write_text("")
        self.daemon.start()
        self.all_is_told()
        self.disk_is_clean()

    def all_is_told(self) -> None:
        """Every task has ended, says why, and its journal ends with it."""
        for task in self.daemon.client.tasks():
            assert task["state"] not in ("queued", "running"), task
            if task["state"] == "lost":
                assert task["error"], task
                assert "before the task did" in task["error"]["message"]
            last = tasks.events(self.daemon, task["id"])[-1]
            assert (last["type"], last["task"]["state"]) == ("end", task["state"]), (task["id"], last)

    def disk_is_clean(self) -> None:
        """Nothing half-made, no task's files, no directory without a task (which is removed after the task's end is told)."""
        tasks.wait_for(lambda: not self.rubbish(), f"the removal of {self.rubbish()}", 15)

    def rubbish(self) -> list[Path]:
        """What should not be in the state directory while no task runs."""
        state, known = self.daemon.state, {task["id"] for task in self.daemon.client.tasks()}
        found = list((state / "staging").glob("*"))
        for directory in list((state / "tasks").glob("*")):
            kept = ("events.ndjson", "diff.patch") if directory.name in known else ()
            found += [path for path in directory.glob("*") if path.name not in kept]
            found += [directory] if not kept else []
        return found

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """For each test: the daemon runs, without a fault; afterwards no more is there than a running daemon has."""
        self.fault.write_text("")
        if self.daemon.process is None:
            self.daemon.start()
        before = leaks.look(self.daemon.pid)
        yield
        if self.daemon.process is not None:
            left = leaks.settled_difference(before, self.daemon.pid)
            assert left == [], "\n".join([*left, self.daemon.log[-3000:]])
        else:
            self.nothing_is_left(before)

    def nothing_is_left(self, before: leaks.Kinds) -> None:
        """The daemon has ended, and with it all that it made; other daemons' groups don't count."""
        instance = (self.daemon.state / "instance").read_text().split()[0]
        left = leaks.settled_difference(before)
        assert [line for line in left if not line.startswith("cgroup") or instance in line] == []


def steps() -> list[str]:
    """The names of all steps at which a fault can be injected, as the sources have them."""
    calls = (re.findall(r'fault\.at\("([^"]+)"\)', path.read_text()) for path in sorted(SOURCES.rglob("*.py")))
    return [name for names in calls for name in names]
