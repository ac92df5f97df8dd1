"""Two stored results folders of one machine, compared cell by cell: an unpaired gate without a control."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from effbench.common.spec import Cell, Record, UsageError
from effbench.gate import exact
from effbench.gate.decide import detectable, judge
from effbench.gate.report import Comparison, Figure, Report, Verdict
from effbench.gate.unpaired import difference
from effbench.records.store import Store

# So many cores' worth of other work, by the median over a side's repeats, make a cell's times unfit: what
# is left of caches and memory bandwidth is another machine's. The reference's records show 0.13 at most.
BUSY_CORES = 0.5
# What is worth a sentence where the two runs differ by so much: load average, share of stolen time, clock.
LOAD, STEAL_SHARE, FREQUENCY = 1.0, 0.02, 0.05

# Facts that tell one machine from another. The instruction set is one: torch picks other kernels by it, and
# hosts that call themselves alike may differ in it.
_MACHINE = {"name": "machine", "gpu": "GPU", "cpu_capability": "instruction set"}
# Facts that may be what is compared: they are said and refuse nothing.
_SAID = {
    "torch": "torch",
    "python": "Python",
    "libc": "C library",
    "system": "system",
    "cpu_quota_cores": "quota of cores",
}
_SIDES = ("base", "head")
_LIMITS = {"oom", "timeout", "unsupported", "skipped"}  # how a cell ends whose code is not broken
_COUNTED = {"memory": ("peak_bytes", "saved_bytes", "parameters"), "flops": ("flops", "parameters")}

_Key = tuple[Any, ...]


@dataclass(kw_only=True)
class _Found:
    """What one folder holds of one cell: its records by how they ended, the newest last."""

    ok: list[Record] = field(default_factory=list)
    failed: list[Record] = field(default_factory=list)
    interrupted: list[Record] = field(default_factory=list)  # not measured: as if there were no record

    @property
    def measured(self) -> bool:
        return bool(self.ok or self.failed)

    @property
    def times_s(self) -> list[tuple[float, ...]]:
        """A series a repeat, in seconds."""
        return [record.samples["time_s"] for record in self.ok]

    @property
    def median_s(self) -> float:
        return float(median(median(times) for times in self.times_s))

    def why_failed(self) -> str:
        record, many = self.failed[-1], len(self.ok) + len(self.failed)
        some = f"{len(self.failed)} of {many} repeats: " if self.ok else ""
        return f"{some}{record.status}{f': {record.reason}' if record.reason else ''}"


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """One cell in both folders."""

    base: _Found
    head: _Found

    @property
    def cell(self) -> Cell:
        """The cell as the head has it, or else the base; it stands for all its repeats."""
        first = next(
            record
            for found in (self.head, self.base)
            for record in (*found.ok, *found.failed, *found.interrupted)
        )
        return replace(first.cell, repeat=0)

    @property
    def timed(self) -> bool:
        """Whether both sides have times that count, and the head no failure."""
        return bool(self.base.ok and self.head.ok and not self.head.failed)

    @property
    def limited(self) -> bool:
        """Whether both runs came to the same limit of machine or mechanism, so that nothing broke between."""
        ended = [{record.status for record in found.failed} for found in (self.base, self.head)]
        return not self.base.ok and not self.head.ok and ended[0] == ended[1] <= _LIMITS

    @property
    def judged(self) -> bool:
        """Whether there is an interval: two fresh processes on either side."""
        return self.timed and min(len(self.base.ok), len(self.head.ok)) >= 2

    @property
    def same_code(self) -> bool:
        codes = {record.code for found in (self.base, self.head) for record in found.ok}
        return len(codes) == 1 and "" not in codes


def compare(
    base: Path | str,
    head: Path | str,
    *,
    threshold: float = 0.05,
    floor_s: float = 10e-6,
    error: float = 0.01,
) -> Report:
    """A verdict for every cell that two results folders of one machine hold, and their exact figures.

    Cells are the same if all but ``repeat``, the seed and how long was sampled is. A time is judged by
    ``unpaired.difference`` against ``threshold``, a share, which is at least ``floor_s`` seconds as a share
    of the base's time. ``error`` is the chance, over all cells together, that some interval misses its
    truth: it is split evenly over the cells (Bonferroni). FLOPs, bytes and parameters may grow by what a gate
    lets them by default, and by anything where torch differs. In a comparison, ``rounds`` is the smaller number of
    repeats and ``calls`` the samples of both sides.

    Raises UsageError where a folder is no results folder, holds records of several machines, or where the two
    are of different machines.
    """
    for side, given in zip(_SIDES, (base, head), strict=True):
        if not str(given).strip():
            raise UsageError(f"{side} {given!r} is empty: name a results folder")
    base, head = Path(base), Path(head)
    begun, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    read = {side: Store(folder).read() for side, folder in zip(_SIDES, (base, head), strict=True)}
    records = {
        side: [r for r in found if r.cell.probe in ("time", *_COUNTED)] for side, (found, _) in read.items()
    }
    labels = {"base": str(base), "head": str(head)}
    _refuse_other_machines(records, labels)
    pairs = _pairs(records)
    times = [pair for probe, pair in pairs if probe == "time"]
    each = error / max(1, sum(pair.judged for pair in times))
    comparisons = tuple(_comparison(pair, threshold, floor_s, each) for pair in times)
    problems = [f"ignored {problem}" for _, damaged in read.values() for problem in damaged]
    return Report(
        kind="compare",
        base=_said_of(records["base"], labels["base"]),
        head=_said_of(records["head"], labels["head"]),
        comparisons=comparisons,
        figures=tuple(_figures(pairs)),
        notes=(*_notes(times, comparisons, records), *problems),
        machine=_shared_facts(records),
        settings={"threshold": threshold, "floor_s": floor_s, "error": error},
        started=started,
        seconds=time.perf_counter() - begun,
    )


def _said_of(records: Sequence[Record], label: str) -> dict[str, Any]:
    when = [record.started for record in records if record.started]
    return {
        "label": label, "commit": "", "dirty": False, "records": len(records),
        "first": min(when, default=""), "last": max(when, default=""),
    }  # fmt: skip


def _key(cell: Cell) -> _Key:
    """What two records of one cell have in common, in the order in which comparisons are shown."""
    return (
        cell.scope, cell.batch_size, cell.d_model, cell.heads, cell.layers, cell.dtype, cell.device,
        cell.threads, cell.allocator, cell.mode, cell.label, cell.seq_len, cell.probe,
    )  # fmt: skip


def _pairs(records: Mapping[str, Sequence[Record]]) -> list[tuple[str, _Pair]]:
    """(probe, what both folders hold of it) for every cell that either has measured, or tried to."""
    found: dict[_Key, dict[str, _Found]] = defaultdict(lambda: {side: _Found() for side in _SIDES})
    for side in _SIDES:
        for record in sorted(records[side], key=lambda r: (r.started, r.cell.repeat)):
            place = found[_key(record.cell)][side]
            ended = {"ok": place.ok, "interrupted": place.interrupted}
            ended.get(record.status, place.failed).append(record)
    pairs = [(key[-1], _Pair(**found[key])) for key in sorted(found)]
    return [(probe, pair) for probe, pair in pairs if pair.base.measured or pair.head.measured]


def _comparison(pair: _Pair, threshold: float, floor_s: float, error: float) -> Comparison:
    base, head = pair.base, pair.head
    if not head.measured or not base.measured:
        missing = head if base.measured else base
        reason = "the other run was interrupted before it" if missing.interrupted else ""
        return Comparison(cell=pair.cell, verdict="gone" if base.measured else "new", reason=reason)
    if pair.limited:
        return Comparison(cell=pair.cell, verdict="inconclusive", reason=f"in both runs: {head.why_failed()}")
    if head.failed:
        too = "" if base.ok else "; so did the base"
        return Comparison(cell=pair.cell, verdict="failed", reason=f"{head.why_failed()}{too}")
    if not base.ok:
        return Comparison(
            cell=pair.cell, verdict="base-failed", reason=f"the base failed: {base.why_failed()}"
        )
    base_s, head_s = base.median_s, head.median_s
    comparison = Comparison(
        cell=pair.cell, verdict="inconclusive", base_s=base_s, head_s=head_s,
        rounds=min(len(base.ok), len(head.ok)), calls=sum(map(len, (*base.times_s, *head.times_s))),
    )  # fmt: skip
    unfit = _unfit(pair)
    if not pair.judged:
        lacking = " and ".join(
            side for side, found in zip(_SIDES, (base, head), strict=True) if len(found.ok) < 2
        )
        once = f"one repeat in {lacking}: run it again with --repeats 3 or more"
        return replace(comparison, verdict="unfit" if unfit else "inconclusive", reason=unfit or once)
    ratio = difference(base.times_s, head.times_s, error)
    applied = max(threshold, floor_s / base_s)
    verdict: Verdict
    verdict, reason = ("unfit", unfit) if unfit else judge(ratio, applied)
    return replace(
        comparison, verdict=verdict, reason=reason, ratio=ratio.ratio, low=ratio.low, high=ratio.high,
        error=ratio.error, threshold=applied, detectable=detectable(ratio, applied),
    )  # fmt: skip


def _unfit(pair: _Pair) -> str:
    """Why the times of a cell cannot be judged whatever they are; empty if nothing is known against them."""
    for side, found in zip(_SIDES, (pair.base, pair.head), strict=True):
        if len({record.code for record in found.ok}) > 1:
            return f"the repeats of the {side} are of different code: measure them again with --no-resume"
        others = _median(record.machine.get("others_cores") for record in found.ok)
        if others is not None and others > BUSY_CORES:
            return f"others kept {others:.1f} cores busy while the {side} was measured"
    used = [
        {
            str(record.values["allocator_in_force"])
            for record in found.ok
            if "allocator_in_force" in record.values
        }
        for found in (pair.base, pair.head)
    ]
    if all(used) and used[0] != used[1]:
        return f"the allocator in force was {_joined(used[0])} in the base, {_joined(used[1])} in the head"
    return ""


def _figures(pairs: Sequence[tuple[str, _Pair]]) -> Iterator[Figure]:
    """Exact figures of cells that both folders hold; each name once a cell."""
    seen: set[_Key] = set()
    for probe, pair in pairs:
        if probe == "time" or pair.limited or not (pair.base.measured and pair.head.measured):
            continue
        for name in _COUNTED[probe]:
            figure = _figure(name, pair)
            key = (*_key(replace(pair.cell, probe="time")), name)
            if figure is not None and key not in seen:  # both probes know the parameters
                seen.add(key)
                yield figure


def _figure(name: str, pair: _Pair) -> Figure | None:
    """The newest records' figures; None where a base that was measured has no such figure.

    Where both sides failed, the first figure of the probe stands for all.
    """
    counted = pair.base.ok[-1:], [] if pair.head.failed else pair.head.ok[-1:]
    base, head = (_number(records[-1].values.get(name)) if records else None for records in counted)
    failed = [
        f"the {side} failed: {found.why_failed()}"
        for side, found, records in zip(_SIDES, (pair.base, pair.head), counted, strict=True)
        if not records
    ]
    if base is None and (not failed or (head is None and name != _COUNTED[pair.cell.probe][0])):
        return None
    detail, tolerance = "; ".join(failed), exact.DEFAULTS[name]
    torch = [str(records[-1].machine.get("torch", "")) if records else "" for records in counted]
    if not failed and head is None:
        detail = "the head has none"
    elif not failed and torch[0] != torch[1]:
        detail = (
            f"not held to: torch {torch[0] or 'unknown'} in the base, {torch[1] or 'unknown'} in the head"
        )
        tolerance = "shown"
    return exact.figure(pair.cell, name, base, head, tolerance, detail)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _refuse_other_machines(records: Mapping[str, Sequence[Record]], labels: Mapping[str, str]) -> None:
    """Raise UsageError where the records are not all of one machine."""
    for side in _SIDES:
        for fact, name in _MACHINE.items():
            if len(many := _values(records[side], fact)) > 1:
                raise UsageError(
                    f"{labels[side]} holds records of several machines ({name} {_joined(many)}): "
                    "compare takes one machine a folder"
                )
    for fact, name in _MACHINE.items():
        base, head = (_values(records[side], fact) for side in _SIDES)
        if base and head and base != head:
            raise UsageError(
                f"times of different machines cannot be compared: {name} {_joined(base)} in "
                f"{labels['base']}, {_joined(head)} in {labels['head']}"
            )


def _values(records: Iterable[Record], fact: str) -> set[str]:
    """The values of a fact, over the records that hold it."""
    found = (record.machine.get(fact) for record in records)
    return {str(value) for value in found if value not in (None, "")}


def _shared_facts(records: Mapping[str, Sequence[Record]]) -> dict[str, Any]:
    """Facts on which all records of both folders that hold them agree."""
    shared: dict[str, Any] = {}
    both = [record for side in _SIDES for record in records[side]]
    for fact in ("name", "gpu", "processor", "cores", "memory_bytes", "cpu_capability", *_SAID):
        if len(_values(both, fact)) == 1:
            shared[fact] = next(r.machine[fact] for r in both if r.machine.get(fact) not in (None, ""))
    return shared


def _notes(
    times: Sequence[_Pair], comparisons: Sequence[Comparison], records: Mapping[str, Sequence[Record]]
) -> Iterator[str]:
    judged = [(pair, comparison) for pair, comparison in zip(times, comparisons, strict=True) if pair.judged]
    if any(pair.timed for pair in times):
        yield (
            "the two runs were made at different times and nothing was measured beside both: on a machine "
            "whose speed drifts a slower run cannot be told from slower code. Verdicts are about these two "
            "runs; effbench gate compares code"
        )
    yield from _same_code(judged)
    measuring = {r.code.rpartition("-")[0] for r in records["base"] if r.code}
    if measuring and (other := {r.code.rpartition("-")[0] for r in records["head"] if r.code}) - measuring:
        yield (
            "what measures differs between the runs, effbench's own code or torch "
            f"({_joined(measuring)}; {_joined(other)}): a change need not be the mechanism's"
        )
    for fact, name in _SAID.items():
        base, head = (_values(records[side], fact) for side in _SIDES)
        if base and head and base != head:
            yield f"{name}: {_joined(base)} in the base, {_joined(head)} in the head"
    yield from _conditions(times)
    open_ = [(pair, comparison) for pair, comparison in judged if comparison.verdict == "inconclusive"]
    if open_:
        least = median(comparison.detectable for _, comparison in open_ if comparison.detectable is not None)
        what = f"of {least:.0%}" if least < 1 else f"by a factor of {1 + least:.2g}"
        yield (
            f"{len(open_)} of {len(judged)} cells are inconclusive with {min(x.rounds for _, x in open_)} "
            f"repeats or more: half of them could tell no slowdown smaller than {what}. More fresh processes "
            "(run --repeats 10) or fewer cells narrow the intervals"
        )


def _same_code(judged: Sequence[tuple[_Pair, Comparison]]) -> Iterator[str]:
    """Cells that ran the same code on both sides are the only control there is."""
    same = [comparison for pair, comparison in judged if pair.same_code]
    if not same:
        return
    moved = sum(comparison.verdict in ("slower", "faster") for comparison in same)
    ratio = median(comparison.ratio for comparison in same if comparison.ratio is not None)
    what = f"{moved} of them moved all the same" if moved else "none was found slower or faster"
    yield (
        f"{len(same)} of {len(judged)} cells ran the same code in both: {what}, and their median ratio of "
        f"{ratio:.3f} is the machine's doing, not the code's"
    )


def _conditions(times: Sequence[_Pair]) -> Iterator[str]:
    """Where the machine was in another state in one of the runs, over the times that are compared."""
    compared = [pair for pair in times if pair.timed]
    base = [record for pair in compared for record in pair.base.ok]
    head = [record for pair in compared for record in pair.head.ok]
    for what, of, unit, far in _CONDITIONS:
        a, b = _median(map(of, base)), _median(map(of, head))
        if a is not None and b is not None and far(a, b):
            yield f"{what} was {unit.format(a)} in the base, {unit.format(b)} in the head (medians)"


def _stolen(record: Record) -> float | None:
    """The share of the record's wall time that the hypervisor kept from the machine, in cores."""
    steal_s = record.machine.get("steal_s")
    return None if steal_s is None else float(steal_s) / max(record.seconds, 1e-3)


# What is looked at, how it is read and written, and which two medians are worth a sentence.
_CONDITIONS: tuple[tuple[str, Callable[[Record], float | None], str, Callable[[float, float], bool]], ...] = (
    ("the load average", lambda r: r.machine.get("load_1min"), "{:.1f}", lambda a, b: abs(a - b) > LOAD),
    ("stolen time", _stolen, "{:.1%} of a core", lambda a, b: abs(a - b) > STEAL_SHARE),
    (
        "the clock",
        lambda r: r.machine.get("frequency_hz"),
        "{:.3g} Hz",
        lambda a, b: abs(a - b) > FREQUENCY * min(a, b),
    ),
)


def _median(values: Iterable[float | None]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return median(known) if known else None


def _joined(values: Iterable[str]) -> str:
    return " and ".join(sorted(values))
