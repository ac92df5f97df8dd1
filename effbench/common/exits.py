"""The exit codes of every command; docs/exit-codes.md says when each is given. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

BROKEN_STATUSES = ("crashed", "incorrect")


class Exit(IntEnum):
    """The code that a command ends with."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    SLOWER = 3
    UNDECIDED = 4
    NOTHING = 5
    BROKEN = 6
    INTERRUPTED = 130


class Fault(RuntimeError):
    """effbench or the machine failed: a command prints the text as one line and ends with Exit.FAULT."""


def of_run(rows: Iterable[tuple[str, str, bool]], *, strict: bool = False) -> Exit:
    """Return the exit code of a sweep from (mechanism, status, measured) of each configuration.

    ``measured`` is true if the configuration has at least one number. The code is BROKEN if a mechanism has
    no number and one of its configurations crashed or is incorrect; with ``strict``, if any configuration
    crashed or is incorrect. It is NOTHING if no configuration has a number, and DONE otherwise: out of
    memory, a timeout and unsupported are results.
    """
    rows = list(rows)
    broken = {name for name, status, _ in rows if status in BROKEN_STATUSES}
    alive = {name for name, _, measured in rows if measured}
    if broken - alive or (strict and broken):
        return Exit.BROKEN
    return Exit.DONE if alive or not rows else Exit.NOTHING
