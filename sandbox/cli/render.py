"""A task's events as text: headings, the phases' output on the right stream, notices, and the summary at the end.

The decisions (summary lines, exit code, JSON result) are pure functions of the task; only Renderer writes, through a
Screen. It must not talk to the daemon.
"""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any, cast

from sandbox.cli import net_text
from sandbox.cli.codes import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_TIMED_OUT, process_code
from sandbox.cli.output import plural, seconds_text
from sandbox.cli.screen import Screen
from sandbox.shapes import Network, Task

_WORDS = {"succeeded": "succeeded", "failed": "failed", "cancelled": "was cancelled", "timed_out": "ran out of time"}
_RESULT_FIELDS = ("id", "state", "exit_code", "commit", "cache", "phases", "diff", "network", "error")


class Renderer:
    """Shows one task's events, in order."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._denied: set[tuple[str, str]] = set()

    def show(self, event: dict[str, Any]) -> None:
        """One event. Types that this version does not know are passed over: a newer daemon may send more."""
        match event.get("type"):
            case "output":
                # Only the agent's stdout is the command's result; what setup prints is a log.
                stream = event["stream"] if event.get("phase") == "agent" else "stderr"
                self._screen.output(stream, a2b_base64(event["data"]))
            case "phase":
                self._screen.heading(phase_line(event))
            case "notice":
                self._screen.notice(event["text"])
            case "network" if event.get("decision") == "deny":
                self._refusal(event)
            case "end":
                self.summary(event["task"])

    def summary(self, task: Task) -> None:
        """How it ended and what to do next."""
        first, *rest = summary_lines(task)
        self._screen.heading(first, "bold" if task["state"] == "succeeded" else "red")
        for line in rest:
            self._screen.heading(line, "dim")

    def _refusal(self, event: dict[str, Any]) -> None:
        """The first refusal of each name, when it happens: it usually explains the failure that follows."""
        what = (str(event.get("phase")), str(event.get("name")))
        if what not in self._denied:
            self._denied.add(what)
            self._screen.notice(net_text.refusal(event))


def phase_line(event: dict[str, Any]) -> str:
    """`== setup`, and at its end how it went and how long it took."""
    name = f"== {event.get('phase')}"
    if event.get("state") != "ended":
        return name
    took = seconds_text(float(event.get("seconds") or 0))
    code = event.get("exit_code")
    return f"{name}: done in {took}" if code == 0 else f"{name}: {_ended_how(code)} after {took}"


def _ended_how(code: int | None) -> str:
    return "ended" if code is None else f"exit code {code}"


def summary_lines(task: Task) -> list[str]:
    """The end of a task in a few lines: result and times, why it failed, cache, diff, refusals, what to do next."""
    task_id = task["id"]
    phases = ", ".join(f"{p['name']} {seconds_text(p['seconds'] or 0)}" for p in task.get("phases") or [])
    how = _WORDS.get(task["state"], f"is {task['state']}")
    code = task.get("exit_code")
    exit_text = f" with exit code {code}" if task["state"] == "failed" and code else ""
    lines = [f"== task {task_id} {how}{exit_text}" + (f" ({phases})" if phases else "")]
    if error := task.get("error"):
        remedy = error.get("remedy")
        lines.append(f"   error: {error['message']}" + (f" ({remedy})" if remedy else ""))
    if cache := task.get("cache"):
        lines.append(
            f"   cache: {'hit' if cache['hit'] else 'miss'}" + (f", {cache['reason']}" if cache["reason"] else "")
        )
    if stat := diff_text(task):
        lines.append(f"   diff: {stat}")
    lines += [f"   denied: {line}" for line in net_text.denied_lines(network_of(task)["denied"], task_id)]
    if task.get("diff") and task["diff"]["files"]:  # type: ignore[index]
        lines.append(f"   next: hutch task diff {task_id}")
    return lines


def network_of(task: Task) -> Network:
    """What the network record says; empty for a task that never came so far."""
    found = cast(Any, task).get("network") or {}
    return Network(allowed=found.get("allowed") or 0, denied=found.get("denied") or [])


def diff_text(task: Task) -> str:
    """The diff's size as git says it; empty before there is a diff."""
    diff = task.get("diff")
    if not diff:
        return ""
    if not diff["files"]:
        return "no changes"
    return f"{plural(diff['files'], 'file')} changed, +{diff['insertions']} -{diff['deletions']}"


def exit_code(task: Task) -> int:
    """The process's exit code: the agent command's, 130 cancelled, 124 out of time, 1 for every other failure."""
    if task["state"] == "cancelled":
        return EXIT_INTERRUPTED
    if task["state"] == "timed_out":
        return EXIT_TIMED_OUT
    ran = [p["exit_code"] for p in task.get("phases") or [] if p["name"] == "agent" and p["exit_code"] is not None]
    if task["state"] == "succeeded":
        return process_code(task.get("exit_code") or 0)
    # A setup that failed with 7 must not look like a command that answered 7.
    return process_code(ran[-1]) if ran and ran[-1] else EXIT_FAILED


def result(task: Task) -> dict[str, Any]:
    """The one object of `hutch run --json`."""
    found: dict[str, Any] = {field: task.get(field) for field in _RESULT_FIELDS}
    found["phases"] = found["phases"] or []
    found["network"] = network_of(task)
    return found
