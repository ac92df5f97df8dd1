"""Crossover lengths, at which one mechanism becomes faster than another, for every pair, with intervals."""

from __future__ import annotations

import itertools
import math
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from effbench.records.analyse.complexity import SERIES
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import Pair, by_pair, one_host, shared_pairs, shared_repeats
from effbench.records.analyse.statistics import LEVEL, student_t
from effbench.records.analyse.summary import label
from effbench.records.analyse.uncertainty import Noise, between_runs, differs, medians, noises, ratio_interval

RESAMPLES = 1000
SHAPE = [name for name in SERIES if name not in ("mechanism", "options", "code", "data")]
_COLUMNS = ["first_label", "second_label", "faster_before", "faster_after", "crossover"]
COLUMNS = [*SHAPE, *_COLUMNS, "crossover_low", "crossover_high", "first", "last", "statement"]

Times = dict[int, dict[Pair, list[float]]]  # length -> pair -> samples


class _Series(NamedTuple):
    """The times of one mechanism: all samples, and only the median of each repeat."""

    samples: Times
    medians: Times


def crossovers(raw: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Return a row per crossing of two mechanisms in a shape, mode and machine, or one if they do not cross.

    At each common length the ratio of the two times, paired by repeat, tells which one is significantly
    faster (``uncertainty.differs``). Between two lengths at which different ones are significantly faster the
    curves cross. ``crossover`` is where the logarithm of the ratio, interpolated linearly in log N, is 0,
    among the neighbouring lengths where the ratio changes sides. Its 95 % interval is Student's t times the
    spread of its logarithm in a bootstrap that draws repeats, for both alike, samples inside them, and the
    noise between runs; it ends at those two lengths. A length with one repeat, or where the two were measured
    on different hosts, has no interval and is left out, and the statement says so. Nothing is extrapolated:
    an interval that would extend beyond the measured lengths is open, with ``crossover_low`` or
    ``crossover_high`` missing and ``< first`` or ``> last`` in the statement.

    A pair that does not cross has no ``crossover``; ``faster_before`` and ``faster_after`` are the
    significantly faster ones at the first and the last common length, missing if there is none. A mechanism
    that was measured with several codes has several series, its code beside its name.
    """
    if raw.empty:
        return pd.DataFrame(columns=COLUMNS)
    times = comparable(raw[(raw["probe"] == "time") & (raw["status"] == "ok") & (raw["task"] == "")])
    rows: list[dict[str, Any]] = []
    noise = noises(times)
    for key, group in times.groupby(SHAPE, sort=False, dropna=False):
        shape = dict(zip(SHAPE, key, strict=True))
        codes = group.groupby(["mechanism", "options"])["code"].nunique()
        series: dict[str, _Series] = {}
        for (mechanism, options, code), cells in group.groupby(["mechanism", "options", "code"]):
            name = label(str(mechanism), str(options))
            series[f"{name} ({code})" if codes[mechanism, options] > 1 else name] = _series(cells)
        for first, second in itertools.combinations(sorted(series), 2):
            rng = np.random.default_rng(seed)
            pair = _pair(
                first, series[first], second, series[second], noise[shape["machine"]], resamples, rng
            )
            rows += [{**shape, **row} for row in pair]
    return pd.DataFrame(rows, columns=COLUMNS)


def _series(cells: pd.DataFrame) -> _Series:
    times: Times = {int(str(n)): by_pair(own) for n, own in cells.groupby("seq_len", sort=False)}
    return _Series(times, {n: medians(repeats) for n, repeats in times.items()})


def _pair(
    first: str,
    ours: _Series,
    second: str,
    theirs: _Series,
    noise: Noise,
    resamples: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    common = sorted(ours.medians.keys() & theirs.medians.keys())
    repeats = {n: shared_repeats(ours.medians[n], theirs.medians[n]) for n in common}
    lengths = [n for n in common if repeats[n] > 1]
    if not common:
        return []
    if not lengths:
        span = f"at {common[0]}" if len(common) == 1 else f"from {common[0]} to {common[-1]}"
        why = "; ".join(dict.fromkeys(_why_not(ours.medians[n], theirs.medians[n]) for n in common))
        statement = f"{first} and {second} were not compared {span}: {why}"
        known = {"first_label": first, "second_label": second, "first": common[0], "last": common[-1]}
        return [{**known, "statement": statement}]
    known = {"first_label": first, "second_label": second, "first": lengths[0], "last": lengths[-1]}
    # -1: the first is faster, 1: the second, 0: no significant difference
    sides = {n: _side(ours.medians[n], theirs.medians[n], noise) for n in lengths}
    sure = [n for n in lengths if sides[n]]
    names = {-1: first, 1: second}
    alone: dict[str, list[int]] = {}
    for n in common:
        if n not in lengths:
            alone.setdefault(_why_not(ours.medians[n], theirs.medians[n]), []).append(n)
    note = "".join(f"; not compared at {_listed(where)}: {why}" for why, where in alone.items())
    changes = [(a, b) for a, b in itertools.pairwise(sure) if sides[a] != sides[b]]
    crossings = []
    for low, high in changes:
        between = [n for n in lengths if low <= n <= high]
        logs = np.array([_log_ratios(ours.samples[n], theirs.samples[n], resamples, rng) for n in between])
        sd = [math.sqrt(between_runs(ours.samples[n], theirs.samples[n], noise).value) for n in between]
        logs[:, 1:] += rng.normal(0.0, 1.0, (len(between), resamples)) * np.array(sd)[:, None]
        places = _crossing(between, logs, sides[low])
        center = float(places[0])
        fewest = min(repeats[n] for n in between)
        spread = float(np.std(np.log(places[1:])))
        half = spread * student_t(LEVEL, fewest - 1) * (fewest / (fewest - 1)) ** 0.5
        start, end = center * math.exp(-half), center * math.exp(half)
        open_low, open_high = start < low == lengths[0], end > high == lengths[-1]
        start, end = max(start, low), min(end, high)
        before, after = names[sides[low]], names[sides[high]]
        close = [n for n in lengths if (low == sure[0] and n < low) or (high == sure[-1] and n > high)]
        crossings.append(
            {
                **known,
                "faster_before": before,
                "faster_after": after,
                "crossover": center,
                "crossover_low": np.nan if open_low else start,
                "crossover_high": np.nan if open_high else end,
                "statement": f"{after} is faster than {before} from N = {center:.0f} "
                f"[{'< ' * open_low}{start:.0f}, {'> ' * open_high}{end:.0f}]"
                + (f"; no significant difference at {_listed(close)}" if close else "")
                + note,
            }
        )
    if crossings:
        return crossings
    row = _no_crossing(first, second, sides, sure, names)
    return [{**known, **row, "statement": row["statement"] + note}]


def _no_crossing(
    first: str, second: str, sides: dict[int, int], sure: list[int], names: dict[int, str]
) -> dict[str, Any]:
    lengths = sorted(sides)
    span = f"at {lengths[0]}" if len(lengths) == 1 else f"from {lengths[0]} to {lengths[-1]}"
    if not sure:
        return {"statement": f"no significant difference between {first} and {second} {span}"}
    winner = names[sides[sure[0]]]
    loser = second if winner == first else first
    close = [n for n in lengths if not sides[n]]
    ends = {
        "faster_before": winner if sides[lengths[0]] else None,
        "faster_after": winner if sides[lengths[-1]] else None,
    }
    if None in ends.values():
        where = f"at {_listed(sure)}; a crossover is possible: no significant difference at {_listed(close)}"
    else:
        but = f" except at {_listed(close)} (no significant difference)" if close else ""
        where = f"{span}{but}: no crossover within the measured lengths"
    return {**ends, "statement": f"{winner} is faster than {loser} {where}"}


def _listed(lengths: list[int]) -> str:
    return ", ".join(map(str, lengths))


def _side(ours: dict[Pair, list[float]], theirs: dict[Pair, list[float]], noise: Noise) -> int:
    interval = ratio_interval(ours, theirs, noise)
    return (-1 if interval[0] < 1 else 1) if differs(interval) else 0


def _why_not(ours: dict[Pair, list[float]], theirs: dict[Pair, list[float]]) -> str:
    """Return why two times have no interval of their ratio."""
    return "one repeat has no interval" if one_host(ours, theirs) else "measured on different hosts"


def _log_ratios(
    ours: dict[Pair, list[float]], theirs: dict[Pair, list[float]], resamples: int, rng: np.random.Generator
) -> np.ndarray:
    """Return [1 + resamples]: the mean over pairs of the log ratio of medians, as measured, then as drawn.

    Repeats that only one of the two has are left out; without pairs, each is drawn by itself.
    """
    common = shared_pairs(ours, theirs)
    if not common:
        a, b = (_log_medians(list(t.values()), resamples, rng) for t in (ours, theirs))
        apart: np.ndarray = _draw(a, rng) - _draw(b, rng)
        return apart
    a, b = (_log_medians([t[r] for r in common], resamples, rng) for t in (ours, theirs))
    return _draw(a - b, rng)


def _log_medians(repeats: list[list[float]], resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return [repeats, 1 + resamples]: the log median of each repeat, then of its resampled samples."""
    rows = []
    for samples in map(np.sort, repeats):
        count = len(samples)
        drawn = rng.integers(count, size=(resamples, count))
        # the samples are in order: their median is at the median place; NumPy sorts small integers quickly
        small = drawn.astype(np.int16 if count <= np.iinfo(np.int16).max else np.int64)
        places = np.sort(small, axis=1)[:, (count - 1) // 2 : count // 2 + 1]
        rows.append(np.log([np.median(samples), *samples[places].mean(axis=1)]))
    return np.stack(rows)


def _draw(logs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return [1 + resamples]: the mean of all repeats [repeats, 1 + resamples], then of resampled ones."""
    count, columns = logs.shape
    chosen = rng.integers(count, size=(count, columns))
    chosen[:, 0] = np.arange(count)
    means: np.ndarray = np.take_along_axis(logs, chosen, axis=0).mean(axis=0)
    return means


def _crossing(lengths: list[int], logs: np.ndarray, before: int) -> np.ndarray:
    """Return [draws]: the length at which log ratios [lengths, draws] leave the side ``before``.

    A draw that starts on the other side crosses at the first length, one that never leaves at the last.
    """
    x = np.log(np.array(lengths, dtype=float))
    values = logs * before
    at = (values <= 0).argmax(axis=0)  # the first length on the other side; 0 too if there is none
    draws = np.arange(logs.shape[1])
    low, high = values[at - 1, draws], values[at, draws]  # where ``at`` is 0, they are not used
    between = x[at - 1] + (x[at] - x[at - 1]) * low / np.where(at > 0, low - high, 1.0)
    stays = (values > 0).all(axis=0)
    crossings: np.ndarray = np.exp(np.where(stays, x[-1], np.where(at > 0, between, x[0])))
    return crossings
