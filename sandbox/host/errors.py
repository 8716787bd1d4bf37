"""The error tree of everything that touches the host. Foreign exceptions become one of these at the border of a module.

HostError                  operation, object, reason and remedy in one sentence
├── UnsupportedHost        the host lacks something that cannot be replaced by something weaker
├── OutOfResources         ids, addresses, processes, disk: try again later or raise the limit
└── SandboxFailed          a sandbox or a command in it could not be started
"""

from __future__ import annotations


class HostError(Exception):
    """`message` says what was being done, to what, and why it failed; `remedy` what to do now."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UnsupportedHost(HostError):
    """The host lacks a feature that Hutch's promises need."""


class OutOfResources(HostError):
    """Nothing is left of something that the host has only so much of."""


class SandboxFailed(HostError):
    """A sandbox, or a command in one, could not be started."""
