"""The ratio of the times of two separate runs, with its interval. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from effbench.gate.decide import Interval, mean_and_error, middle, student
from effbench.records.analyse.uncertainty import NOTHING, Variance

# Upper limit of half an interval's width in logarithms: e^50 bounds nothing and is still a finite number.
_WIDEST = 50.0


def difference(
    base: Sequence[Sequence[float]],
    head: Sequence[Sequence[float]],
    error: float,
    between: Variance = NOTHING,
) -> Interval:
    """Return the ratio of the head's times over the base's, with a two-sided interval of that error.

    ``base`` and ``head`` hold the times of one cell in seconds, one series per repeat (a fresh process); the
    numbers of repeats may differ. The logarithm of the ratio is the difference of two means over repeats of
    the logarithm of each repeat's median, with the standard errors of ``decide.mean_and_error``.

    The interval is Welch's: Student's t with Satterthwaite's degrees of freedom, but with the smaller number
    of repeats for both sides. In the far tails that many cells need, Satterthwaite's own degrees at 3 against
    10 repeats (a run repeats noisy cells more often) make an interval miss up to 40 times as often as
    claimed. With these degrees it misses less often than claimed if both sides have the same spread, about
    twice as often if one side has three times the spread, and up to five times as often at ten times.

    ``between`` is the variance of the logarithm of a time between two runs of the same code, beyond the noise
    within them. It is added for both sides, with its own degrees of freedom.

    Raises ValueError with fewer than two repeats on a side.
    """
    (base_mean, base_se), (head_mean, head_se) = (
        mean_and_error([middle(np.log(np.asarray(series, dtype=float))) for series in side])
        for side in (base, head)
    )
    fewest = min(len(base), len(head)) - 1
    variance = base_se**2 + head_se**2
    if variance > 0:
        # of the shares, since the fourth power of a tiny error would be 0
        degrees = fewest / ((base_se**2 / variance) ** 2 + (head_se**2 / variance) ** 2)
    else:
        degrees = 2.0 * fewest
    whole = Variance(value=variance, degrees=degrees).plus(between.times(2))
    se, degrees = math.sqrt(whole.value), whole.degrees
    half = min(student(1 - error / 2, degrees) * se, _WIDEST)
    center = head_mean - base_mean
    return Interval(
        ratio=math.exp(center), low=math.exp(center - half), high=math.exp(center + half), error=error, se=se,
        degrees=degrees,
    )  # fmt: skip
