"""What varies between runs, and how often the printed intervals hold: the analysis of variance.py's runs.

    python benchmarks/variance_report.py OUT.jsonl.gz [--chosen]

Every third run was held back from all choices of the method; ``--chosen`` analyses the other two thirds
instead. It prints Markdown: the components of variance; the coverage, the widths and the differences found,
before (without the control, each configuration by itself) and after (as effbench prints them).
"""

from __future__ import annotations

import itertools
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from variance import read

from effbench.common.spec import Cell, Record
from effbench.records.analyse.load import comparable
from effbench.records.analyse.runs import Run, learn
from effbench.records.analyse.statistics import paired_ratio, student_t
from effbench.records.analyse.uncertainty import Noise, differs, noise_of, ratio_interval, time_interval
from effbench.records.frame import raw_frame
from effbench.sweep.machine_history import runs_of

TWINS = {"fastformer:interaction=product": "fastformer", "Vanilla": "vanilla"}
HOUR_S, MINUTES_S = 3600.0, 900.0
Interval = tuple[float, float, float]
Key = tuple[str, int]  # mechanism, length


@dataclass
class Result:
    """One run under one setting and method: intervals of times and of ratios to the fastest, and of twins."""

    started: float
    times: dict[Key, Interval]
    values: dict[tuple[str, str, int], float]  # ratio of two mechanisms at a length
    ratios: dict[tuple[str, str, int], Interval]
    twins: dict[Key, Interval]
    is_different: Callable[[Interval], bool]


def main() -> None:
    """Print the report."""
    rows = read(Path(sys.argv[1]))
    held = "--chosen" not in sys.argv
    frame = pd.DataFrame(rows)
    print(
        f"{frame['run'].nunique()} runs, {frame[frame['load'] != '']['run'].nunique()} beside a load, "
        f"{frame['started'].min()} to {frame['started'].max()}."
    )
    print()
    print("\n".join(components(frame[frame["load"] == ""])))
    runs: dict[tuple[str, int], list[Record]] = defaultdict(list)
    loads = {row["run"]: row["load"] for row in rows}
    for row in rows:
        runs[row["setting"], row["run"]].append(record_of(row))
    chosen = [run for run in sorted(loads) if (run % 3 == 2) is held]
    print()
    print(f"{'Held back' if held else 'Chosen from'}: {len(chosen)} runs.")
    print()
    print(
        "| setting | runs | method | next time inside | next ratio inside | within 15 min | over 1 h | "
        "half-width of a time | asked for | of a ratio | asked for | twins differ | 10 % found | 20 % found |"
    )
    print("| --- " * 14 + "|")
    for setting in dict.fromkeys(row["setting"] for row in rows):
        quiet = [run for run in sorted(loads) if not loads[run]]
        for name, method in METHODS.items():
            results = {}
            history: list[Run] = []
            for run in quiet:
                results[run] = method(runs[setting, run], history)
                history += runs_of(runs[setting, run])
            print(line(setting, "quiet", name, [results[run] for run in quiet if run in chosen]))
        loaded = [run for run in sorted(loads) if loads[run]]
        marked = [record for run in loaded for record in runs[setting, run]]
        if marked:
            from effbench.records.analyse.load import is_crowded

            share = np.mean([is_crowded(record) for record in marked])
            false = np.mean([is_crowded(r) for run in quiet for r in runs[setting, run]])
            print(
                f"| {setting} | loaded | marked: {100 * share:.0f} % of {len(marked)} cells; "
                f"of the quiet runs' {100 * false:.1f} % |"
            )


def record_of(row: dict[str, Any]) -> Record:
    """Return the record of a row, with the facts that the analysis reads."""
    samples = tuple(1e-6 * sample for sample in row["samples_us"])
    control = tuple(1e-6 * sample for sample in row["control_us"])
    return Record(
        cell=Cell(
            mechanism=row["mechanism"].replace(":", "-"),
            probe="time",
            seq_len=row["seq_len"],
            threads=2,
            repeat=row["repeat"],
        ),
        status="ok",
        samples={"time_s": samples, "control_s": control},
        values={"waited_share": row["waited_share"]},
        machine={
            "name": "studied",
            "others_cores": row["others_cores"],
            "machine_cores": 2,
            "torch": "studied",
        },
        code="studied",
        started=row["started"],
    )


def printed(records: Sequence[Record], history: Sequence[Run]) -> Result:
    """Return the intervals as effbench prints them, with what the earlier runs told."""
    told = learn(history)
    if told is not None:
        records = [replace(r, machine={**r.machine, "history": told}) for r in records]
    return _result(comparable(raw_frame(records)), None)


def first(records: Sequence[Record], history: Sequence[Run]) -> Result:
    """Return the intervals as effbench prints them on a machine without a history."""
    return printed(records, ())


def before(records: Sequence[Record], history: Sequence[Run]) -> Result:
    """Return the intervals without control, pooling and history: a bootstrap, and Student's t over pairs."""
    return _result(raw_frame(records), _bootstrap)


METHODS: dict[str, Callable[[Sequence[Record], Sequence[Run]], Result]] = {
    "before": before,
    "after, first run": first,
    "after": printed,
}


def _result(frame: pd.DataFrame, alone: Callable[[list[list[float]]], Interval] | None) -> Result:
    noise = noise_of(frame) if alone is None else Noise()
    samples: dict[Key, dict[int, list[float]]] = defaultdict(dict)
    for row in frame.itertuples():
        samples[str(row.mechanism).replace("-", ":"), int(str(row.seq_len))][int(str(row.repeat))] = (
            row.samples_time_s
        )
    times = {
        key: alone(list(own.values())) if alone else time_interval(list(own.values()), noise)
        for key, own in samples.items()
    }
    compared = (lambda a, b: paired_ratio(a, b)) if alone else (lambda a, b: ratio_interval(a, b, noise))
    values, ratios, twins = {}, {}, {}
    for (a, n), (b, m) in itertools.permutations(samples, 2):
        if n != m or b in TWINS:
            continue
        values[a, b, n] = compared(samples[a, n], samples[b, n])[0]
    for n in sorted({n for _, n in samples}):
        names = [a for a, m in samples if m == n and a not in TWINS]
        best = min(names, key=lambda a: times[a, n][0])
        for a in names:
            if a != best:
                ratios[a, best, n] = compared(samples[a, n], samples[best, n])
        for twin, a in TWINS.items():
            twins[a, n] = compared(samples[twin, n], samples[a, n])
    started = datetime.fromisoformat(str(frame["started"].min())).timestamp()
    return Result(started, times, values, ratios, twins, _excludes_1 if alone else differs)


def _excludes_1(interval: Interval) -> bool:
    return not interval[1] <= 1 <= interval[2]


def line(setting: str, kind: str, name: str, results: list[Result]) -> str:
    """Return a row of the table: coverage, half-widths and differences found."""
    in_time, in_ratio = [], []
    apart: dict[str, list[bool]] = {"near": [], "far": []}
    move_time, move_ratio = [], []
    for i, a in enumerate(results):
        for j, b in enumerate(results[i + 1 :], i + 1):
            lag_s = b.started - a.started
            hits_t = [low <= b.times[key][0] <= high for key, (_, low, high) in a.times.items()]
            hits_r = [low <= b.values[key] <= high for key, (_, low, high) in a.ratios.items()]
            move_time += [abs(math.log(b.times[key][0] / a.times[key][0])) for key in a.times]
            move_ratio += [abs(math.log(b.values[key] / a.ratios[key][0])) for key in a.ratios]
            if j == i + 1:
                in_time += hits_t
                in_ratio += hits_r
            if lag_s < MINUTES_S:
                apart["near"] += hits_t + hits_r
            if lag_s > HOUR_S:
                apart["far"] += hits_t + hits_r
    half_t = [math.log(high / low) / 2 for r in results for _, low, high in r.times.values()]
    half_r = [math.log(high / low) / 2 for r in results for _, low, high in r.ratios.values()]
    found = {
        size: [
            r.is_different((v * size, lo * size, hi * size))
            for r in results
            for v, lo, hi in r.twins.values()
        ]
        for size in (1.0, 1.1, 1.2)
    }
    cells = [
        _share(in_time),
        _share(in_ratio),
        _share(apart["near"]),
        _share(apart["far"]),
        _percent(np.median(half_t)),
        _percent(np.quantile(move_time, 0.95)),
        _percent(np.median(half_r)),
        _percent(np.quantile(move_ratio, 0.95)),
        *(_share(found[size]) for size in found),
    ]
    return f"| {setting} | {kind} | {name} | {' | '.join(cells)} |"


def _share(hits: Sequence[bool]) -> str:
    return f"{100 * np.mean(hits):.0f} % of {len(hits)}" if len(hits) else "-"


def _percent(log: float) -> str:
    return f"{100 * math.expm1(log):.1f} %"


def _bootstrap(repeats: list[list[float]]) -> Interval:
    """Return the median and the interval that effbench printed before: from the spread of a bootstrap."""
    rng = np.random.default_rng(0)
    groups = [np.asarray(samples) for samples in repeats]
    k = len(groups)
    medians = np.stack([np.median(g[rng.integers(len(g), size=(400, len(g)))], axis=1) for g in groups])
    drawn = np.median(medians[rng.integers(k, size=(k, 400)), np.arange(400)], axis=0)
    center = float(np.median([np.median(g) for g in groups]))
    half = student_t(0.95, k - 1) * math.sqrt(2 * k / (k - 1)) * float(np.std(np.log(drawn / center)))
    return center, center * math.exp(-half), center * math.exp(half)


def components(frame: pd.DataFrame) -> Iterator[str]:
    """Yield the table of standard deviations, in percent, as measured and in units of the control."""
    heads = "setting | mechanism | N | time | call | process | run | / control: call | process | run"
    yield f"| {heads} | ratio to linear: run |"
    yield "| --- " * 11 + "|"
    frame = frame.assign(
        raw=[np.log(s) for s in frame["samples_us"]],
        scaled=[np.log(s) - np.log(c) for s, c in zip(frame["samples_us"], frame["control_us"], strict=True)],
    )
    for (setting, mechanism, n), own in frame.groupby(["setting", "mechanism", "seq_len"]):
        linear = frame[
            (frame["setting"] == setting) & (frame["mechanism"] == "linear") & (frame["seq_len"] == n)
        ]
        cells = [f"{own['time_s'].median() * 1e3:.3g} ms"]
        for column in ("raw", "scaled"):
            medians = own[column].map(np.median)
            call = own[column].map(lambda x: np.std(x, ddof=1) if len(x) > 1 else np.nan).median()
            by_run = medians.groupby(own["run"])
            run = by_run.median().std()
            cells += [
                f"{100 * call:.1f}",
                f"{100 * by_run.std().median():.1f}",
                f"{100 * run:.1f}",
            ]
        ratio = (
            own["scaled"].map(np.median).groupby(own["run"]).median()
            - linear["scaled"].map(np.median).groupby(linear["run"]).median()
        )
        yield f"| {setting} | {mechanism} | {n} | {' | '.join(cells)} | {100 * ratio.std():.1f} |"


if __name__ == "__main__":
    main()
