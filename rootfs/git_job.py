"""The git job: one JSON request on stdin, JSON lines on stdout, exit code 0 or 1. Started as `python -I -m rootfs.git_job`.

Must not be imported by the daemon: packs, trees and ignore files are hostile data, and here they cost a process at most.
"""

import errno
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pygit2

from rootfs import git_mirror, git_result, git_url
from rootfs.git_credentials import forget_roots_settings, prepare_library
from rootfs.git_errors import FREE_SPACE, RepositoryError
from rootfs.git_url import Source
from rootfs.git_user import User


def progress(text: str, done: int | None = None, total: int | None = None) -> None:
    """One line of progress."""
    line: dict[str, Any] = {"progress": text}
    if total is not None:
        line |= {"done": done, "total": total}
    _say(line)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


_NEEDED = {
    "fetch": ("state", "url"),
    "result": ("mirror", "base", "upper", "workdir", "lower", "task"),
    "uncommitted": ("url",),
    "drop": ("mirror", "task"),
}


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The result of one request; RepositoryError says in one sentence why there is none."""
    operation = str(request.get("op"))
    missing = [name for name in _NEEDED.get(operation, ()) if request.get(name) is None]
    if missing or operation not in _NEEDED:
        why = f"the request lacks {', '.join(missing)}" if missing else f"there is no operation '{operation}'"
        raise RepositoryError(f"cannot run the git job: {why}", "see rootfs/README.md for what each operation needs")
    if operation == "fetch":
        return git_mirror.fetch(Path(request["state"]), _source(request), request.get("ref"), progress)
    if operation == "result":
        return git_result.result(git_result.Request.parse(request))
    if operation == "uncommitted":
        return git_mirror.uncommitted(_source(request))
    return git_result.drop(Path(request["mirror"]), request["task"])


def _source(request: dict[str, Any]) -> Source:
    uid = int(request.get("user") or 0)
    if uid:
        forget_roots_settings()
    return git_url.parse(request["url"], User.of(uid) if uid else None)


def main() -> int:
    """Read, run, answer. Every error leaves as one JSON line; a traceback is for what nobody foresaw."""
    os.umask(0o022)  # the mirror's objects are read by the ids of sandboxes
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # a deep tree keeps one descriptor per level and layer open
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536), hard))
    request: dict[str, Any] = {}
    try:
        request = json.loads(sys.stdin.buffer.read())
        prepare_library()
        _say({"result": run(request)})
    except RepositoryError as error:
        return _failed(error.message, error.remedy)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _failed(f"cannot finish the git job '{request.get('op')}': the disk is full", FREE_SPACE)
        return _failed(f"cannot finish the git job '{request.get('op')}': {error}", "see the daemon's log")
    except (ValueError, KeyError, pygit2.GitError) as error:
        remedy = "if it stays so, the mirror is damaged: remove its directory below git/ in the state"
        return _failed(f"cannot finish the git job: {type(error).__name__}: {error}", remedy)
    return 0


def _failed(message: str, remedy: str) -> int:
    _say({"error": {"message": message, "remedy": remedy}})
    return 1


if __name__ == "__main__":
    sys.exit(main())
