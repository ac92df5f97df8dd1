"""Analyse the runs of variance.py: how much times vary, and how often an interval holds in another run.

    python benchmarks/variance_report.py OUT.jsonl.gz [--chosen] [--plot FILE.png]

Every third run was held back from all choices of the method; ``--chosen`` analyses the other two thirds
instead. It prints Markdown: the components of variance; the coverage, the widths and the differences found,
before (without the control, each configuration by itself) and after (as effbench prints them).
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.dates import DateFormatter
from variance import LOADS, SETTINGS, read

from effbench.common.spec import Cell, Record
from effbench.gate.stored_pairs import pairs_of
from effbench.gate.unpaired import difference
from effbench.records.analyse.load import comparable, is_crowded
from effbench.records.analyse.pairs import Pair, by_pair
from effbench.records.analyse.runs import Run, learn
from effbench.records.analyse.statistics import paired_ratio, student_t
from effbench.records.analyse.uncertainty import (
    NOTHING,
    Noise,
    differs,
    noise_of,
    ratio_interval,
    time_interval,
)
from effbench.records.frame import raw_frame
from effbench.sweep.machine_history import runs_of

TWINS = {"fastformer:interaction=product": "fastformer", "Vanilla": "vanilla"}
QUICK = "3 x 0.1 (the first three of six)"  # the preset quick's length
MINUTES_S, APART_S = 900.0, 2400.0
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
    """Print the report, and draw the picture that ``--plot`` names."""
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("--chosen", action="store_true", help="the runs that the method was chosen from")
    parser.add_argument("--plot", type=Path)
    asked = parser.parse_args()
    rows = read(asked.out)
    frame = pd.DataFrame(rows)
    quiet = frame[frame["load"] == ""]
    print(
        f"{frame['run'].nunique()} runs, {frame['run'].nunique() - quiet['run'].nunique()} beside a load, "
        f"{frame['started'].min()} to {frame['started'].max()}.\n"
    )
    print("\n".join(components(quiet)))
    short = [{**row, "setting": QUICK} for row in rows if row["setting"] == "6 x 0.1" and row["repeat"] < 3]
    for setting in (*SETTINGS, QUICK):
        print("\n" + "\n".join(comparison([*rows, *short], setting, held=not asked.chosen)))
    if asked.plot:
        draw(quiet[quiet["setting"] == next(iter(SETTINGS))], asked.plot)


def comparison(rows: list[dict[str, Any]], setting: str, *, held: bool) -> Iterator[str]:
    """Yield a table of one setting: coverage, half-widths and differences found by each method."""
    runs: dict[int, list[Record]] = defaultdict(list)
    loads = {row["run"]: row["load"] for row in rows}
    for row in rows:
        if row["setting"] == setting:
            runs[row["run"]].append(record_of(row))
    quiet = [run for run in sorted(runs) if not loads[run]]
    judged = [run for run in quiet if (run % 3 == 2) is held]
    columns = {}
    for name, method in METHODS.items():
        results: dict[int, Result] = {}
        history: list[Run] = []
        for run in quiet:
            results[run] = method(runs[run], history)
            history += runs_of(runs[run])
        columns[name] = lines([results[run] for run in judged])
        alarms = false_alarms([runs[run] for run in judged], scaled=name != "before")
        columns[name]["two runs of one code differ, as `compare` tells"] = alarms
    yield f"{setting}, {len(judged)} quiet runs {'held back' if held else 'that the method was chosen from'}:"
    yield ""
    yield f"| | {' | '.join(columns)} |"
    yield "| --- " * (1 + len(columns)) + "|"
    for quantity in columns["before"]:
        yield f"| {quantity} | {' | '.join(column[quantity] for column in columns.values())} |"
    for (quantity, load), inside in beside(runs, loads).items():
        yield f"| a {quantity} beside {load} is inside an earlier quiet run's | | | {_share(inside)} |"
    for title, of_load in (("quiet", [""]), *((f"beside {load}", [load]) for load in LOADS)):
        cells = [is_crowded(r) for run in sorted(runs) if loads[run] in of_load for r in runs[run]]
        yield f"| marked as beside other load, of the cells {title} | | | {_share(cells)} |"


def beside(runs: dict[int, list[Record]], loads: dict[int, str]) -> dict[tuple[str, str], list[bool]]:
    """Return for each load whether times and ratios are inside the intervals of each quiet run before."""
    hits: dict[tuple[str, str], list[bool]] = {
        (quantity, load): [] for load in LOADS for quantity in ("time", "ratio")
    }
    history: list[Run] = []
    quiet: list[Result] = []
    for run in sorted(runs):
        result, load = printed(runs[run], history), loads[run]
        if not load:
            quiet.append(result)
            history += runs_of(runs[run])
            continue
        for before in quiet:
            times, ratios = before.times.items(), before.ratios.items()
            hits["time", load] += [low <= result.times[key][0] <= high for key, (_, low, high) in times]
            hits["ratio", load] += [low <= result.values[of] <= high for of, (_, low, high) in ratios]
    return hits


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


def false_alarms(results: Sequence[list[Record]], *, scaled: bool) -> str:
    """Return how often two runs of the same code differ, as ``effbench compare`` tells with 5 % of error."""
    alarms = []
    for base, head in itertools.combinations(results, 2):
        pairs = pairs_of({"base": base, "head": head})
        for _, pair in pairs:
            quick_s = pair.quick_s if scaled else None
            times = pair.base.times_s(quick_s), pair.head.times_s(quick_s)
            ratio = difference(*times, 0.05, pair.between.time if scaled else NOTHING)
            alarms.append(not ratio.low <= 1 <= ratio.high)
    return _share(alarms)


METHODS: dict[str, Callable[[Sequence[Record], Sequence[Run]], Result]] = {
    "before": before,
    "after, first run": first,
    "after": printed,
}


def _result(frame: pd.DataFrame, alone: Callable[[list[list[float]]], Interval] | None) -> Result:
    noise = noise_of(frame) if alone is None else Noise()
    samples: dict[Key, dict[Pair, list[float]]] = {
        (str(mechanism).replace("-", ":"), int(str(n))): by_pair(rows)
        for (mechanism, n), rows in frame.groupby(["mechanism", "seq_len"], sort=False)
    }
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


def lines(results: list[Result]) -> dict[str, str]:
    """Return coverage, half-widths and differences found, each with its name."""
    hits: dict[str, list[bool]] = defaultdict(list)
    moved: dict[str, list[float]] = defaultdict(list)
    for i, a in enumerate(results):
        for j, b in enumerate(results[i + 1 :], i + 1):
            near, far = b.started - a.started < MINUTES_S, b.started - a.started > APART_S
            for key, (value, low, high) in a.times.items():
                inside = low <= b.times[key][0] <= high
                moved["time"].append(abs(math.log(b.times[key][0] / value)))
                hits["next time"] += [inside] if j == i + 1 else []
                hits["near"] += [inside] if near else []
                hits["far"] += [inside] if far else []
            for of, (value, low, high) in a.ratios.items():
                inside = low <= b.values[of] <= high
                moved["ratio"].append(abs(math.log(b.values[of] / value)))
                hits["next ratio"] += [inside] if j == i + 1 else []
                hits["near"] += [inside] if near else []
                hits["far"] += [inside] if far else []
    times = [math.log(high / low) / 2 for r in results for _, low, high in r.times.values()]
    ratios = [math.log(high / low) / 2 for r in results for _, low, high in r.ratios.values()]

    def found(size: float) -> list[bool]:
        twins = [(r.is_different, interval) for r in results for interval in r.twins.values()]
        return [differ((v * size, low * size, high * size)) for differ, (v, low, high) in twins]

    return {
        "the next run's time is inside": _share(hits["next time"]),
        "the next run's ratio is inside": _share(hits["next ratio"]),
        "either, of runs less than 15 minutes apart": _share(hits["near"]),
        "either, of runs more than 40 minutes apart": _share(hits["far"]),
        "half-width of a time, median": _percent(float(np.median(times))),
        "what 95 % of the pairs of runs ask for": _percent(float(np.quantile(moved["time"], 0.95))),
        "half-width of a ratio, median": _percent(float(np.median(ratios))),
        "what 95 % of the pairs of runs ask for (ratio)": _percent(float(np.quantile(moved["ratio"], 0.95))),
        "one mechanism under two names is called different": _share(found(1.0)),
        "a true 10 % is found": _share(found(1.1)),
        "a true 20 % is found": _share(found(1.2)),
    }


def draw(rows: pd.DataFrame, path: Path) -> None:
    """Draw the medians of the cells over the time of day, as measured and divided by the control."""
    from matplotlib.figure import Figure

    scaled = [np.median(np.divide(s, c)) for s, c in zip(rows["samples_us"], rows["control_us"], strict=True)]
    rows = rows.assign(scaled=scaled, hour=pd.to_datetime(rows["started"]))
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    for column, color, size, text in (
        ("time_s", "0.65", 9, "as measured"),
        ("scaled", "black", 5, "divided by the control"),
    ):
        quick = rows.groupby(["mechanism", "seq_len"])[column].transform(lambda own: own.quantile(0.25))
        axes.scatter(rows["hour"], rows[column] / quick, s=size, color=color, label=text, linewidths=0)
    axes.set_yscale("log")
    axes.set_yticks([0.8, 1, 1.2, 1.4, 1.6, 2], ["0.8", "1", "1.2", "1.4", "1.6", "2"])
    axes.set_yticks([], minor=True)
    axes.set_ylim(0.75, 2.2)
    axes.set_ylabel("time / its lower quartile")
    axes.set_xlabel("time of day (UTC)")
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.legend(loc="upper right", frameon=False, ncols=2)
    figure.savefig(path, dpi=150)


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
