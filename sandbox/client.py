"""The Python SDK: every call of the daemon's API as a method of Client. The command line uses nothing else.

It must not print, exit, import anything slow (a `hutch exec` has 100 ms for everything) or know anything but the API.
Its errors are drawn as a tree in sandbox/failures.py.

What the API sends is JSON and stays plain dicts, described by the TypedDicts of sandbox/shapes.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, cast

from sandbox.calls import Caller, Stream, header, query, segment
from sandbox.failures import ApiError, ConnectionLost, DaemonUnreachable, HutchError, JobFailed

if TYPE_CHECKING:  # making the TypedDicts takes 2 ms, which no call needs
    from sandbox.shapes import (
        Artifacts,
        Cleared,
        Collected,
        Dropped,
        Effective,
        Environment,
        EnvironmentHead,
        Explanation,
        Image,
        LanguageRuntime,
        NetworkChange,
        NetworkState,
        Secret,
        SettingsRequest,
        Snapshot,
        Task,
        TaskSpec,
    )

__all__ = [
    "DEFAULT_SOCKET", "ApiError", "Client", "ConnectionLost", "DaemonUnreachable", "HutchError", "JobFailed", "Stream",
]  # fmt: skip

DEFAULT_SOCKET = "/run/hutch/hutch.sock"


class Client(Caller):
    """The daemon's API: one connection per call, safe in several threads. Every method may raise any HutchError."""

    def __init__(self, socket: str = DEFAULT_SOCKET) -> None:
        super().__init__(socket)

    def health(self) -> dict[str, Any]:
        """{"status": "ok", "version": str, "pid": int} of the running daemon."""
        return self._json("GET", "/health")

    def doctor(self) -> list[dict[str, Any]]:
        """What the daemon's host can do: [{"name", "ok", "level": "required"|"optional", "detail", "remedy"}]."""
        return list(self._json("GET", "/doctor")["checks"])

    def images(self) -> list[Image]:
        """All images."""
        return list(self._json("GET", "/images")["images"])

    def image(self, name: str) -> Image:
        """One image. ApiError 404 where there is none of that name."""
        return cast("Image", self._json("GET", f"/images/{segment(name)}"))

    def remove_image(self, name: str) -> None:
        """Forget an image; its layers go with the next gc."""
        self._stream("DELETE", f"/images/{segment(name)}").read()

    def build_image(self, name: str, recipe: str) -> Iterator[dict[str, Any]]:
        """Build an image from a recipe that the daemon knows. Yields {"progress": text}… and last {"result": Image}."""
        yield from self._job("POST", "/images/build", {"name": name, "recipe": recipe})

    def import_image(
        self, name: str, archive: Iterable[bytes], *, source: str = "", entrypoint: bool = True
    ) -> Iterator[dict[str, Any]]:
        """Make an image of an archive's bytes, which are streamed; with its entrypoint or without. Yields like build_image."""
        headers = {"Content-Type": "application/octet-stream", "X-Hutch-Source": header(source)}
        query = "" if entrypoint else "?entrypoint=false"
        yield from self._job("PUT", f"/images/{segment(name)}{query}", archive, headers)

    def pull_image(self, name: str, reference: str, *, entrypoint: bool = True) -> Iterator[dict[str, Any]]:
        """Make an image of one in a registry, by the daemon's skopeo; with its entrypoint or without. Yields like build_image."""
        body = {"name": name, "reference": reference, "entrypoint": entrypoint}
        yield from self._job("POST", "/images/pull", body)

    def create_task(self, spec: TaskSpec) -> Task:
        """Queue a task; returns at once with its id."""
        return cast("Task", self._json("POST", "/tasks", dict(spec)))

    def tasks(self) -> list[Task]:
        """All tasks that the journal still has."""
        return list(self._json("GET", "/tasks")["tasks"])

    def task(self, task: str) -> Task:
        """One task, by its id or any unambiguous beginning of it."""
        return cast("Task", self._json("GET", f"/tasks/{segment(task)}"))

    def inspect(self, task: str) -> dict[str, Any]:
        """The walls of a running task's sandbox, read back from the kernel."""
        return self._json("GET", f"/tasks/{segment(task)}/sandbox")

    def usage(self) -> list[dict[str, Any]]:
        """What the tasks that have not ended use right now."""
        return list(self._json("GET", "/usage")["tasks"])

    def metrics(self) -> str:
        """The daemon's totals in Prometheus' text form."""
        return self._stream("GET", "/metrics").read().decode()

    def events(self, task: str, *, follow: bool, only: str = "") -> Stream:
        """A task's events from the beginning; with `follow` live until the last one, {"type": "end", "task": Task}.

        only="network": the records of the network alone.
        """
        asked = query({"follow": "true" if follow else "false", **({"only": only} if only else {})})
        return self._stream("GET", f"/tasks/{segment(task)}/events{asked}", timeout=None)

    def presets(self) -> dict[str, list[str]]:
        """The presets: name -> rules."""
        return dict(self._json("GET", "/presets")["presets"])

    def network(self, task: str) -> NetworkState:
        """What the phases of a task may reach, and the daemon's ceiling."""
        return cast("NetworkState", self._json("GET", f"/tasks/{segment(task)}/network"))

    def change_network(self, task: str, setting: dict[str, Any]) -> NetworkChange:
        """Set access, preset, rules (all of them) or methods of a task's agent; in force on return if that runs."""
        return cast("NetworkChange", self._json("PATCH", f"/tasks/{segment(task)}/network", setting))

    def add_rules(self, task: str, rules: list[str]) -> NetworkChange:
        """Allow, or with `deny RULE` deny, the agent of a task more; in force on return if that runs."""
        return cast("NetworkChange", self._json("POST", f"/tasks/{segment(task)}/network/rules", {"rules": rules}))

    def explain(self, task: str, url: str, *, method: str = "GET", phase: str = "agent") -> Explanation:
        """What would become of a request in a phase of a task."""
        asked = query({"url": url, "method": method, "phase": phase})
        return cast("Explanation", self._json("GET", f"/tasks/{segment(task)}/network/explain{asked}"))

    def diff(self, task: str) -> Stream:
        """A task's patch: take it with read() or chunks()."""
        return self._stream("GET", f"/tasks/{segment(task)}/diff")

    def cancel(self, task: str) -> Task:
        """Ask for a task's end; the events tell when it has come."""
        return cast("Task", self._json("POST", f"/tasks/{segment(task)}/cancel", {}))

    def remove_task(self, task: str) -> None:
        """Forget a task with its logs and its result. ApiError 409 while it runs."""
        self._stream("DELETE", f"/tasks/{segment(task)}").read()

    def exec(self, task: str, command: list[str], **options: Any) -> Stream:
        """Run a command in a task's sandbox. Options: tty, stdin, login (bool), rows, cols (int), env (dict).

        Yields {"type": "started", "exec": id}, {"type": "output", "stream": "stdout"|"stderr", "data": base64}… and
        last {"type": "exit", "exit_code": int}. An empty command with login=True is the login shell. Hanging up kills
        what runs.
        """
        body = {
            "command": command,
            "tty": False,
            "rows": 24,
            "cols": 80,
            "stdin": False,
            "env": {},
            "login": False,
            **options,
        }
        return self._stream("POST", f"/tasks/{segment(task)}/exec", body, timeout=None)

    def exec_stdin(self, exec_id: str, data: Iterable[bytes]) -> None:
        """Feed an exec's standard input until `data` ends, which is the end of the input."""
        self._stream("POST", f"/execs/{segment(exec_id)}/stdin", data, timeout=None).read()

    def exec_resize(self, exec_id: str, rows: int, cols: int) -> None:
        """Tell an exec's terminal its size in characters."""
        self._stream("POST", f"/execs/{segment(exec_id)}/resize", {"rows": rows, "cols": cols}).read()

    def exec_signal(self, exec_id: str, name: str) -> None:
        """Send a signal by its name without SIG, for example "INT"."""
        self._stream("POST", f"/execs/{segment(exec_id)}/signal", {"signal": name}).read()

    def environments(self) -> list[EnvironmentHead]:
        """All environments, without their settings."""
        return list(self._json("GET", "/environments")["environments"])

    def environment(self, name: str) -> Environment:
        """One environment."""
        return cast("Environment", self._json("GET", f"/environments/{segment(name)}"))

    def create_environment(self, name: str, settings: dict[str, Any]) -> Environment:
        """Keep settings under a new name."""
        return cast("Environment", self._json("POST", "/environments", {"name": name, "settings": settings}))

    def replace_environment(self, name: str, settings: dict[str, Any]) -> Environment:
        """Give an environment other settings: all of them."""
        return cast("Environment", self._json("PUT", f"/environments/{segment(name)}", settings))

    def remove_environment(self, name: str) -> None:
        """Forget an environment and its snapshots."""
        self._stream("DELETE", f"/environments/{segment(name)}").read()

    def share_environment(self, name: str, member: str, may: str) -> Environment:
        """Let `user:NAME` or `group:NAME` of the host see, use or change an environment."""
        body = {"member": member, "may": may}
        return cast("Environment", self._json("POST", f"/environments/{segment(name)}/members", body))

    def unshare_environment(self, name: str, member: str) -> Environment:
        """Take that back."""
        return cast("Environment", self._json("DELETE", f"/environments/{segment(name)}/members/{segment(member)}"))

    def reset_cache(self, name: str) -> Dropped:
        """Drop an environment's snapshots."""
        return cast("Dropped", self._json("DELETE", f"/environments/{segment(name)}/cache"))

    def effective(self, request: SettingsRequest) -> Effective:
        """What would hold for a task with these settings."""
        return cast("Effective", self._json("POST", "/environments/effective", dict(request)))

    def runtimes(self) -> list[LanguageRuntime]:
        """The language runtimes that a task may ask for."""
        return list(self._json("GET", "/runtimes")["runtimes"])

    def snapshots(self) -> list[Snapshot]:
        """All snapshots, newest first."""
        return list(self._json("GET", "/snapshots")["snapshots"])

    def snapshot(self, snapshot: str) -> Snapshot:
        """One snapshot, by its id or any unambiguous beginning of it."""
        return cast("Snapshot", self._json("GET", f"/snapshots/{segment(snapshot)}"))

    def remove_snapshot(self, snapshot: str) -> Dropped:
        """Drop a snapshot."""
        return cast("Dropped", self._json("DELETE", f"/snapshots/{segment(snapshot)}"))

    def secrets(self) -> list[Secret]:
        """All secrets, without their values."""
        return list(self._json("GET", "/secrets")["secrets"])

    def set_secret(self, name: str, value: str, setting: dict[str, Any]) -> Secret:
        """Make or replace a secret. setting: {"for": [HOST or HOST/path…], "header", "places", "phases"}; see shapes.Secret."""
        return cast("Secret", self._json("PUT", f"/secrets/{segment(name)}", {"value": value, **setting}))

    def rotate_secret(self, name: str, value: str) -> Secret:
        """Give a secret another value."""
        return cast("Secret", self._json("POST", f"/secrets/{segment(name)}/rotate", {"value": value}))

    def remove_secret(self, name: str) -> None:
        """Forget a secret."""
        self._stream("DELETE", f"/secrets/{segment(name)}").read()

    def artifacts(self) -> Artifacts:
        """The package downloads that the filter keeps."""
        return cast("Artifacts", self._json("GET", "/cache"))

    def clear_artifacts(self) -> Cleared:
        """Drop them all."""
        return cast("Cleared", self._json("DELETE", "/cache"))

    def gc(self, **wanted: float) -> Collected:
        """Drop expired snapshots, unused layers and old tasks. Options: older_than (seconds), keep (number), free (bytes)."""
        return cast("Collected", self._json("POST", "/gc", wanted, timeout=None))
