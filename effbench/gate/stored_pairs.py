"""The records of two stored results folders, paired by configuration; folders of two machines are refused."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Any

from effbench.common.spec import Cell, Record, UsageError
from effbench.records.analyse.load import has_control, scaled
from effbench.records.analyse.uncertainty import ASSUMED_AS_MEASURED, Between

SIDES = ("base", "head")
# Facts that identify a machine. The instruction set is one of them: torch chooses its kernels by it, and two
# hosts of the same name may differ in it.
_MACHINE = {"name": "machine", "gpu": "GPU", "cpu_capability": "instruction set"}
# Facts that may be the subject of the comparison: a difference becomes a note.
NOTED = {
    "torch": "torch",
    "python": "Python",
    "libc": "C library",
    "system": "system",
    "cpu_quota_cores": "quota of cores",
    "thread_waiting": "how threads wait",
}
_LIMITS = {"oom", "timeout", "unsupported", "skipped"}  # statuses of a configuration whose code is not broken

Key = tuple[Any, ...]


@dataclass(kw_only=True)
class OneSide:
    """The records of one configuration in one folder by their status, the newest last."""

    ok: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    interrupted: list[Record] = field(default_factory=list)  # treated as if there were no record

    @property
    def records(self) -> list[Record]:
        """All records, those with results first."""
        return [*self.ok, *self.failed, *self.interrupted]

    @property
    def measured(self) -> bool:
        """True if it ran, with or without success."""
        return bool(self.ok or self.failed)

    def times_s(self, quick_s: float | None) -> list[list[float]]:
        """Return the times of each repeat in seconds, at the speed at which the control takes ``quick_s``.

        They are as measured if it is None.
        """
        return [
            list(record.samples["time_s"])
            if quick_s is None
            else scaled(record.samples["time_s"], record.samples["control_s"], quick_s)
            for record in self.ok
        ]

    def why_failed(self) -> str:
        """Status and reason of the newest failure."""
        record, many = self.failed[-1], len(self.ok) + len(self.failed)
        some = f"{len(self.failed)} of {many} repeats: " if self.ok else ""
        return f"{some}{record.status}{f': {record.reason}' if record.reason else ''}"


@dataclass(frozen=True, kw_only=True)
class StoredPair:
    """One configuration in both folders."""

    base: OneSide
    head: OneSide

    @property
    def cell(self) -> Cell:
        """The head's cell, or else the base's; it stands for all repeats."""
        return replace([*self.head.records, *self.base.records][0].cell, repeat=0)

    @property
    def quick_s(self) -> float | None:
        """The control's time in quick phases of the machine; None if not all times have a control."""
        records = [*self.base.ok, *self.head.ok]
        if not all(map(has_control, records)):
            return None
        return min(median(record.samples["control_s"]) for record in records)

    @property
    def between(self) -> Between:
        """The noise between runs, as the newest record knew it."""
        if self.quick_s is None:
            return ASSUMED_AS_MEASURED
        newest = max((*self.base.ok, *self.head.ok), key=lambda record: record.started)
        return Between.told(newest.machine.get("history"))

    @property
    def timed(self) -> bool:
        """True if both sides have times and the head has no failure."""
        return bool(self.base.ok and self.head.ok and not self.head.failed)

    @property
    def limited(self) -> bool:
        """True if both runs ended at the same limit of machine or mechanism: nothing broke between them."""
        statuses = [{record.status for record in side.failed} for side in (self.base, self.head)]
        return not self.base.ok and not self.head.ok and statuses[0] == statuses[1] <= _LIMITS

    @property
    def judged(self) -> bool:
        """True if there is an interval, which needs two fresh processes per side."""
        return self.timed and min(len(self.base.ok), len(self.head.ok)) >= 2

    @property
    def same_code(self) -> bool:
        """True if all records were made by the same code."""
        codes = {record.code for record in (*self.base.ok, *self.head.ok)}
        return len(codes) == 1 and "" not in codes


def key_of(cell: Cell) -> Key:
    """Return what all repeats of one configuration share, in the order in which comparisons are listed."""
    return (
        cell.scope, cell.batch_size, cell.d_model, cell.heads, cell.layers, cell.dtype, cell.device,
        cell.threads, cell.allocator, cell.compile, cell.mode, cell.label, cell.seq_len, cell.probe,
    )  # fmt: skip


def pairs_of(records: Mapping[str, Sequence[Record]]) -> list[tuple[str, StoredPair]]:
    """Return (probe, pair) for every configuration that at least one folder has measured."""
    by_key: dict[Key, dict[str, OneSide]] = defaultdict(lambda: {side: OneSide() for side in SIDES})
    for side in SIDES:
        for record in sorted(records[side], key=lambda r: (r.started, r.cell.repeat)):
            place = by_key[key_of(record.cell)][side]
            by_status = {"ok": place.ok, "interrupted": place.interrupted}
            by_status.get(record.status, place.failed).append(record)
    pairs = [(key[-1], StoredPair(**by_key[key])) for key in sorted(by_key)]
    return [(probe, pair) for probe, pair in pairs if pair.base.measured or pair.head.measured]


def refuse_other_machines(records: Mapping[str, Sequence[Record]], labels: Mapping[str, str]) -> None:
    """Raise UsageError if the records are not all of one machine."""
    for side in SIDES:
        for fact, name in _MACHINE.items():
            if len(many := fact_values(records[side], fact)) > 1:
                raise UsageError(
                    f"{labels[side]} holds records of several machines ({name} {joined(many)}): "
                    "compare takes one machine per folder"
                )
    for fact, name in _MACHINE.items():
        base, head = (fact_values(records[side], fact) for side in SIDES)
        if base and head and base != head:
            raise UsageError(
                f"times of different machines cannot be compared: {name} {joined(base)} in "
                f"{labels['base']}, {joined(head)} in {labels['head']}"
            )


def shared_facts(records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Return the facts on which all records of both folders agree."""
    shared: dict[str, Any] = {}
    both = [record for side in SIDES for record in records[side]]
    for fact in ("name", "gpu", "processor", "cores", "memory_bytes", "cpu_capability", *NOTED):
        if len(fact_values(both, fact)) == 1:
            shared[fact] = next(r.machine[fact] for r in both if r.machine.get(fact) not in (None, ""))
    return shared


def fact_values(records: Iterable[Record], fact: str) -> set[str]:
    """Return the values of a fact of the machine, over the records that hold it."""
    values = (record.machine.get(fact) for record in records)
    return {str(value) for value in values if value not in (None, "")}


def known_median(values: Iterable[float | None]) -> float | None:
    """Return the median of the known values, None if there is none."""
    known = [float(value) for value in values if value is not None]
    return median(known) if known else None


def joined(values: Iterable[str]) -> str:
    """``a and b``"""
    return " and ".join(sorted(values))
