"""The exit codes of `hutch`, in one place because scripts depend on them. Constants and one pure function only.

A command that ran inside ends with its own code instead, which may be any of these; `--json` tells the two apart.
"""

from __future__ import annotations

EXIT_FAILED = 1  # one sentence on stderr says why
EXIT_USAGE = 2  # the command line was wrong, nothing was done
EXIT_TIMED_OUT = 124  # as timeout(1) has it
EXIT_INTERRUPTED = 130  # cancelled or Ctrl-C; as a shell has it: 128 + SIGINT
EXIT_PIPE = 141  # nobody reads the output any more: 128 + SIGPIPE


def process_code(code: int) -> int:
    """What a process may exit with: a death by signal n, given as -n, is 128 + n as in a shell."""
    return 128 - code if -128 < code < 0 else code & 255
