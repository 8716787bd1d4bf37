"""The daemon: takes the state directory, puts the host's parts together, serves the API, and takes everything down in order.

lock ─ database ─ cgroups (swept) ─ ids ─ spawner ─ gateway ─ filter ─ leases ─ lost tasks swept ─ API … and back, in reverse
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import grp
import logging
import os
import re
import resource
import secrets
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn
import uvloop

from proxy import trust
from rootfs.runtime_recipe import recipes
from rootfs.spread import spread_below
from rootfs.store import Store as LayerStore
from rootfs.tree import remove_tree
from sandbox.api.app import make_app
from sandbox.api.audit import Audit
from sandbox.api.bounds import Bounded
from sandbox.api.peers import PeerProtocol
from sandbox.api.services import Services
from sandbox.core import phases
from sandbox.core.ceiling import Ceiling
from sandbox.core.ceiling import load as load_ceiling
from sandbox.core.disk_watch import DiskWatch
from sandbox.core.environments import Environments
from sandbox.core.errors import TaskError
from sandbox.core.execs import Execs
from sandbox.core.gc import keep_tidy
from sandbox.core.images import Bases
from sandbox.core.registries import Registries
from sandbox.core.relay import Relays
from sandbox.core.runtime import Runtime
from sandbox.core.scheduler import Scheduler
from sandbox.core.sealing import Sealer
from sandbox.core.secrets import Secrets
from sandbox.core.snapshots import Snapshots
from sandbox.core.store import Store
from sandbox.host import filter as egress
from sandbox.host import identity, jobs, seccomp, trusted
from sandbox.host.cgroup import Cgroups, Limits
from sandbox.host.errors import HostError
from sandbox.host.index_questions import IndexQuestions
from sandbox.host.key_files import read_key, write_key
from sandbox.host.leases import Leases
from sandbox.host.network import Gateway
from sandbox.host.sandbox import Sandboxes
from sandbox.host.spawner import Spawners

_log = logging.getLogger("hutch")
_INIT: Final = ("/usr/bin/catatonit", "/usr/libexec/podman/catatonit", "/usr/libexec/catatonit/catatonit")
GROUP: Final = "hutch"
_MEMORY: Final = 8 << 30  # bytes a sandbox may use unless its task says otherwise, if the host has twice that
_PROCESSES: Final = 4096
_THREADS: Final = 64
_READY_JOBS: Final = 3  # a task fetches, looks for what is in no commit, and makes its result
_DESCRIPTORS: Final = 65536  # a queued task holds one, a running one about a dozen; shells start us with 1,024


@dataclass(frozen=True)
class Settings:
    """How the daemon was started."""

    state: Path
    socket: Path
    ceiling: Ceiling
    max_tasks: int = 64
    hosts: Path | None = None
    cache_size: int = 10 << 30  # bytes of package downloads that are kept; 0: none
    group: str | None = None  # who may connect beside root; None: the group GROUP, if there is one


def serve(
    state: Path, socket: Path, *, private_names: Sequence[str] = (), max_tasks: int = 64, hosts: Path | None = None,
    ceiling: Path | None = None, cache_size: int = Settings.cache_size, group: str | None = None,
) -> None:  # fmt: skip
    """Run the daemon in the foreground until SIGTERM or SIGINT. Raises TaskError, HostError or ImageError if it can't start."""
    logging.basicConfig(level=logging.INFO, format="hutch: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    recipes()  # a file that is no recipe is told now, and not to a task
    limits = load_ceiling(ceiling).with_private(private_names)
    settings = Settings(state, socket, limits, max_tasks, hosts, cache_size, group)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, _DESCRIPTORS)), hard))
    uvloop.run(_serve(settings))


async def _serve(settings: Settings) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    # Removing large trees takes a while; releasing what others wait for must not queue up behind it.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS))
    async with contextlib.AsyncExitStack() as stack:
        stack.enter_context(_locked(settings.state))
        store = Store(settings.state / "hutch.db")
        stack.callback(store.close)
        runtime = await _runtime(stack, settings, store)
        scheduler = Scheduler(runtime, settings.max_tasks)
        await scheduler.recover()
        await asyncio.to_thread(_sweep, settings.state, runtime.layers, store.task_ids())
        stack.push_async_callback(scheduler.close)
        services = Services(runtime, scheduler, Execs(), Relays(), Snapshots(runtime), Environments(store))
        listener = stack.enter_context(_listen(settings.socket, _group(settings.group)))
        await stack.enter_async_context(jobs.keep_ready("rootfs.git_job", _READY_JOBS))
        async with _api(services, listener):
            _log.info("serving on %s (state %s)", settings.socket, settings.state)
            if settings.ceiling.file:
                _log.info("the ceiling of all tasks is %s", settings.ceiling.file)
            gc.collect()
            gc.freeze()  # what is here now stays: no collection has to look at it again, while somebody waits for a start
            watch = DiskWatch(runtime, scheduler).watch()
            keeping = [asyncio.create_task(one) for one in (keep_tidy(runtime, scheduler), watch)]
            for one in keeping:
                one.add_done_callback(_tell_end)
            await stop.wait()
            _log.info("ending")
            for one in keeping:
                one.cancel()
            # Tasks first: their followers' connections then end by themselves.
            await scheduler.close()
            await services.relays.close()
            await runtime.kept()
    _log.info("ended")


def _tell_end(task: asyncio.Task[None]) -> None:
    """What runs for the daemon's life has ended by itself: whoever reads the log must know."""
    if not task.cancelled():
        _log.error("%s ended: %r", task.get_coro(), task.exception())


@contextlib.contextmanager
def _locked(state: Path) -> Iterator[None]:
    """One daemon per state directory; the kernel drops the lock with the process."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = state.stat()
    if found.st_uid != 0:
        raise TaskError(f"cannot keep secrets in {state}: it isn't root's", "chown root it, or give another --state")
    if found.st_mode & 0o077:
        if any(state.iterdir()) and not any((state / name).exists() for name in ("hutch.db", "instance")):
            raise TaskError(
                f"cannot keep secrets in {state}: it holds other things, and others may look into it",
                "give an empty directory, or one that only root may enter",
            )
        _log.info("the state %s is for root alone from now on", state)
        state.chmod(0o700)
    fd = os.open(state / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(fd)
        raise TaskError(
            f"another daemon serves the state {state}", "stop it, or give this one another --state"
        ) from error
    try:
        yield
    finally:
        os.close(fd)


async def _runtime(stack: contextlib.AsyncExitStack, settings: Settings, store: Store) -> Runtime:
    """Acquire the host's parts, each with its release."""
    state = settings.state
    instance = _instance(state)
    cgroups = Cgroups.open(instance)
    stack.callback(cgroups.close)
    await asyncio.to_thread(cgroups.sweep, set())
    ids = identity.claim_block()
    stack.callback(ids.release)
    spawners = Spawners()
    stack.push_async_callback(spawners.end)
    gateway = await Gateway.open(spawners.current())
    stack.push_async_callback(gateway.close)
    ca_pem = _certificate_authority(state)
    artifacts = state / "artifacts" if settings.cache_size else None
    config = egress.FilterConfig(
        ca_pem, ids.filter_uid, settings.ceiling.private, settings.hosts, artifacts,
        artifact_bytes=min(settings.cache_size, shutil.disk_usage(state).total // 10),
    )  # fmt: skip
    filter_process = egress.Filter(config, gateway.tcp, gateway.dns)
    stack.push_async_callback(filter_process.close)
    await filter_process.start()
    limits = settings.ceiling.lowered(_default_limits())
    leases = Leases(spawners.current, gateway, cgroups, ids, limits)
    stack.push_async_callback(leases.close)
    leases.refill()
    programs = tuple(_memory_file("seccomp", program) for program in (seccomp.allow_list(), seccomp.by_argument()))
    init = _sealed_init()
    for fd in (init, *programs):
        stack.callback(os.close, fd)
    layers, changing_layers = LayerStore(state), asyncio.Lock()
    questions = IndexQuestions(ids.errand_uid, settings.hosts, settings.ceiling.private, trusted.host_bundle())
    registries = Registries(layers, state / "registries.json", questions, settings.ceiling.deny)
    stack.push_async_callback(registries.close)
    return Runtime(
        state=state,
        store=store,
        layers=layers,
        bases=Bases(layers, ca_pem.encode(), changing_layers),
        sandboxes=Sandboxes(leases, filter_process, init, programs),
        default_limits=limits,
        ceiling=settings.ceiling,
        registries=registries,
        secrets=Secrets(store, Sealer.load(state)),
        changing_layers=changing_layers,
    )


def _sweep(state: Path, layers: LayerStore, known: set[str]) -> None:
    """Remove what a daemon that died was building. Its processes, namespaces and mounts went with it, its cgroups before."""
    layers.sweep_staging()
    tasks = state / "tasks"
    tasks.mkdir(mode=0o700, exist_ok=True)
    spread_below(layers.staging)
    for directory in tasks.iterdir():
        if directory.name in known:
            phases.remove_writables(directory)
        else:
            remove_tree(directory)


@contextlib.asynccontextmanager
async def _api(services: Services, listener: socket.socket) -> AsyncIterator[None]:
    app = Audit(Bounded(make_app(services)), services.runtime.state / "audit.ndjson")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, lifespan="off", http=PeerProtocol, ws="none",
        timeout_graceful_shutdown=5,
    )  # fmt: skip
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign, assignment]
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def _group(name: str | None) -> int | None:
    """The id of the group whose members may connect. Raises TaskError for one that was asked for and isn't there."""
    try:
        return grp.getgrnam(name or GROUP).gr_gid
    except KeyError:
        if name is None:
            return None
        raise TaskError(f"cannot serve the group {name}: there is none", f"groupadd --system {name}") from None


@contextlib.contextmanager
def _listen(path: Path, group: int | None) -> Iterator[socket.socket]:
    """A Unix socket that only root, and the members of `group`, may connect to. A stale one is replaced; a live one, or what is
    no socket, never.
    """
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    with listener:
        if path.exists():
            if not path.is_socket():
                raise TaskError(
                    f"cannot listen on {path}: it is there and no socket", "remove it, or choose another --socket"
                )
            with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(ConnectionRefusedError):
                probe.connect(str(path))
                raise TaskError(f"another daemon listens on {path}", "stop it, or give this one another --socket")
            path.unlink()
        previous = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(previous)
        if group is not None:
            os.chown(path, 0, group)
            path.chmod(0o660)
        listener.listen(1024)
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


def _instance(state: Path) -> str:
    """This state's name in cgroups; made once. A copy has another: its daemon would sweep the first one's groups."""
    path, found = state / "instance", state.stat()
    place = f"{found.st_dev}:{found.st_ino}"
    with contextlib.suppress(FileNotFoundError, ValueError):  # it is torn
        name, known = path.read_text().split()
        if known == place and re.fullmatch("[0-9a-f]{12}", name):
            return name
    name = secrets.token_hex(6)
    path.write_text(f"{name} {place}\n")
    return name


def _certificate_authority(state: Path) -> str:
    path = state / "keys" / "ca.pem"
    found = read_key(path)
    if found is None:
        found = trust.make_ca().decode()
        write_key(path, found)
    return found


def _sealed_init() -> int:
    """A sealed copy of the static init: root inside sees it as /proc/1/exe, and no bug lets it write the host's."""
    found = next((path for path in _INIT if Path(path).is_file()), None)
    if found is None:
        raise HostError("cannot find catatonit, the init of every sandbox", "apt-get install catatonit")
    fd = _memory_file("init", Path(found).read_bytes())
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    # Only a descriptor that was opened for reading can be executed.
    readable = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
    os.close(fd)
    return readable


def _memory_file(name: str, content: bytes) -> int:
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    with open(os.dup(fd), "wb") as file:
        file.write(content)
    return fd


def _default_limits() -> Limits:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Limits(memory=min(_MEMORY, memory // 2), cpus=float(os.cpu_count() or 1), pids=_PROCESSES)
