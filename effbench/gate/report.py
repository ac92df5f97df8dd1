"""The result of a gate or of a comparison of stored runs: comparisons, exact figures and the exit code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, get_args

from effbench.common.exits import Exit
from effbench.common.spec import Cell

# slower: confirmed. suspected: slower, but fresh workers did not confirm it, or had no time to.
# new, gone: only the head, only the base has it. failed: the head cannot run it. base-failed: the base has it
# and cannot run it, and the head can.
Verdict = Literal[
    "slower", "faster", "same", "inconclusive", "unfit", "suspected", "new", "gone", "failed", "base-failed"
]
VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
SCHEMA = "effbench-gate-2"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The verdict on the time of one configuration. Ratios are head over base: above 1 is slower.

    ``low`` and ``high`` bound ``ratio``; ``error`` is the probability that they miss it, already divided over
    all looks. ``control_*`` compares the base with itself. ``threshold`` and ``detectable`` are shares: the
    slowdown that is tolerated, and the smallest one that this run finds with a probability of 80 %.
    ``base_s`` and ``head_s`` are medians in seconds, ``head_samples_s`` all timed calls of the head, in
    seconds and in the order in which they were made. Where nothing was timed the numbers are None and
    ``reason`` says why.
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
    confirmed_in: int = 0  # rounds of fresh workers that confirmed a slowdown
    head_samples_s: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One exact figure of one configuration: FLOPs, bytes, parameters or the number of operations.

    ``base`` and ``head`` are numbers; None on a side that lacks the figure although the other has it. For
    ``ops`` ``detail`` names the operations whose count changed. The figure may grow by ``tolerance``, a
    share, or by ``tolerance_bytes``; where both are None it is only shown. ``fails``: it grew by more.
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
    """All results. ``kind`` is gate (timed in lock-step) or compare (two stored results folders).

    ``base`` and ``head`` describe the sides: ``label`` (a revision or a folder), ``commit`` (or "") and
    ``dirty`` (bool: the working tree had changes). ``notes`` are sentences for the reader. ``machine`` holds
    the facts of the machine, ``settings`` those of the gate.
    """

    kind: Literal["gate", "compare"]
    base: Mapping[str, Any]
    head: Mapping[str, Any]
    comparisons: tuple[Comparison, ...]
    figures: tuple[Figure, ...] = ()
    notes: tuple[str, ...] = ()
    machine: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    started: str = ""
    seconds: float = 0.0

    @property
    def broken(self) -> tuple[Verdict, ...]:
        """The verdicts that mean that the head is broken. A gate names its mechanisms: none may be gone."""
        return ("failed", "gone") if self.kind == "gate" else ("failed",)

    def exit_code(self, *, strict: bool = False) -> int:
        """Return the first code that applies, so that a tolerated one never hides a worse one.

        6: the head is broken: it lacks or cannot run a configuration that the gate names, or lacks a figure.
        3: a confirmed slowdown, or an exact figure that grew by more than its tolerance.
        4: the base has a configuration and cannot run it, or lacks a figure: the head cannot be judged.
        5: nothing was compared.
        4 under ``strict``: a comparison is inconclusive, unfit or suspected.
        0: none of these.
        """
        verdicts = {comparison.verdict for comparison in self.comparisons}
        if verdicts & set(self.broken) or any(figure.head is None for figure in self.figures):
            return Exit.BROKEN
        if "slower" in verdicts or any(figure.fails for figure in self.figures):
            return Exit.SLOWER
        if "base-failed" in verdicts or any(figure.base is None for figure in self.figures):
            return Exit.UNDECIDED
        if not self.figures and not any(comparison.rounds for comparison in self.comparisons):
            return Exit.NOTHING
        if strict and verdicts & {"inconclusive", "unfit", "suspected"}:
            return Exit.UNDECIDED
        return Exit.DONE

    def to_json(self) -> dict[str, Any]:
        """Plain data with the schema's name, for ``json.dumps``."""
        return {"schema": SCHEMA, **asdict(self)}
