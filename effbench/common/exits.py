"""The exit codes of every command; docs/exit-codes.md says when each is given. Standard library only."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

BROKEN_STATUSES = ("crashed", "incorrect")


class Exit(IntEnum):
    """What a command ends with."""

    DONE = 0
    FAULT = 1
    USAGE = 2
    SLOWER = 3
    UNDECIDED = 4
    NOTHING = 5
    BROKEN = 6
    INTERRUPTED = 130


def of_run(rows: Iterable[tuple[str, str, bool]], *, strict: bool = False) -> Exit:
    """The exit code of a sweep, from (mechanism, status, whether anything was measured) of each row.

    BROKEN where nothing was measured of a mechanism and a row of it crashed or is incorrect, and under
    ``strict`` where any row is such; NOTHING where no row has a number; else DONE: out of memory, a timeout
    and unsupported are results.
    """
    rows = list(rows)
    broken = {name for name, status, _ in rows if status in BROKEN_STATUSES}
    alive = {name for name, _, measured in rows if measured}
    if broken - alive or (strict and broken):
        return Exit.BROKEN
    return Exit.DONE if alive or not rows else Exit.NOTHING
