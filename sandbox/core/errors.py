"""The errors of tasks, drawn as a tree. The API turns each into a status, the journal into a task's `error`.

TaskError                message and remedy, for the person who must act
├── BadRequest           what was asked for can't be: 400
├── NotFound             no such task, image, exec: 404
├── Conflict             not in the state that it is in: 409
├── Busy                 the queue is full: 503
├── NotStored            the disk took no more: 507
└── PhaseFailed          a script or step of the task failed; the task ends as `failed`
"""

from __future__ import annotations


class TaskError(Exception):
    """`message` is one sentence: operation, object, reason. `remedy` says what to do now."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class BadRequest(TaskError):
    """The request is wrong and stays wrong."""


class Forbidden(TaskError):
    """What was asked for is not for him who asked."""


class NotFound(TaskError):
    """There is no such thing."""


class Conflict(TaskError):
    """Not now, in this state."""


class Busy(TaskError):
    """Nothing is free; try again later."""


class NotStored(TaskError):
    """The database or a task's files can't be written, most often because the disk is full."""


class PhaseFailed(TaskError):
    """A phase of the task ended badly; the task's log has its output."""
