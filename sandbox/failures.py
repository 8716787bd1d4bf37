"""How calls of the daemon's API fail: the tree of errors, and the transport's failures turned into them.

It must not print, exit or import anything slow; sandbox.client hands the errors on to its users.

    HutchError                 message + remedy; str() is both, one sentence each
    ├── DaemonUnreachable      nobody listens on the socket, or this user may not talk to it
    ├── ConnectionLost         the daemon went away, or spoke nonsense, in the middle of an answer
    ├── ApiError               the daemon refused; .status is the HTTP status (404 unknown, 409 not in this state, ...)
    └── JobFailed              a build or an import began and failed
"""

from __future__ import annotations

import json
from typing import Any

ANSWER_SECONDS = 60.0  # for calls that answer from the journal; streams and gc may take as long as they take


class HutchError(Exception):
    """Something failed. `message` says what, on what and why; `remedy` says what to do now, or is empty."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(f"{message} ({remedy})" if remedy else message)
        self.message = message
        self.remedy = remedy


class DaemonUnreachable(HutchError):
    """Nobody listens on the socket, or this user may not talk to it."""


class ConnectionLost(HutchError):
    """The daemon went away in the middle of an answer."""


class ApiError(HutchError):
    """The daemon answered, and refused. `status` is the HTTP status."""

    def __init__(self, status: int, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.status = status


class JobFailed(HutchError):
    """An image build or import began and failed."""


def unreachable(path: str, error: OSError) -> DaemonUnreachable:
    """Why nothing answers behind the socket, and what to do about it."""
    if isinstance(error, PermissionError):
        return DaemonUnreachable(
            f"no permission to use {path}",
            "run as root, or join its group: sudo usermod -aG hutch $USER, and log in again",
        )
    if isinstance(error, FileNotFoundError | ConnectionRefusedError):
        return DaemonUnreachable(f"the daemon is not running: nothing listens on {path}", "start it: hutch serve")
    reason = error.strerror or str(error)
    return DaemonUnreachable(f"cannot connect to {path}: {reason}", "is HUTCH_SOCKET the path of the daemon's socket?")


def lost(path: str, error: Exception) -> ConnectionLost:
    """The connection broke, timed out or carried nonsense."""
    if isinstance(error, TimeoutError):
        return ConnectionLost(
            f"the daemon at {path} did not answer within {ANSWER_SECONDS:.0f} s", "look at the daemon's log"
        )
    if isinstance(error, ValueError):
        return ConnectionLost(f"what answers at {path} is no Hutch daemon: {error}", "is HUTCH_SOCKET right?")
    return ConnectionLost(
        f"the daemon at {path} went away in the middle of an answer", "look at the daemon's log and start it again"
    )


def error_text(body: Any) -> tuple[str, str]:
    """Message and remedy of an {"error": {…}} object; empty strings where it is none."""
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return "", ""
    return str(error.get("message") or ""), str(error.get("remedy") or "")


def refused(status: int, body: bytes) -> ApiError:
    """The daemon's own words where it has some, else the status."""
    try:
        message, remedy = error_text(json.loads(body))
    except ValueError:
        message = remedy = ""
    if message:
        return ApiError(status, message, remedy)
    return ApiError(status, f"the daemon failed to answer (HTTP status {status})", "look at the daemon's log")
