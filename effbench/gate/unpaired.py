"""From the repeats of two runs made apart to the ratio of their times. Pure functions of numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from effbench.gate.decide import Interval, mean_and_error, middle

# Half an interval's width in logarithms is cut here: e^50 bounds nothing, and is still a finite number.
_WIDEST = 50.0


def difference(base: Sequence[Sequence[float]], head: Sequence[Sequence[float]], error: float) -> Interval:
    """The ratio of head's times over base's, with a two-sided interval of that error.

    ``base`` and ``head`` hold the times of one cell in seconds, a series a repeat (a fresh process); they
    need not have equally many. The logarithm of the ratio is the difference of two means over repeats, each
    of the logarithm of a repeat's median; each mean's standard error is that of ``decide.mean_and_error``.

    The interval is Welch's, Student's t with Satterthwaite's degrees, but with the smaller number of repeats
    taken for both. Out in the tails that many cells ask for, Satterthwaite's own degrees at 3 against 10
    repeats (a run goes on where a cell is noisy) let an interval miss up to 40 times as often as it claims.
    These let it miss less often than it claims where both sides spread alike, about twice as often where one
    spreads three times as much, and up to five times as often at ten times the spread.

    Raises ValueError with fewer than two repeats on a side.
    """
    from scipy import stats

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
    se = math.sqrt(variance)
    half = min(float(stats.t.ppf(1 - error / 2, degrees)) * se, _WIDEST)
    center = head_mean - base_mean
    return Interval(
        ratio=math.exp(center), low=math.exp(center - half), high=math.exp(center + half), error=error, se=se,
        degrees=degrees,
    )  # fmt: skip
