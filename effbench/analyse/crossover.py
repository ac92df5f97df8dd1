"""Where one mechanism becomes faster than another: crossover lengths between every pair, with intervals."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pandas as pd

from effbench.analyse.complexity import LINE
from effbench.analyse.statistics import ratio_interval, student_t

RESAMPLES = 1000
SHAPE = [name for name in LINE if name not in ("mechanism", "options", "code", "data")]
_COLUMNS = ["first_label", "second_label", "faster_before", "faster_after", "crossover"]
COLUMNS = [*SHAPE, *_COLUMNS, "crossover_low", "crossover_high", "first", "last", "statement"]

Times = dict[int, dict[int, list[float]]]  # length -> repeat -> samples


def crossovers(raw: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """A row for each crossing of a pair of mechanisms within a shape, mode and machine; one if none crosses.

    At each common length the ratio of the two times, paired by repeat, says who is surely faster (its 95 %
    interval is wholly on one side of 1) or that it cannot be told. Between two lengths at which different
    ones are surely faster the curves cross: ``crossover`` is where the line between the two logarithms of
    the ratio meets 0, among the neighbouring lengths where the ratio changes sides. Its 95 % interval comes
    from a bootstrap over the repeats, drawn for both alike: Student's t times the spread of its logarithm,
    within those two lengths. Nothing is extrapolated: a pair that does not cross within what was measured
    has no crossover, and its statement says so and who is faster, or that it cannot be told.
    """
    if raw.empty:
        return pd.DataFrame(columns=COLUMNS)
    times = raw[(raw["probe"] == "time") & (raw["status"] == "ok") & (raw["task"] == "")]
    rows: list[dict[str, Any]] = []
    for key, group in times.groupby(SHAPE, sort=False, dropna=False):
        shape = dict(zip(SHAPE, key, strict=True))
        lines: dict[str, Times] = {}
        for (mechanism, options), cells in group.groupby(["mechanism", "options"]):
            line: Times = {}
            for n, repeat, samples in zip(
                cells["seq_len"], cells["repeat"], cells["samples_time_s"], strict=True
            ):
                line.setdefault(int(n), {})[int(repeat)] = list(samples)
            lines[f"{mechanism}:{options}" if options else str(mechanism)] = line
        for first, second in itertools.combinations(sorted(lines), 2):
            rng = np.random.default_rng(seed)
            rows += [
                {**shape, **row} for row in _pair(first, lines[first], second, lines[second], resamples, rng)
            ]
    return pd.DataFrame(rows, columns=COLUMNS)


def _pair(
    first: str, ours: Times, second: str, theirs: Times, resamples: int, rng: np.random.Generator
) -> list[dict[str, Any]]:
    lengths = sorted(ours.keys() & theirs.keys())
    if not lengths:
        return []
    known = {"first_label": first, "second_label": second, "first": lengths[0], "last": lengths[-1]}
    sides = {
        n: _side(ours[n], theirs[n]) for n in lengths
    }  # -1: the first is faster, 1: the second, 0: unknown
    sure = [n for n in lengths if sides[n]]
    names = {-1: first, 1: second}
    changes = [(a, b) for a, b in itertools.pairwise(sure) if sides[a] != sides[b]]
    found = []
    for low, high in changes:
        between = [n for n in lengths if low <= n <= high]
        logs = np.array([_log_ratios(ours[n], theirs[n], resamples, rng) for n in between])
        places = _crossing(between, logs, sides[low])
        center = float(places[0])
        repeats = min(len(ours[n].keys() & theirs[n].keys()) for n in between)
        half = float(np.std(np.log(places[1:])))
        if repeats > 1:
            half *= student_t(0.95, repeats - 1) * (repeats / (repeats - 1)) ** 0.5
        start, end = max(low, center * np.exp(-half)), min(high, center * np.exp(half))
        before, after = names[sides[low]], names[sides[high]]
        found.append(
            {
                **known,
                "faster_before": before,
                "faster_after": after,
                "crossover": center,
                "crossover_low": float(start),
                "crossover_high": float(end),
                "statement": f"{after} is faster than {before} from N = "
                f"{center:.0f} [{start:.0f}, {end:.0f}]",
            }
        )
    if found:
        return found
    return [{**known, **_no_crossing(first, second, sides, sure, names)}]


def _no_crossing(
    first: str, second: str, sides: dict[int, int], sure: list[int], names: dict[int, str]
) -> dict[str, Any]:
    lengths = sorted(sides)
    span = f"at {lengths[0]}" if len(lengths) == 1 else f"from {lengths[0]} to {lengths[-1]}"
    if not sure:
        return {"statement": f"{first} and {second} cannot be told apart {span}"}
    winner = names[sides[sure[0]]]
    loser = second if winner == first else first
    unsure = [str(n) for n in lengths if not sides[n]]
    but = f", but for {', '.join(unsure)}, where they cannot be told apart" if unsure else ""
    return {
        "faster_before": winner,
        "faster_after": winner,
        "statement": f"{winner} is faster than {loser} {span}{but}: no crossover within what was measured",
    }


def _side(ours: dict[int, list[float]], theirs: dict[int, list[float]]) -> int:
    _, low, high = ratio_interval(ours, theirs)
    return -1 if high < 1 else 1 if low > 1 else 0


def _log_ratios(
    ours: dict[int, list[float]], theirs: dict[int, list[float]], resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """[1 + resamples]: the mean over repeats of the log ratio of medians as measured, then of drawn repeats.

    Repeats that only one of them has are left out; without a common one, medians over repeats are compared.
    """
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        whole = [np.log(np.median([np.median(s) for s in t.values()])) for t in (ours, theirs)]
        return np.full(1 + resamples, whole[0] - whole[1])
    logs = np.array([np.log(np.median(ours[r]) / np.median(theirs[r])) for r in common])
    drawn = rng.integers(len(logs), size=(resamples, len(logs)))
    return np.concatenate([[logs.mean()], logs[drawn].mean(axis=1)])


def _crossing(lengths: list[int], logs: np.ndarray, before: int) -> np.ndarray:
    """Where log ratios [lengths, draws] leave the side that they begin on, between two lengths: [draws].

    A draw that begins on the other side crosses at the first length, one that never leaves it at the last.
    """
    x = np.log(np.array(lengths, dtype=float))
    places = np.full(logs.shape[1], x[-1])
    for draw in range(logs.shape[1]):
        value = logs[:, draw] * before
        left = np.flatnonzero(value <= 0)
        if not len(left):
            continue
        k = int(left[0])
        places[draw] = (
            x[0] if k == 0 else x[k - 1] + (x[k] - x[k - 1]) * value[k - 1] / (value[k - 1] - value[k])
        )
    crossings: np.ndarray = np.exp(places)
    return crossings
