"""The phases of a task that run in sandboxes: checkout, setup, maintenance, agent.

Each is a sandbox of its own on the same files; nothing else of one phase reaches the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shlex
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Final

import rootfs
from proxy import trust
from rootfs.errors import shown
from rootfs.refs import packed_refs
from rootfs.runtime_recipe import RuntimeVersion, activated
from rootfs.spread import spread_below
from rootfs.tree import remove_tree
from rootfs.users import ROOT
from sandbox import units
from sandbox.core import environment
from sandbox.core.errors import Conflict, PhaseFailed
from sandbox.core.hiding import Hiding, spellings
from sandbox.core.images import Base
from sandbox.core.journal import Journal
from sandbox.core.model import Phase, Task
from sandbox.core.network import PHASES, NetworkSpec
from sandbox.core.network_record import NetworkRecord
from sandbox.core.policies import Policies
from sandbox.core.runtime import Runtime
from sandbox.core.source import Source
from sandbox.host import jobs
from sandbox.host.cgroup import CgroupError, Limits
from sandbox.host.sandbox import Sandbox, SandboxSpec

_CLOCK: Final = 1.0  # seconds that the clock of the kernel's log may be off
_SCAN_TIMEOUT: Final = 1800.0
_KILLED: Final = 137  # the exit code of a phase that had to be killed, as shells tell it
_GRACE: Final = 3.0  # seconds between SIGTERM and SIGKILL for a phase that must end
# Where the sandboxes of a task write, below its directory.
SETUP: Final = "setup"
PREPARED: Final = "prepared"
AGENT: Final = "agent"
RUNTIME: Final = "runtime"
_REGISTRIES: Final = NetworkSpec("limited", "package-managers")
_CHECKOUT: Final = Path(rootfs.__file__).with_name("checkout.sh")


class PhaseContext:
    """What the phases of one task share: layers, variables, the journal; and the sandbox that is running now."""

    def __init__(self, runtime: Runtime, journal: Journal, network: NetworkRecord, task: Task) -> None:
        self._runtime = runtime
        self._journal = journal
        self._network = network
        self._task = task
        self._layers: list[Path] = []
        self._runtimes: tuple[RuntimeVersion, ...] = ()
        self._source: Source | None = None
        self._closed = False
        self._joinable = False
        self._phase = ""
        self.placeholders: dict[str, dict[str, str]] = {}  # by phase, what stands in its variables for secrets
        self.values: dict[str, dict[str, str]] = {}  # by phase, plain secrets
        self.policies = Policies(runtime, task, journal.notice)
        self.base: Base
        self.phases: list[Phase] = []
        self.limits_hit: list[tuple[str, str]] = []  # what was reached, and the remedy
        self.sandbox: Sandbox | None = None

    def prepare(self, base: Base, source: Source | None) -> None:
        """Set what every phase stands on. Raises NotFound for a secret that is gone."""
        self.base = self.policies.base = base
        self._source = source
        names = self._task.spec.secrets
        secrets = self._runtime.secrets.of(self._task.spec.owner, self._task.spec.lent)
        self.placeholders = {phase: secrets.placeholders(names, phase) for phase in PHASES}
        self.values = secrets.plain(names)
        self._journal.hiding = Hiding(value for values in self.values.values() for value in values.values())
        self._layers = [self._runtime.layers.layer_path(layer) for layer in base.layers]

    def stack_runtimes(self, stacked: Sequence[tuple[RuntimeVersion, Path]]) -> None:
        """Stack language runtimes over the image, below the system layer; every phase from now on finds them."""
        self._runtimes = tuple(version for version, _ in stacked)
        self._layers[-1:-1] = [layer for _, layer in stacked]

    def add_layer(self, layer: Path) -> None:
        """Stack a directory on top, which nobody writes to any more."""
        self._layers.append(layer)

    @property
    def phase(self) -> str:
        """The name of the phase that runs, or ran last."""
        return self._phase

    @property
    def layers_top_first(self) -> list[Path]:
        """The read-only layers below the task's own directory."""
        return list(reversed(self._layers))

    @property
    def env(self) -> dict[str, str]:
        """The variables of the phase that runs."""
        return self.env_of(self._phase)

    def env_of(self, phase: str) -> dict[str, str]:
        """The variables of setup, maintenance or agent."""
        given = {**self._task.spec.env, **self.placeholders.get(phase, {}), **self.values.get(phase, {})}
        image = activated({"PATH": environment.DEFAULT_PATH, **self.base.image.config.env}, self._runtimes)
        return environment.variables(image, trust.trust_env(), given, self.base.user)

    @property
    def cwd(self) -> str:
        """Where commands start: the repository, or the image's own directory, or an empty workspace."""
        return self._source.workdir if self._source else self.base.workdir

    async def checkout(self, writable: Path, commit: str, branch: str | None) -> None:
        """Make the repository's files those of `commit`, by git inside, without network."""
        source = self._source
        assert source is not None
        env = {
            **environment.variables(self.base.image.config.env, {}, {}, self.base.user),
            "HUTCH_WORKTREE": source.workdir,
            "HUTCH_COMMIT": commit,
            "HUTCH_BRANCH": branch or "",
            "HUTCH_ORIGIN_URL": source.url,
            "HUTCH_DEFAULT_BRANCH": source.default_branch or "",
        }
        files = {"checkout.sh": _CHECKOUT.read_bytes(), "packed-refs": packed_refs(source.refs).encode()}
        argv = ("/bin/sh", f"{environment.RUN}/checkout.sh")
        await self._must_succeed("checkout", writable, argv, env, "/", files)

    async def script(self, name: str, writable: Path, text: str) -> None:
        """Run the setup or maintenance script."""
        script = environment.login_script(f"{environment.RUN}/{name}.sh", self.base.has_bash)
        argv, files = environment.entered(self.base.image.config, script)
        files[f"{name}.sh"] = text.encode()
        await self._must_succeed(name, writable, argv, self.env_of(name), self.cwd, files)

    async def build_runtime(self, version: RuntimeVersion, writable: Path) -> None:
        """Run the script of a runtime's recipe, on the image alone and with nothing of the task."""
        argv = environment.login_script(f"{environment.RUN}/runtime.sh", self.base.has_bash)
        env = environment.variables(self.base.image.config.env, trust.trust_env(), version.build_env)
        files = {"runtime.sh": version.script.encode()}
        await self._must_succeed(f"{RUNTIME} {version.label}", writable, argv, env, "/", files, _REGISTRIES)

    async def refuse_secrets(self, phase: str, writable: Path) -> None:
        """Fail if a phase has left the value of a plain secret where the agent, or another task, would find it."""
        if not (values := self.values.get(phase)):
            return
        texts = {name: [b64encode(text).decode() for text in spellings([value])] for name, value in values.items()}
        request = {
            "trees": [str(writable / "upper")],
            "spellings": texts,
            "allowed": list(self._task.spec.secret_paths),
        }
        found = (await jobs.run("rootfs.secret_scan", request, _SCAN_TIMEOUT))["found"]
        if found:
            listed = "; ".join(f"{one['path']} ({one['name']}, {one['why']})" for one in found)
            hidden = self._journal.hiding.data(listed.encode("utf-8", "surrogateescape")).decode("utf-8", "replace")
            raise PhaseFailed(
                f"{phase} left secrets in its files: {hidden}",
                "have it remove them at its end, or let the agent see them: --allow-secret-in PATH",
            )

    async def agent(self, writable: Path) -> int:
        """Run the task's command; returns its exit code."""
        command = environment.login(self._task.spec.command, self.base.has_bash)
        argv, files = environment.entered(self.base.image.config, command)
        code = await self._run("agent", writable, argv, self.env_of("agent"), self.cwd, files)
        if code and files:
            self._journal.notice(f"agent: exit code {code}; {self._entrypoint_remedy()}")
        return code

    async def _must_succeed(
        self, name: str, writable: Path, argv: Sequence[str], env: Mapping[str, str], cwd: str,
        files: Mapping[str, bytes], ours: NetworkSpec | None = None,
    ) -> None:  # fmt: skip
        code = await self._run(name, writable, argv, env, cwd, files, ours)
        if code != 0:
            remedy = f"hutch task logs {self._task.id} shows its output"
            if environment.START in files:
                remedy += f"; {self._entrypoint_remedy()}"
            raise PhaseFailed(f"{name} failed with exit code {code}", remedy)

    def _entrypoint_remedy(self) -> str:
        """Whether an entrypoint came as far as the command, only the inside could tell, and nobody believes it: so, if."""
        image = self.base.image
        entrypoint = shown(shlex.join(image.config.entrypoint))
        return (
            f"if {entrypoint}, the entrypoint of '{image.name}', starts no commands: hutch image import --no-entrypoint"
        )

    async def _run(
        self, name: str, writable: Path, argv: Sequence[str], env: Mapping[str, str], cwd: str,
        files: Mapping[str, bytes], ours: NetworkSpec | None = None,
    ) -> int:  # fmt: skip
        """`ours`: the network of a script of our own, which has nothing of the task, and which nobody joins."""
        self._journal.phase_started(name)
        self._phase = name
        started, code = time.monotonic(), _KILLED
        lost: list[OSError] = []

        async def keep(stream: str, data: bytes) -> None:
            try:
                self._journal.output(name, stream, data)
            except OSError as error:  # a phase whose output can't be kept is ended, not left to block on its pipe
                lost.append(error)
                if self.sandbox is not None:
                    self.sandbox.kill()

        def start(policy: dict[str, Any]) -> AbstractAsyncContextManager[Sandbox]:
            spec = SandboxSpec(
                layers=tuple(self._layers),
                writable=writable,
                argv=tuple(argv),
                env=env,
                cwd=cwd,
                policy=policy,
                limits=self._runtime.default_limits if ours else self._limits(),
                files=files,
                binds={"git/objects": self._source.objects} if self._source and not ours else {},
                redirects=name == "agent",
                executable=environment.START in files,
                user=ROOT if ours else self.base.user,
            )
            return self._runtime.sandboxes.open(spec, keep, self._network.add)

        try:
            opened = self.policies.open_ours(name, start, ours) if ours else self.policies.open(name, start)
            async with opened as sandbox:
                self.sandbox, self._joinable = sandbox, ours is None
                code = await self._wait(sandbox)
                if lost:
                    raise PhaseFailed(
                        f"{name}: cannot keep its output: {lost[0].strerror}", "free some space (hutch gc)"
                    )
                await self._tell_limits(name, sandbox, started)
        finally:
            self.sandbox = None
            self.ended(Phase(name, time.monotonic() - started, code))
        return code

    async def _wait(self, sandbox: Sandbox) -> int:
        try:
            return await sandbox.wait()
        except asyncio.CancelledError:
            # The user's end or the deadline: a well-behaved command may tidy up, any other is killed.
            sandbox.terminate()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GRACE):
                    await sandbox.wait()
            raise

    async def _tell_limits(self, phase: str, sandbox: Sandbox, started: float) -> None:
        """Name the limit that a phase ran into: its exit code alone says nothing."""
        with contextlib.suppress(CgroupError, OSError):
            stats, limits = sandbox.lease.group.stats(), self._limits()
            if stats.oom_kills:
                names = Counter(await asyncio.to_thread(sandbox.lease.group.killed_for_memory, started - _CLOCK))
                killed = ", ".join(
                    f"{name} ({count} times)" if count > 1 else name for name, count in names.most_common(5)
                )
                reached = f"memory: {units.bytes_text(limits.memory)} reached" + (
                    f", killed {killed}" if killed else ""
                )
                self._hit(phase, reached, "--memory raises it")
            if stats.pids_refused:
                self._hit(phase, f"processes: {limits.pids} reached", "--pids raises it")

    def _hit(self, phase: str, reached: str, remedy: str) -> None:
        reached = self._journal.hiding.data(reached.encode("utf-8", "replace")).decode("utf-8", "replace")
        self.limits_hit.append((f"{phase}: {reached}", remedy))
        self._journal.notice(f"{phase}: {reached}; {remedy}")

    def _limits(self) -> Limits:
        return self._task.spec.limits or self._runtime.default_limits

    def ended(self, phase: Phase) -> None:
        """Note a phase's end."""
        self.phases.append(phase)
        with contextlib.suppress(OSError):  # a full disk: the store has the phase
            self._journal.phase_ended(phase)

    def running(self) -> Sandbox:
        """The sandbox that runs now. Raises Conflict between phases."""
        if self.sandbox is None or self._closed or not self._joinable:
            raise Conflict(
                f"task {self._task.id} has no running phase to join", "wait for its next phase, or run it again"
            )
        return self.sandbox

    def close(self) -> None:
        """Nothing runs any more."""
        self._closed = True


def new_writable(directory: Path, *, large: bool = False) -> Path:
    """A directory with an empty `upper` for a sandbox to write to. `large`: many files, so not where another task's have just
    been removed; finding another place takes half a millisecond, which only pays there."""
    if large:
        spread_below(directory.parent)
        place = directory.with_name(secrets.token_hex(8))  # by its name ext4 decides where
        place.mkdir(parents=True)
        place.rename(directory)
    upper = directory / "upper"
    upper.mkdir(parents=True)
    upper.chmod(0o755)
    return directory


def remove_writables(task_directory: Path) -> None:
    """Remove what a task's sandboxes wrote; a tenant's tree, so with care. Never raises for what is gone already."""
    for name in (RUNTIME, SETUP, PREPARED, AGENT):
        path = task_directory / name
        if path.exists():
            remove_tree(path)
