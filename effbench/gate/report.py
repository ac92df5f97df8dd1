"""What a gate or a comparison found: a line a cell, exact figures, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from effbench.common.exits import Exit
from effbench.common.spec import Cell

# slower: confirmed. suspected: slower, but fresh workers did not confirm it, or had no time to.
# new, gone: only the head, only the base has it. failed: the head cannot run it. base-failed: the head can,
# and the base, which has it too, cannot.
Verdict = Literal[
    "slower", "faster", "same", "inconclusive", "unfit", "suspected", "new", "gone", "failed", "base-failed"
]
SCHEMA = "effbench-gate-1"


@dataclass(frozen=True, kw_only=True)
class Line:
    """The verdict on the time of one cell; ratios are head over base, so that more than 1 is slower.

    ``low`` and ``high`` bound ``ratio`` and miss it with chance ``error``, already split over all looks.
    ``control_*`` is the base against itself. ``threshold`` and ``detectable`` are shares: what was held to
    and the smallest slowdown that this run finds with a chance of 80 %. ``base_s`` and ``head_s`` are medians
    in seconds, ``head_samples_s`` all timed calls of the head, in seconds and in the order they were made.
    Where nothing was timed the numbers are None and ``reason`` says why.
    """

    cell: Cell
    verdict: Verdict
    reason: str = ""
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    error: float | None = None
    control_ratio: float | None = None
    control_low: float | None = None
    control_high: float | None = None
    threshold: float | None = None
    detectable: float | None = None
    base_s: float | None = None
    head_s: float | None = None
    rounds: int = 0
    calls: int = 0
    confirmed_in: int = 0  # rounds of fresh workers in which a slowdown was found again
    head_samples_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One exact figure of one cell: FLOPs, bytes, parameters or the histogram of operations.

    ``base`` and ``head`` are numbers, None on a side that has none, though the other has; for ``ops`` the
    numbers of operations, and ``detail`` names those whose count changed. It may grow by ``tolerance``, a
    share, or by ``tolerance_bytes``; where both are None it is shown and fails nothing. ``fails`` says
    whether it grew by more.
    """

    cell: Cell
    name: str
    base: float | None
    head: float | None
    tolerance: float | None
    tolerance_bytes: int | None = None
    fails: bool
    detail: str = ""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that was found. ``kind`` is gate (paired, in lock-step) or compare (two stored results).

    ``base`` and ``head`` say what was compared: ``label`` (a revision or a folder), ``commit`` (or ""),
    ``dirty`` (bool, whether the working tree had changes). ``notes`` are sentences for the reader, such as
    what the budget cost. ``machine`` holds the facts of the machine, ``settings`` what was asked.
    """

    kind: Literal["gate", "compare"]
    base: Mapping[str, Any]
    head: Mapping[str, Any]
    lines: tuple[Line, ...]
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The verdicts that say that the head is broken: a gate is asked for what it compares by name."""
        return ("failed", "gone") if self.kind == "gate" else ("failed",)

    def exit_code(self, *, strict: bool = False) -> int:
        """The first of these that holds; a code that somebody may let pass hides none that is worse.

        6: the head is broken: it cannot run a cell, lacks one that the gate was asked for, or lacks a figure.
        3: a slowdown confirmed, or an exact figure that grew by more than it may.
        4: the base has a cell and cannot run it, or lacks a figure, so that the head could not be judged.
        5: nothing was compared.
        4 under ``strict``: a cell is inconclusive, unfit or suspected.
        0: else.
        """
        verdicts = {line.verdict for line in self.lines}
        if verdicts & set(self.broken) or any(figure.head is None for figure in self.figures):
            return Exit.BROKEN
        if "slower" in verdicts or any(figure.fails for figure in self.figures):
            return Exit.SLOWER
        if "base-failed" in verdicts or any(figure.base is None for figure in self.figures):
            return Exit.UNDECIDED
        if not self.figures and not any(line.rounds for line in self.lines):
            return Exit.NOTHING
        if strict and verdicts & {"inconclusive", "unfit", "suspected"}:
            return Exit.UNDECIDED
        return Exit.DONE

    def to_json(self) -> dict[str, Any]:
        """Plain data with the schema's name, for ``json.dumps``."""
        return {"schema": SCHEMA, **asdict(self)}
