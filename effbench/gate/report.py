"""What a gate or a comparison found: a line a cell, exact figures, and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from effbench.spec import Cell

# slower: confirmed. suspected: slower, but fresh workers did not confirm it, or had no time to.
Verdict = Literal["slower", "faster", "same", "inconclusive", "unfit", "suspected", "new", "gone", "failed"]
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

    ``base`` and ``head`` are numbers; for ``ops`` the numbers of operations, and ``detail`` names those whose
    count changed. ``tolerance`` is the share that it may grow by. ``fails`` says whether the gate does.
    """

    cell: Cell
    name: str
    base: float | None
    head: float | None
    tolerance: float
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

    def exit_code(self, *, strict: bool = False) -> int:
        """3: a slowdown confirmed or an exact figure broken; 5: nothing comparable.

        Under ``strict`` also 6 where a cell failed on the head's side, and 4 where some cell could not be
        judged. 0 otherwise.
        """
        verdicts = {line.verdict for line in self.lines}
        if "slower" in verdicts or any(figure.fails for figure in self.figures):
            return 3
        if strict and "failed" in verdicts:
            return 6
        if not verdicts - {"new", "gone", "failed"} and not self.figures:
            return 5
        if strict and verdicts & {"inconclusive", "unfit", "suspected"}:
            return 4
        return 0

    def to_json(self) -> dict[str, Any]:
        """Plain data with the schema's name, for ``json.dumps``."""
        return {"schema": SCHEMA, **asdict(self)}
