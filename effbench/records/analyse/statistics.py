"""Statistics: intervals of medians, ratios, means and proportions; Welch's test; rank correlations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95


def median_interval(
    repeats: Sequence[Sequence[float]], *, level: float = LEVEL, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float, float]:
    """Return (median, low, high) of positive samples in repeats: a prediction interval of the median.

    The statistic is the median over repeats of each repeat's median; the interval is for that of another
    measurement with as many repeats. Samples inside one process are not independent, so each resample draws
    repeats first and then samples inside each drawn repeat (Kalibera and Jones 2013). The interval uses the
    spread s of the logarithm of the resampled statistic. Its quantiles would not do: for k repeats they
    cannot leave the range of the k medians, and their coverage is far too low. The interval is

        median * exp(+- t_{k-1} sqrt(2 k / (k - 1)) s)

    with Student's t because the k repeats are few, k / (k - 1) because a bootstrap of k values underestimates
    their variance by this factor, and 2 because the median of the other measurement varies as much as this
    one. The bounds of a single repeat are NaN: the noise inside one process says nothing about other
    processes. Raises ValueError without samples.
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
    """Return half the width of a (center, low, high) interval, as a share of its center."""
    center, low, high = interval
    return (high - low) / 2 / center


def ratio_interval(
    ours: Mapping[int, Sequence[float]], theirs: Mapping[int, Sequence[float]], *, level: float = LEVEL
) -> tuple[float, float, float]:
    """Return (ratio, low, high) of two times, ours over theirs, whose samples are keyed by repeat.

    Repeats of the same number were measured within seconds of each other, so that disturbances of the machine
    affected both: the logarithms of the ratios of their medians are taken pair by pair, and the interval is
    Student's t over the pairs. With fewer than two pairs it comes from the bounds of the two separate
    intervals; it is NaN if one of the two has a single repeat.
    """
    pairs = [math.log(_median(ours[r]) / _median(theirs[r])) for r in sorted(ours.keys() & theirs.keys())]
    if len(pairs) >= 2:
        center, low, high = mean_interval(pairs, level=level)
        return math.exp(center), math.exp(low), math.exp(high)
    a = median_interval(list(ours.values()), level=level)
    b = median_interval(list(theirs.values()), level=level)
    return a[0] / b[0], a[1] / b[2], a[2] / b[1]


def student_t(level: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t distribution with these degrees of freedom."""
    from scipy import special  # scipy.stats takes a second more to import

    return float(special.stdtrit(degrees, (1 + level) / 2))


def _median(samples: Sequence[float]) -> float:
    return float(np.median(np.asarray(samples, dtype=float)))


def mean_interval(values: Sequence[float], *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return (mean, low, high) by Student's t. Raises ValueError for fewer than two values."""
    if len(values) < 2:
        raise ValueError("an interval of a mean needs at least two values")
    mean = float(np.mean(values))
    half = student_t(level, len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def proportion_interval(hits: int, trials: int, *, level: float = LEVEL) -> tuple[float, float, float]:
    """Return (proportion, low, high) by Wilson's score interval. Raises ValueError for impossible counts."""
    from scipy import stats

    interval = stats.binomtest(hits, trials).proportion_ci(level, method="wilson")
    return hits / trials, float(interval.low), float(interval.high)


def welch(
    difference: float, std: float, other_std: float, runs: int, *, level: float = LEVEL
) -> dict[str, float]:
    """Return ``difference`` of two means of ``runs`` runs each with ``low``, ``high`` and ``p`` by Welch.

    ``std`` and ``other_std`` are standard deviations (n - 1). All but the difference is NaN without them or
    with fewer than two runs.
    """
    if math.isnan(std) or math.isnan(other_std) or runs < 2:
        return {"difference": difference, **dict.fromkeys(("low", "high", "p"), math.nan)}
    from scipy import stats

    variances = std**2 / runs, other_std**2 / runs
    degrees = sum(variances) ** 2 / sum(v**2 / (runs - 1) for v in variances)
    low, high = stats.t.interval(level, degrees, loc=difference, scale=math.sqrt(sum(variances)))
    p = stats.ttest_ind_from_stats(difference, std, runs, 0.0, other_std, runs, equal_var=False).pvalue
    return {"difference": difference, "low": float(low), "high": float(high), "p": float(p)}


def agreement(theirs: Sequence[float], ours: Sequence[float], *, level: float = LEVEL) -> dict[str, Any]:
    """Return ``n`` and the Spearman and Kendall correlations of two lists of scores with their p-values.

    ``spearman_p`` is exact: the two-sided share of all n! orders. ``spearman_least`` is the least size of a
    Spearman correlation that is significant at ``1 - level``; NaN if none of so few can be. All but ``n`` is
    NaN for fewer than three scores or if all scores of a list are equal.
    """
    n = len(ours)
    names = ("spearman", "spearman_p", "spearman_least", "kendall", "kendall_p")
    if n < 3 or len(set(ours)) == 1 or len(set(theirs)) == 1:
        return {"n": n, **dict.fromkeys(names, math.nan)}
    from scipy import stats

    a, b = (stats.zscore(stats.rankdata(scores)) for scores in (theirs, ours))
    spearman = float(a @ b / n)
    by_chance = b[np.array(list(itertools.permutations(range(n))))] @ a / n
    sizes = np.sort(np.abs(by_chance))
    p = float(np.mean(sizes >= abs(spearman) - 1e-8))
    least = next((s for s in np.unique(sizes.round(9)) if np.mean(sizes >= s - 1e-8) <= 1 - level), math.nan)
    kendall = stats.kendalltau(theirs, ours)
    values = (spearman, p, float(least), float(kendall.statistic), float(kendall.pvalue))
    return {"n": n, **dict(zip(names, values, strict=True))}
