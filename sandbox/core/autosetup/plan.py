"""What automatic setup will do: steps with their reasons, the script that runs them, the words that explain it. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final

from sandbox.core.autosetup.tree import Folder

MOST_STEPS: Final = 20
_TOOLS: Final = Path(__file__).with_name("tools.sh").read_text()
_MAGIC: Final = str.maketrans({character: f"\\{character}" for character in "\\*?[]!# "})


@dataclass(frozen=True)
class Step:
    """One installation in one folder.

    `title` names it (`npm ci`), `reason` the file that asked for it. `tools`: lines that install what is missing, `commands`:
    what runs in the folder then, each only if the one before worked. `decided_by`: all files that make it what it is. `makes`:
    patterns of .gitignore, from the folder, for what it makes there. `best_effort`: its failing is told and isn't the end.
    """

    folder: Folder
    title: str
    reason: str
    commands: tuple[str, ...]
    tools: tuple[str, ...] = ()
    decided_by: tuple[str, ...] = ()
    makes: tuple[str, ...] = ()
    best_effort: bool = False
    members: tuple[Folder, ...] = ()

    @property
    def place(self) -> str:
        return f"{self.folder.path}/" if self.folder.path else ""

    @property
    def name(self) -> str:
        """What it does and where."""
        return f"{self.title} in {self.place}" if self.place else self.title

    @property
    def digests(self) -> dict[str, str]:
        """The ids of the files that decided, by path; of the members of a workspace as well."""
        folders = (self.folder, *self.members)
        found = [folder.manifests[name] for folder in folders for name in self.decided_by if name in folder.manifests]
        return {manifest.path: manifest.id for manifest in found}

    @property
    def excludes(self) -> list[str]:
        """`makes`, from the repository's root; what is tracked there stays the repository's."""
        place = self.place.translate(_MAGIC)
        return [f"/{place}{it}" for it in self.makes if it.rstrip("/") not in self.folder.made]


@dataclass(frozen=True)
class Plan:
    """All steps of a commit in order, and what was seen and isn't done."""

    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

    @cached_property
    def digests(self) -> Mapping[str, str]:
        """The ids of all files that decided, by path."""
        return {path: identity for step in self.steps for path, identity in step.digests.items()}

    @cached_property
    def excludes(self) -> Sequence[str]:
        """Patterns of .gitignore for what the steps make in the work tree: no part of a task's result."""
        return list(dict.fromkeys(pattern for step in self.steps for pattern in step.excludes))

    def beyond(self, other: Plan) -> Plan:
        """The steps that `other` has not, or has for other files."""
        known = {(step.name, step.commands): step.digests for step in other.steps}
        return Plan(tuple(step for step in self.steps if known.get((step.name, step.commands)) != step.digests))

    def explain(self) -> list[str]:
        """A line for each step, and for what is left out."""
        done = [f"automatic setup: {step.name} ({step.place}{step.reason})" for step in self.steps]
        return done + [f"automatic setup: {note}" for note in self.notes]

    @cached_property
    def script(self) -> str:
        """The script for a POSIX shell; empty without a step."""
        if not self.steps:
            return ""
        told = " ".join(shlex.quote(line) for line in self.explain())
        settle = " ".join(["hutch_settle", *(shlex.quote(pattern) for pattern in self.excludes)])
        return "\n".join([_TOOLS, f"printf '%s\\n' {told}", *(_lines(step) for step in self.steps), settle, ""])


def _lines(step: Step) -> str:
    """A step's part of the script. In a subshell: neither directory nor variables reach the next step."""
    failed = "hutch_skipped" if step.best_effort else "hutch_failed"
    tools = " && ".join(step.tools)
    commands = " &&\n".join(f"  {command}" for command in (f"cd {shlex.quote(f'./{step.place}')}", *step.commands))
    begin = f"hutch_step {shlex.quote(step.name)}"
    if not tools:
        return f"{begin}\n(\n{commands}\n) || {failed}"
    # The tools are installed outside: where they are found is for all later steps to know.
    return f"{begin}\nif {tools}; then (\n{commands}\n) || {failed}; else {failed}; fi"
