"""Statistics: intervals of means and proportions; Welch's test; rank correlations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

LEVEL = 0.95
_EXACT = 9  # scores whose orders are all tried: 9! are 362,880


def paired_ratio(
    ours: Mapping[Any, Sequence[float]], theirs: Mapping[Any, Sequence[float]], *, level: float = LEVEL
) -> tuple[float, float, float]:
    """Return (ratio, low, high) of two series of positive samples that share two keys or more.

    It is the geometric mean over pairs of the ratio of medians, with Student's t over their logarithms.
    """
    shared = sorted(ours.keys() & theirs.keys())
    logs = [math.log(np.median(ours[key]) / np.median(theirs[key])) for key in shared]
    center, low, high = mean_interval(logs, level=level)
    return math.exp(center), math.exp(low), math.exp(high)


def student_t(level: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t distribution with these degrees of freedom."""
    from scipy import special  # scipy.stats takes a second more to import

    return float(special.stdtrit(degrees, (1 + level) / 2))


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

    ``spearman_p`` is exact for up to 9 scores: the two-sided share of all n! orders. For more it is that of
    Student's t with n - 2 degrees of freedom (Kendall and Stuart 1973). ``spearman_least`` is the least size
    of a Spearman correlation that is significant at ``1 - level``; NaN if none of so few can be. All but
    ``n`` is NaN for fewer than three scores or if all scores of a list are equal.
    """
    n = len(ours)
    names = ("spearman", "spearman_p", "spearman_least", "kendall", "kendall_p")
    if n < 3 or len(set(ours)) == 1 or len(set(theirs)) == 1:
        return {"n": n, **dict.fromkeys(names, math.nan)}
    from scipy import stats

    a, b = (stats.zscore(stats.rankdata(scores)) for scores in (theirs, ours))
    spearman = float(a @ b / n)
    if n <= _EXACT:
        by_chance = b[np.array(list(itertools.permutations(range(n))))] @ a / n
        sizes = np.sort(np.abs(by_chance))
        p = float(np.mean(sizes >= abs(spearman) - 1e-8))
        enough = (s for s in np.unique(sizes.round(9)) if np.mean(sizes >= s - 1e-8) <= 1 - level)
        least = next(enough, math.nan)
    else:
        p = float(stats.spearmanr(theirs, ours).pvalue)
        t = stats.t.ppf((1 + level) / 2, n - 2)
        least = t / math.sqrt(n - 2 + t**2)
    kendall = stats.kendalltau(theirs, ours)
    values = (spearman, p, float(least), float(kendall.statistic), float(kendall.pvalue))
    return {"n": n, **dict(zip(names, values, strict=True))}
