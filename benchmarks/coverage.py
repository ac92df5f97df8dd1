"""Measure the coverage of the printed intervals: the share of later repetitions whose median is inside.

    python benchmarks/coverage.py FOLDER [repetitions]

The script repeats a small sweep into FOLDER/00, FOLDER/01, ..., keeps complete repetitions that are there
already, and prints Markdown. One mechanism is in the sweep under two names: the share of its pairs that
differ significantly is the rate of false alarms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import effbench
from effbench.common.spec import UsageError
from effbench.records.analyse.statistics import half_width, median_interval, ratio_interval

SWEEP = """
name = "coverage"
[[grid]]
mechanism = ["fastformer", "fastformer:interaction=product", "vanilla", "linear", "longformer"]
probe = "time"
mode = "forward"
seq_len = [128, 1024]
seconds = 0.05
repeats = 5
max_repeats = 5
"""
TWINS = ("", "interaction=product")
Configuration = tuple[str, str, int]  # mechanism, options, length
Samples = dict[int, list[float]]  # times by repeat
Interval = tuple[float, float, float]


def main() -> None:
    """Measure the repetitions and print the report."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 32
    sweep = effbench.Sweep.from_toml(SWEEP, "coverage", "coverage")
    frames = []
    for number in range(count):
        place = folder / f"{number:02}"
        try:
            raw = effbench.load(place, raw=True)
            complete = len(raw) == len(sweep.cells())
        except UsageError:
            complete = False
        if not complete:
            effbench.run(sweep, place)
            raw = effbench.load(place, raw=True)
        assert set(raw["status"]) == {"ok"}
        frames.append(raw)
        print(f"{number + 1} of {count}", file=sys.stderr)
    print(report(frames))


def report(frames: list[pd.DataFrame]) -> str:
    """Return Markdown: the coverage by number of repeats and method, and the false alarms of the twins."""
    repetitions = [_samples(frame) for frame in frames]
    others = pd.concat(frames)["others_cores"].mean()
    lines = [
        f"{len(frames)} repetitions of {len(repetitions[0])} configurations; "
        f"{others:.2f} cores busy with other work.",
        "",
        "| repeats | method | next one inside | any later inside | half-width, median | 90th percentile |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for repeats in (2, 3, 5):
        for name, method in (("printed", median_interval), ("bootstrap quantiles", _quantiles)):
            lines.append(_row(repetitions, repeats, name, method))
    alarms, pairs = 0, 0
    for repetition in repetitions:
        for key, samples in repetition.items():
            if key[0] == "fastformer" and key[1] == TWINS[0]:
                twin = repetition["fastformer", TWINS[1], key[2]]
                first, second = ({r: s[r] for r in range(3)} for s in (samples, twin))
                _, low, high = ratio_interval(first, second)
                alarms, pairs = alarms + (not low <= 1 <= high), pairs + 1
    lines += [
        "",
        f"One mechanism under two names, three repeats: {alarms} of {pairs} differences are significant.",
    ]
    return "\n".join(lines)


def _row(
    repetitions: list[dict[Configuration, Samples]], repeats: int, name: str, method: Callable[..., Interval]
) -> str:
    following: list[bool] = []
    later: list[bool] = []
    widths: list[float] = []
    for key in repetitions[0]:
        parts = [[repetition[key][r] for r in range(repeats)] for repetition in repetitions]
        intervals = [method(part) for part in parts]
        centers = [interval[0] for interval in intervals]
        widths += [half_width(interval) for interval in intervals]
        for i, (_, low, high) in enumerate(intervals):
            inside = [low <= center <= high for center in centers[i + 1 :]]
            following += inside[:1]
            later += inside
    shares = f"{100 * np.mean(following):.1f} % | {100 * np.mean(later):.1f} %"
    width = f"{100 * np.median(widths):.1f} % | {100 * np.quantile(widths, 0.9):.1f} %"
    return f"| {repeats} | {name} | {shares} | {width} |"


def _quantiles(repeats: list[list[float]]) -> Interval:
    """Return the median and the 2.5 and 97.5 % quantiles of the bootstrap, for comparison."""
    rng = np.random.default_rng(0)
    groups = [np.asarray(samples) for samples in repeats]
    medians = np.stack([np.median(g[rng.integers(len(g), size=(1000, len(g)))], axis=1) for g in groups])
    drawn = rng.integers(len(groups), size=(1000, len(groups)))
    low, high = np.quantile(np.median(medians[drawn, np.arange(1000)[:, None]], axis=1), [0.025, 0.975])
    return float(np.median([np.median(g) for g in groups])), float(low), float(high)


def _samples(raw: pd.DataFrame) -> dict[Configuration, Samples]:
    samples: dict[Configuration, Samples] = {}
    for row in raw.itertuples():
        key = (str(row.mechanism), str(row.options), int(str(row.seq_len)))
        samples.setdefault(key, {})[int(str(row.repeat))] = list(row.samples_time_s)
    return samples


if __name__ == "__main__":
    main()
