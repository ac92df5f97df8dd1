"""The bootstrap behind intervals of scores: sums over units that are drawn with replacement."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Integers = NDArray[np.integer[Any]]

DRAWS = 1000
PERCENTILES = (2.5, 97.5)  # of a 95 % interval

_DRAWN = 2**20  # units at a time


def resampled_sums(values: Floats, draws: int = DRAWS) -> Floats:
    """Return [draws, k]: the sums of n rows that are drawn from ``values`` [n, k] with replacement.

    The seed is fixed: the same n gives the same draws, so that two systems on the same units are paired.
    """
    rng = np.random.default_rng(0)
    together = max(1, _DRAWN // len(values))  # draws at a time
    sums = []
    for first in range(0, draws, together):
        count = min(together, draws - first)
        drawn = rng.integers(len(values), size=(count, len(values)))
        drawn += np.arange(count)[:, None] * len(values)
        times = np.bincount(drawn.ravel(), minlength=count * len(values)).reshape(count, len(values))
        sums.append(times @ values)
    return np.concatenate(sums)
