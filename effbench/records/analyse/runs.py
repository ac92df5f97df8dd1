"""Estimate a machine's speed in quick phases, and the noise between its runs, from its earlier runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from effbench.records.analyse.uncertainty import ASSUMED, Between, Variance

# Two runs are compared if they share so many configurations.
_FEWEST_SHARED = 3
# The configurations of a run are not independent of each other: they count as so many at most.
_MOST_INDEPENDENT = 5
_QUARTILE = 0.25
# The standard deviation of the logarithm of one run's quick control: of so many runs' quartile it is less.
_QUICKNESS_SD = 0.08


@dataclass(frozen=True, kw_only=True)
class Run:
    """The data of a run that the history keeps.

    ``control_s`` is the time of the control in the run's quick phases. ``times`` holds two numbers for each
    configuration: the logarithm of its time divided by the time of the control beside it, and the variance of
    this logarithm within the run. Two runs are compared only if they have the same ``group``: the version of
    torch and the number of threads.
    """

    group: str
    started: str
    control_s: float
    times: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def learn(runs: Sequence[Run]) -> dict[str, Any] | None:
    """Return the facts that a record keeps about the earlier runs of its group; None without a run.

    ``control_s`` is the lower quartile of the runs' own. For each pair of runs that share configurations, the
    differences of the logarithms give two variances: half their mean square is that of a time, and half their
    variance that of a time without what is common to its run. The noise within the runs is subtracted, the
    mean over pairs is taken, and the result is pooled with the assumed noise. To the variance of a time that
    of ``control_s`` is added.
    """
    if not runs:
        return None
    control_s = float(np.quantile([run.control_s for run in runs], _QUARTILE))
    between = between_runs(runs)
    time = between.time.value + _QUICKNESS_SD**2 / len(runs)
    return {
        "runs": between.runs,
        "control_s": control_s,
        "time_sd": math.sqrt(time),
        "time_degrees": between.time.degrees,
        "own_sd": math.sqrt(between.own.value),
        "own_degrees": between.own.degrees,
    }


def between_runs(runs: Sequence[Run]) -> Between:
    """Return the noise between these runs, pooled with the assumed one; the assumed one for unlike runs."""
    time, own, shared = [], [], []
    compared: set[int] = set()
    for (i, a), (j, b) in itertools.combinations(enumerate(runs), 2):
        keys = sorted(a.times.keys() & b.times.keys())
        if len(keys) < _FEWEST_SHARED:
            continue
        differences = np.array([a.times[key][0] - b.times[key][0] for key in keys])
        within = float(np.mean([a.times[key][1] + b.times[key][1] for key in keys]))
        time.append((float(np.mean(differences**2)) - within) / 2)
        own.append((float(np.var(differences, ddof=1)) - within) / 2)
        shared.append(len(keys))
        compared |= {i, j}
    if not compared:
        return ASSUMED
    degrees = float(len(compared) - 1)
    each = min(float(np.median(shared)) - 1, _MOST_INDEPENDENT)
    return Between(
        time=_learnt(time, degrees).pooled(ASSUMED.time),
        own=_learnt(own, degrees * each).pooled(ASSUMED.own),
        runs=len(compared),
    )


def _learnt(variances: Sequence[float], degrees: float) -> Variance:
    return Variance(value=max(0.0, float(np.mean(variances))), degrees=degrees)
