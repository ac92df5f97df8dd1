"""Intervals: of a median in repeats, of a ratio of two, of a mean over seeds, of a proportion."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def median_interval(
    repeats: Sequence[Sequence[float]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """(median, low, high) of positive samples that come in repeats: where a repetition's median would fall.

    The statistic is the median over repeats of each repeat's median. Samples inside one process are not
    independent, so each resample draws repeats first and then samples inside each drawn repeat (Kalibera and
    Jones 2013). The spread s of the logarithm of the resampled statistic is taken, not its quantiles, which
    for k repeats cannot leave the range of the k medians and cover far too seldom. The interval is

        median * exp(+- t_{k-1} sqrt(2 k / (k - 1)) s)

    with Student's t since the k repeats are few, k / (k - 1) since a bootstrap of k values underestimates
    their variance so much, and 2 since a repetition's median varies as this one does. One repeat has no
    interval: its bounds are NaN, since the noise inside one process says nothing of another's.
    """
    groups = [np.asarray(samples, dtype=float) for samples in repeats if len(samples)]
    if not groups:
        raise ValueError("no samples")
    center = float(np.median([np.median(group) for group in groups]))
    k = len(groups)
    if k == 1:
        return center, math.nan, math.nan
    rng = np.random.default_rng(seed)
    # medians[i, r]: the median of the r-th resample of repeat i
    medians = np.stack(
        [np.median(group[rng.integers(len(group), size=(resamples, len(group)))], axis=1) for group in groups]
    )
    drawn = rng.integers(k, size=(resamples, k))
    statistics = np.median(medians[drawn, np.arange(resamples)[:, None]], axis=1)
    spread = float(np.std(np.log(statistics / center)))
    half = student_t(level, k - 1) * math.sqrt(2 * k / (k - 1)) * spread
    return center, center * math.exp(-half), center * math.exp(half)


def half_width(interval: tuple[float, float, float]) -> float:
    """Half the width of a (center, low, high) interval, as a share of its center."""
    center, low, high = interval
    return (high - low) / 2 / center


def ratio_interval(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]], *, level: float = LEVEL
) -> tuple[float, float, float]:
    """(ratio, low, high) of two times whose samples are keyed by repeat: ours over theirs.

    Repeats of one number were measured within seconds of each other, so that what the machine did meanwhile
    hit both: the logarithms of the ratios of their medians are taken pair by pair, and the interval is
    Student's t over the pairs. With fewer than two pairs it comes from the bounds of the two separate
    intervals, and is NaN where one of them has a single repeat.
    """
    pairs = [math.log(_median(ours[r]) / _median(theirs[r])) for r in sorted(ours.keys() & theirs.keys())]
    if len(pairs) >= 2:
        center, low, high = mean_interval(pairs, level=level)
        return math.exp(center), math.exp(low), math.exp(high)
    a = median_interval(list(ours.values()), level=level)
    b = median_interval(list(theirs.values()), level=level)
    return a[0] / b[0], a[1] / b[2], a[2] / b[1]


def student_t(level: float, degrees: int) -> float:
    """The two-sided quantile of Student's t."""
    from scipy import stats

    return float(stats.t.ppf((1 + level) / 2, degrees))


def _median(samples: Sequence[float]) -> float:
    return float(np.median(np.asarray(samples, dtype=float)))


def mean_interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, float, float]:
    """(mean, low, high) by Student's t; needs at least two values, such as the scores of two seeds."""
    if len(values) < 2:
        raise ValueError("an interval of a mean needs at least two values")
    mean = float(np.mean(values))
    half = student_t(level, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
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
