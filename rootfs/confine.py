"""The two cages in which archives are taken apart, and how their inmates are started and heard.

Must not look into archives, and must not let an inmate start with more than its list says.

    import job (root) ─┬─ exec ▶ reader: decompresses and parses. Empty chroot, uid nobody, no capability, no network
                       │           │ pipe of entries
                       └─ exec ▶ writer: makes the files. Chroot into the new layer, six capabilities, no network

The prefix is made of util-linux commands, so no line of ours runs with both privilege and hostile data. The
capability to chroot stays with the writer (nothing but a new program would drop it): its only input are checked entries,
no library code parses anything there.
"""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from rootfs.errors import ArchiveError, ImageError
from rootfs.job import Progress, write_line

_NOBODY = 65534
_LINE_MAX = 8 << 20
_TAIL = 20  # lines of noise kept for the message when an inmate dies without a word
_READER_CAPS = "-all,+sys_chroot,+setuid,+setgid,+dac_read_search"  # all gone with the change of uid
_WRITER_CAPS = "-all,+chown,+dac_override,+fowner,+fsetid,+mknod,+setfcap,+sys_chroot"
_MEMORY = 1 << 30
_ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


def reader_command(module: str, file_size: int = 0) -> list[str]:
    """argv of a process that will read hostile data. `file_size` bounds what it may write to a file it was given."""
    return [*_prefix(_READER_CAPS, file_size), sys.executable, "-I", "-m", module]


def writer_command(module: str, file_size: int) -> list[str]:
    """argv of a process that will write a layer; no single file grows beyond `file_size`."""
    return [*_prefix(_WRITER_CAPS, file_size), sys.executable, "-I", "-m", module]


def _prefix(capabilities: str, file_size: int) -> list[str]:
    limits = [f"--as={_MEMORY}", f"--fsize={file_size}", "--nofile=512", "--core=0"]
    namespaces = ["unshare", "--net", "--ipc", "--uts", "--"]
    privileges = ["setpriv", "--no-new-privs", "--inh-caps=-all", f"--bounding-set={capabilities}", "--clear-groups"]
    return [*namespaces, *privileges, "--pdeathsig=KILL", "--", "prlimit", *limits, "--"]


def enter_chroot(directory: int) -> None:
    """Make an open directory the root, and let go of it: a directory descriptor outside would lead out again."""
    os.fchdir(directory)
    os.chroot(".")
    os.chdir("/")
    os.close(directory)


def drop_everything(void: int) -> None:
    """What the reader does before it looks at the first byte: nothing to see, nothing to be, for good."""
    enter_chroot(void)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)  # leaving uid 0 clears every capability


def run_confined(work: Callable[[Mapping[str, Any], Progress], Mapping[str, Any]]) -> int:
    """The main function of an inmate, spoken to like a job. `secondary` marks errors that follow from the other inmate's."""
    try:
        request = json.loads(sys.stdin.buffer.read())
        write_line(sys.stdout, {"result": work(request, Progress(sys.stdout))})
    except ArchiveError as error:
        return _fail(error.message, error.remedy, "archive")
    except ImageError as error:
        return _fail(error.message, error.remedy, "image")
    except MemoryError:
        return _fail("it needs more than 1 GiB of memory to be read", "compress it with smaller settings", "archive")
    except BrokenPipeError:
        return _fail("the other process ended early", "", "secondary")
    return 0


def _fail(message: str, remedy: str, kind: str) -> int:
    with suppress(BrokenPipeError):
        write_line(sys.stdout, {"error": {"message": message, "remedy": remedy, "kind": kind}})
    return 1


class Inmate:
    """A confined process that has got its request. Use as a context: leaving kills it."""

    def __init__(self, name: str, command: list[str], request: Mapping[str, Any], fds: Iterable[int]) -> None:
        self.name = name
        self.result: dict[str, Any] | None = None
        self.error: dict[str, str] | None = None
        self.noise: list[str] = []
        self._buffer = b""
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_ENVIRONMENT,
            cwd="/",
            pass_fds=tuple(fds),
            start_new_session=True,
        )
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(json.dumps(request).encode())

    def __enter__(self) -> "Inmate":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self.output.close()

    @property
    def output(self) -> Any:
        return self._process.stdout

    def hear(self, progress: Callable[[dict[str, Any]], None]) -> bool:
        """Take what it said; False at the end. What it says is bounded, and read as data."""
        data = os.read(self.output.fileno(), 1 << 16)
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        if len(self._buffer) > _LINE_MAX:
            raise ImageError(f"the {self.name} talks without end", "report this, with the archive")
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if not isinstance(value, dict):
                self.noise = [*self.noise, line.decode("utf-8", "replace")][-_TAIL:]
            elif isinstance(value.get("result"), dict):
                self.result = value["result"]
            elif isinstance(value.get("error"), dict):
                self.error = {str(k): str(v)[:2000] for k, v in value["error"].items()}
            elif isinstance(value.get("progress"), str):
                progress(value)
        return bool(data)

    def conclude(self) -> None:
        """Wait for its end; without an answer, its end is the error."""
        code = self._process.wait()
        if self.error is None and (self.result is None or code != 0):
            tail = next((line for line in reversed(self.noise) if line.strip()), "")
            ended = f"signal {-code}" if code < 0 else f"code {code}"
            self.error = {
                "message": f"the {self.name} ended with {ended} {tail}".strip(),
                "remedy": "see the daemon's log",
            }


def hear_all(inmates: list[Inmate], progress: Callable[[dict[str, Any]], None]) -> list[dict[str, Any]]:
    """Listen until all have ended; returns their results in order, or raises the error that came first in the chain."""
    with selectors.DefaultSelector() as selector:
        for inmate in inmates:
            selector.register(inmate.output, selectors.EVENT_READ, inmate)
        while selector.get_map():
            for key, _ in selector.select():
                if not key.data.hear(progress):
                    selector.unregister(key.fileobj)
    for inmate in inmates:
        inmate.conclude()
    errors = [inmate.error for inmate in inmates if inmate.error]
    errors.sort(
        key=lambda error: ("archive", "image").index(error["kind"]) if error.get("kind") in ("archive", "image") else 2
    )
    if errors:
        kind = ImageError if errors[0].get("kind") == "image" else ArchiveError
        raise kind(errors[0].get("message", "it failed"), errors[0].get("remedy", ""))
    return [inmate.result or {} for inmate in inmates]
