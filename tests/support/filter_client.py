"""The daemon's own half of a filter (sandbox.host.filter) for tests that are not asynchronous: it runs in a thread.

Must not decide or fake anything: the processes are the real ones, and what they tell is kept as it came.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sandbox.host.filter import Filter as HostFilter
from sandbox.host.filter import FilterConfig

Record = dict[str, Any]


class Filter:
    """A running filter. `messages` are its network records, with the sandbox's address as "sandbox"."""

    def __init__(self, config: FilterConfig, tcp: socket.socket, dns: socket.socket) -> None:
        self.messages: list[Record] = []
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._filter = self.call(self._make(config, tcp, dns))
        except BaseException:
            self._end_thread()
            raise

    async def _make(self, config: FilterConfig, tcp: socket.socket, dns: socket.socket) -> HostFilter:
        made = HostFilter(config, tcp, dns)
        await made.start()
        return made

    def call[T](self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the host's side and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(200)

    @property
    def host(self) -> HostFilter:
        """The daemon's object; its coroutines go through `call`."""
        return self._filter

    # ── policies and records ─────────────────────────────────────────────────────────────────────────────────────

    def policy(self, sandbox: str, access: str, *rules: str, phase: str = "agent", **more: Any) -> None:
        """Put a policy in force; `more` are its other parts (methods, preset, credentials, …)."""
        policy = {"phase": phase, "access": access, "rules": list(rules), **more}

        def heard(record: Record) -> None:
            with self._changed:
                self.messages.append({"sandbox": sandbox, **record})
                self._changed.notify_all()

        self.call(self._filter.register(sandbox, policy, heard))

    def drop(self, sandbox: str) -> None:
        self.call(self._filter.drop(sandbox))

    def wait_for(self, test: Callable[[Record], bool], seconds: float = 20) -> Record:
        deadline = time.monotonic() + seconds
        with self._changed:
            while True:
                found = next((message for message in self.messages if test(message)), None)
                if found is not None:
                    return found
                left = deadline - time.monotonic()
                assert left > 0, f"nothing like it came; what came: {self.messages[-20:]}"
                self._changed.wait(left)

    def record(self, seconds: float = 20, **fields: Any) -> Record:
        """The first network record with these fields; waits for it."""
        return self.wait_for(lambda message: all(message.get(key) == value for key, value in fields.items()), seconds)

    def forget_records(self) -> None:
        with self._changed:
            self.messages.clear()

    # ── processes ────────────────────────────────────────────────────────────────────────────────────────────────

    def workers(self) -> list[int]:
        """The process ids of the workers that serve now."""
        return self._pids("worker")

    def processes(self) -> list[int]:
        """All process ids of the filter, the master's first if there is one."""
        return [pid for pid in (self._filter.pid, *self._pids("worker"), *self._pids("artifacts")) if pid]

    def caches(self) -> list[int]:
        """The process id of the artifact cache, if it serves now."""
        return self._pids("artifacts")

    def _pids(self, kind: str) -> list[int]:
        async def look() -> list[int]:  # where nobody changes them meanwhile
            return self._filter.pids(kind)

        return self.call(look())

    def memory(self) -> int:
        """Bytes of memory of all processes together; what they share counts once (PSS)."""
        texts = (Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.processes())
        return sum(int(line.split()[1]) * 1024 for text in texts for line in text.splitlines() if line[:4] == "Pss:")

    def close(self) -> None:
        """End it, if it hasn't ended already."""
        if not self._thread.is_alive():
            return
        self.call(self._filter.close())
        self._end_thread()

    def _end_thread(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()
