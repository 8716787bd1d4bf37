"""The git job: one JSON request on stdin, JSON lines on stdout, exit code 0 or 1. Started as `python -I -m rootfs.git_job`.

Must not be imported by the daemon: packs, trees and ignore files are hostile data, and here they cost a process at most.
"""

import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

import pygit2

from rootfs import git_mirror, git_result
from rootfs.git_credentials import prepare_library
from rootfs.git_errors import RepositoryError


def progress(text: str, done: int | None = None, total: int | None = None) -> None:
    """One line of progress."""
    line: dict[str, Any] = {"progress": text}
    if total is not None:
        line |= {"done": done, "total": total}
    _say(line)


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def run(request: dict[str, Any]) -> dict[str, Any]:
    """The result of one request; RepositoryError says in one sentence why there is none."""
    match request.get("op"):
        case "fetch":
            return git_mirror.fetch(Path(request["state"]), request["url"], request.get("ref"), progress)
        case "result":
            return git_result.result(git_result.Request.parse(request))
        case "diff":
            return git_result.diff(Path(request["mirror"]), request["base"], request["commit"], Path(request["output"]))
        case "drop":
            return git_result.drop(Path(request["mirror"]), request["task"])
        case other:
            raise RepositoryError(f"cannot run the git job: there is no operation {other!r}")


def main() -> int:
    """Read, run, answer. Every error leaves as one JSON line; a traceback is for what nobody foresaw."""
    os.umask(0o022)  # the mirror's objects are read by the ids of sandboxes
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)  # a deep tree keeps one descriptor per level and layer open
    resource.setrlimit(resource.RLIMIT_NOFILE, (65536 if hard == resource.RLIM_INFINITY else min(hard, 65536), hard))
    try:
        request = json.loads(sys.stdin.buffer.read())
        prepare_library()
        _say({"result": run(request)})
    except RepositoryError as error:
        _say({"error": {"message": error.message, "remedy": error.remedy}})
    except KeyError as error:
        _say({"error": {"message": f"cannot run the git job: the request lacks {error}", "remedy": ""}})
    except (OSError, ValueError, pygit2.GitError) as error:
        _say({"error": {"message": f"cannot run the git job: {error}", "remedy": ""}})
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
