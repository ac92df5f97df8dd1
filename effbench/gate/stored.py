"""Two stored results folders of one machine, compared: an unpaired gate without a control."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from effbench.common.machine import BUSY_CORES
from effbench.common.spec import Record, UsageError
from effbench.gate import exact
from effbench.gate.decide import detectable, judge
from effbench.gate.report import Comparison, Figure, Report, Verdict
from effbench.gate.stored_notes import notes_of
from effbench.gate.stored_pairs import (
    SIDES,
    Key,
    StoredPair,
    joined,
    key_of,
    known_median,
    pairs_of,
    refuse_other_machines,
    shared_facts,
)
from effbench.gate.unpaired import difference
from effbench.records.store import Store

_COUNTED = {"memory": ("peak_bytes", "saved_bytes", "parameters"), "flops": ("flops", "parameters")}


def compare(
    base: Path | str,
    head: Path | str,
    *,
    threshold: float = 0.05,
    floor_s: float = 10e-6,
    error: float = 0.01,
) -> Report:
    """Compare the times and exact figures of two results folders of one machine.

    Two records are of the same configuration if all fields but ``repeat``, the seed and the sampling time
    agree. A time is judged by ``unpaired.difference`` against ``threshold``, a share, or against ``floor_s``
    seconds as a share of the base's time if that is more. ``error`` is the probability that any interval of
    the report misses its true value; it is divided evenly over the configurations (Bonferroni). FLOPs, bytes
    and parameters may grow as in a gate by default; with different versions of torch they are only shown. In
    a comparison, ``rounds`` is the smaller number of repeats and ``calls`` the samples of both sides.

    Raises UsageError if a folder is no results folder, if it holds records of several machines, and if the
    folders are of different machines.
    """
    for side, given in zip(SIDES, (base, head), strict=True):
        if not str(given).strip():
            raise UsageError(f"{side} {given!r} is empty: name a results folder")
    base, head = Path(base), Path(head)
    begun, started = time.perf_counter(), datetime.now(UTC).isoformat(timespec="seconds")
    contents = {side: Store(folder).read() for side, folder in zip(SIDES, (base, head), strict=True)}
    records = {
        side: [r for r in stored if r.cell.probe in ("time", *_COUNTED)]
        for side, (stored, _) in contents.items()
    }
    labels = {"base": str(base), "head": str(head)}
    refuse_other_machines(records, labels)
    pairs = pairs_of(records)
    timed = [pair for probe, pair in pairs if probe == "time"]
    own_error = error / max(1, sum(pair.judged for pair in timed))
    comparisons = tuple(_comparison(pair, threshold, floor_s, own_error) for pair in timed)
    problems = [f"ignored {problem}" for _, damaged in contents.values() for problem in damaged]
    return Report(
        kind="compare",
        base=_about(records["base"], labels["base"]),
        head=_about(records["head"], labels["head"]),
        comparisons=comparisons,
        figures=tuple(_figures(pairs)),
        notes=(*notes_of(timed, comparisons, records), *problems),
        machine=shared_facts(records),
        settings={"threshold": threshold, "floor_s": floor_s, "error": error},
        started=started,
        seconds=time.perf_counter() - begun,
    )


def _about(records: Sequence[Record], label: str) -> dict[str, Any]:
    """A side for the report: its folder, and when its records were made."""
    starts = [record.started for record in records if record.started]
    return {
        "label": label, "commit": "", "dirty": False, "records": len(records),
        "first": min(starts, default=""), "last": max(starts, default=""),
    }  # fmt: skip


def _comparison(pair: StoredPair, threshold: float, floor_s: float, error: float) -> Comparison:
    base, head, cell = pair.base, pair.head, pair.cell
    if not head.measured or not base.measured:
        missing = head if base.measured else base
        reason = "the other run was interrupted before it" if missing.interrupted else ""
        return Comparison(cell=cell, verdict="gone" if base.measured else "new", reason=reason)
    if pair.limited:
        return Comparison(cell=cell, verdict="inconclusive", reason=f"in both runs: {head.why_failed()}")
    if head.failed:
        too = "" if base.ok else "; so did the base"
        return Comparison(cell=cell, verdict="failed", reason=f"{head.why_failed()}{too}")
    if not base.ok:
        reason = f"the base failed: {base.why_failed()}"
        return Comparison(cell=cell, verdict="base-failed", reason=reason)
    quick_s = pair.quick_s
    base_times, head_times = base.times_s(quick_s), head.times_s(quick_s)
    base_s = median(median(own) for own in base_times)
    times = Comparison(
        cell=cell, verdict="inconclusive", base_s=base_s, head_s=median(median(own) for own in head_times),
        rounds=min(len(base_times), len(head_times)), calls=sum(map(len, (*base_times, *head_times))),
    )  # fmt: skip
    unfit = _unfit(pair)
    if not pair.judged:
        lacking = " and ".join(side for side in SIDES if len(getattr(pair, side).ok) < 2)
        once = f"one repeat in {lacking}: run it again with --repeats 3 or more"
        return replace(times, verdict="unfit" if unfit else "inconclusive", reason=unfit or once)
    ratio = difference(base_times, head_times, error, pair.between.time)
    applied = max(threshold, floor_s / base_s)
    verdict: Verdict
    verdict, reason = ("unfit", unfit) if unfit else judge(ratio, applied)
    return replace(
        times, verdict=verdict, reason=reason, ratio=ratio.ratio, low=ratio.low, high=ratio.high,
        error=ratio.error, threshold=applied, detectable=detectable(ratio, applied),
    )  # fmt: skip


def _unfit(pair: StoredPair) -> str:
    """Reason why the times of a configuration cannot be judged; empty if there is none."""
    allocators = []
    for side in SIDES:
        records: list[Record] = getattr(pair, side).ok
        if len({record.code for record in records}) > 1:
            return f"the repeats of the {side} are of different code: measure them again with --no-resume"
        others = known_median(record.machine.get("others_cores") for record in records)
        if others is not None and others > BUSY_CORES:  # they share caches and memory bandwidth
            return f"other processes kept {others:.1f} cores busy while the {side} was measured"
        values = (record.values.get("allocator_in_force") for record in records)
        allocators.append({str(value) for value in values if value is not None})
    if all(allocators) and allocators[0] != allocators[1]:
        base, head = map(joined, allocators)
        return f"the allocator in force was {base} in the base, {head} in the head"
    return ""


def _figures(pairs: Sequence[tuple[str, StoredPair]]) -> Iterator[Figure]:
    """Exact figures of the configurations that both folders hold, each once."""
    seen: set[Key] = set()
    for probe, pair in pairs:
        if probe == "time" or pair.limited or not (pair.base.measured and pair.head.measured):
            continue
        for name in _COUNTED[probe]:
            figure = _figure(name, pair)
            key = (*key_of(replace(pair.cell, probe="time")), name)
            if figure is not None and key not in seen:  # both probes report the parameters
                seen.add(key)
                yield figure


def _figure(name: str, pair: StoredPair) -> Figure | None:
    """The figure of the newest records; None where a base that was measured has no such figure.

    Where both sides failed, the first figure of the probe stands for all.
    """
    newest = pair.base.ok[-1:], [] if pair.head.failed else pair.head.ok[-1:]
    base, head = (_number(records[-1].values.get(name)) if records else None for records in newest)
    failed = [
        f"the {side} failed: {getattr(pair, side).why_failed()}"
        for side, records in zip(SIDES, newest, strict=True)
        if not records
    ]
    if base is None and (not failed or (head is None and name != _COUNTED[pair.cell.probe][0])):
        return None
    detail, tolerance = "; ".join(failed), exact.DEFAULTS[name]
    torch = [str(records[-1].machine.get("torch", "")) if records else "" for records in newest]
    if not failed and head is None:
        detail = "the head has none"
    elif not failed and torch[0] != torch[1]:
        base_torch, head_torch = (version or "unknown" for version in torch)
        detail = f"only shown: torch {base_torch} in the base, {head_torch} in the head"
        tolerance = "shown"
    return exact.figure(pair.cell, name, base, head, tolerance, detail)


def _number(value: object) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None
