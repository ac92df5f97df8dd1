"""The noise of a machine, estimated from A/A runs, and the smallest difference that it lets through."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effbench.records.analyse.statistics import student_t

BUDGETS_S = (1.0, 10.0, 60.0)
OVERHEAD_S = 0.15  # per process of a sweep on the CPU: its start and its warm-up
_SAMPLING_S = 0.1  # assumed per process of a sweep
_POWER_Z = 0.8416  # quantile of a standard normal: 80 % of the differences of that size are detected


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The result of A/A runs of one workload at one scale, with all threads or with one.

    ``call_s``: median seconds per call. Standard deviations of logarithms: ``within``, of one call inside a
    process; ``between``, of a process's median, beyond what its calls explain; ``pair``, of the ratio of two
    neighbouring calls; ``aside``, of a process's ratio of A to B, beyond what its pairs explain, which more
    pairs do not reduce. ``pairs_per_s``: the rate of pairs. ``tail``: the slowest hundredth (below 300 calls
    the slowest call) over the median. ``apart``: the largest difference of A and B inside a process, as a
    share. ``overhead_s``: seconds that a process of a sweep takes beside its samples.
    """

    seq_len: int
    threads: int
    call_s: float
    within: float
    between: float
    pair: float
    aside: float
    pairs_per_s: float
    tail: float
    apart: float
    overhead_s: float = OVERHEAD_S


def noise_of(
    seq_len: int,
    threads: int,
    processes: Sequence[Mapping[str, Sequence[float]]],
    overhead_s: float = OVERHEAD_S,
) -> Noise:
    """Estimate variance components from A/A samples (``time_a_s``, ``time_b_s``) of several processes."""
    logs = [np.log([process["time_a_s"], process["time_b_s"]]) for process in processes]  # [2, calls] each
    # the median absolute deviation is robust against a few interrupted calls
    within = float(np.median([_spread(values) for values in logs]))
    medians = np.array([float(np.median(values)) for values in logs])
    calls = float(np.median([values.size for values in logs]))
    explained = (1.2533 * within) ** 2 / calls  # variance of a median of so many calls
    between = max(0.0, float(np.var(medians, ddof=1)) - explained) ** 0.5
    whole = np.concatenate([values.ravel() for values in logs])
    pair = float(np.median([_spread(values[0] - values[1]) for values in logs]))
    differences = np.array([float(np.median(values[0]) - np.median(values[1])) for values in logs])
    expected = 2 * (1.2533 * within) ** 2 / (calls / 2)  # variance of a difference of two such medians
    busy_s = sum(sum(process["time_a_s"]) + sum(process["time_b_s"]) for process in processes)
    slowest = np.quantile(whole, 0.99) if whole.size >= 300 else whole.max()
    return Noise(
        seq_len=seq_len,
        threads=threads,
        call_s=float(np.exp(np.median(whole))),
        within=within,
        between=between,
        pair=pair,
        aside=max(0.0, float(np.mean(differences**2)) - expected) ** 0.5,
        pairs_per_s=whole.size / 2 / busy_s,
        tail=float(np.exp(slowest - np.median(whole))),
        apart=float(np.max(np.abs(np.expm1(differences)))),
        overhead_s=overhead_s,
    )


def smallest_in_sweep(noise: Noise, budget_s: float) -> float:
    """Return the smallest difference of two mechanisms that a sweep of ``budget_s`` detects, as a share.

    Each repeat is a fresh process for both: k = budget / (2 (overhead + 0.1 s, or five calls)). The logarithm
    of a ratio of medians then has the variance s^2 = 2 (between^2 + 1.57 within^2 / calls) / k, and a
    difference of (t_{k-1} + z) s is detected at 95 % confidence with 80 % power. Infinite below two repeats.
    """
    sampling_s = max(_SAMPLING_S, 5 * noise.call_s)
    k = int(budget_s / (2 * (noise.overhead_s + sampling_s)))
    if k < 2:
        return math.inf
    variance = noise.between**2 + (1.2533 * noise.within) ** 2 * noise.call_s / sampling_s
    return math.expm1((student_t(0.95, k - 1) + _POWER_Z) * math.sqrt(2 * variance / k))


def smallest_in_pairs(noise: Noise, budget_s: float) -> float:
    """Return the same for A and B called alternately in one process, as a gate does.

    With k = budget times the pairs per second reached here, the logarithm of the pairs' median has the
    variance 1.57 pair^2 / k + aside^2. Infinite below two pairs.
    """
    k = int(budget_s * noise.pairs_per_s)
    if k < 2:
        return math.inf
    variance = (1.2533 * noise.pair) ** 2 / k + noise.aside**2
    return math.expm1((student_t(0.95, k - 1) + _POWER_Z) * math.sqrt(variance))


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation of a normal distribution with this median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
