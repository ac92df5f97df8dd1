"""Intervals: hierarchical bootstrap of a median, Student's t of a mean, Wilson's of a proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def median_interval(
    repeats: Sequence[Sequence[float]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """(median, low, high) of samples that come in repeats.

    The statistic is the median over repeats of each repeat's median. Samples inside one process are not
    independent, so each resample draws repeats first and then samples inside each drawn repeat (Kalibera and
    Jones 2013); the interval is the percentile interval. With one repeat it covers the noise inside that
    process only.
    """
    groups = [np.asarray(samples, dtype=float) for samples in repeats if len(samples)]
    if not groups:
        raise ValueError("no samples")
    center = float(np.median([np.median(group) for group in groups]))
    rng = np.random.default_rng(seed)
    # medians[i, r]: the median of the r-th resample of repeat i
    medians = np.stack(
        [np.median(group[rng.integers(len(group), size=(resamples, len(group)))], axis=1) for group in groups]
    )
    drawn = rng.integers(len(groups), size=(resamples, len(groups)))
    statistics = np.median(medians[drawn, np.arange(resamples)[:, None]], axis=1)
    low, high = np.quantile(statistics, [(1 - level) / 2, (1 + level) / 2])
    return center, min(float(low), center), max(float(high), center)


def mean_interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, float, float]:
    """(mean, low, high) by Student's t; needs at least two values, such as the scores of two seeds."""
    if len(values) < 2:
        raise ValueError("an interval of a mean needs at least two values")
    from scipy import stats

    mean = float(np.mean(values))
    half = float(
        stats.t.ppf((1 + level) / 2, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    )
    return mean, mean - half, mean + half


def proportion_interval(hits: int, trials: int, *, level: float = LEVEL) -> tuple[float, float, float]:
    """(proportion, low, high) by Wilson's score interval."""
    if not 0 <= hits <= trials or trials < 1:
        raise ValueError(f"{hits} of {trials} is not a proportion")
    from scipy import stats

    z = float(stats.norm.ppf((1 + level) / 2))
    p = hits / trials
    scale = 1 + z**2 / trials
    center = (p + z**2 / (2 * trials)) / scale
    half = z * math.sqrt(p * (1 - p) / trials + z**2 / (4 * trials**2)) / scale
    return p, max(0.0, min(center - half, p)), min(1.0, max(center + half, p))
