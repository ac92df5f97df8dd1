"""Measure seconds per call: calibrated, after a warm-up, every sample kept."""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Sequence
from statistics import median

from effbench.common.spec import MIN_SAMPLES, WARM_UP_MIN_S
from effbench.measured.probes.control import Control

# A sample lasts at least this long, so that the clock's own cost and grain stay below a thousandth of it.
MIN_SAMPLE_S = 200e-6
# The warm-up ends once two successive windows agree this well; it lasts at least WARM_UP_MIN_S.
WARM_UP_AGREEMENT = 0.05
WARM_UP_MAX_S = 3.0
WARM_UP_WINDOWS = 4
WARM_UP_BATCHES = 10  # most readings of the clock per window
MAX_SAMPLES = 200
# Sampling ends early once the interval of this process's own median is this share of the target precision:
# more samples would not help, since the remaining variation is between processes.
OWN_SHARE = 0.25
LOOK_EVERY = 5


def waited_ns() -> int:
    """Return how long this thread has waited for a core so far, from Linux's schedstat; 0 without it."""
    global _account
    if _account is None:
        try:
            _account = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        except OSError:
            _account = -1
    return int(os.pread(_account, 64, 0).split()[1]) if _account >= 0 else 0


_account: int | None = None


def sample_seconds(
    call: Callable[[], object],
    *,
    seconds: float,
    precision: float = 0.0,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    control: Control | None = None,
) -> tuple[tuple[float, ...], dict[str, float | int | str | None]]:
    """Time ``call`` for at most about ``seconds``.

    Returns (seconds per call of each sample, how the samples were taken).

    Sampling ends before that once the 95 % interval of the median is within a quarter of ``precision`` (a
    share of the median). Each sample is the mean of ``calls_per_sample`` successive calls, the fewest that
    last 200 µs; most calls last longer, so that a sample is one call. Garbage collection is off while samples
    are taken. ``control`` is read before the first sample and after each one, and belongs to none. Takes at
    least 5 samples, 3 if a call lasts longer than ``seconds``, and at most 200. ``warmed_up`` is "yes" if the
    warm-up settled, ``trend`` is how much slower (or, negative, faster) the last third of the samples was
    than the first.
    """

    batch = batches(call, clock_ns)
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        warm_up_s, settled, estimate = warm_up(batch, seconds)
        calls = 1 if estimate >= MIN_SAMPLE_S else int(MIN_SAMPLE_S / max(estimate, 1e-9)) + 1
        least = MIN_SAMPLES if estimate <= seconds else 3
        samples: list[float] = []
        spent = 0.0
        if control is not None:
            control.warm_up(estimate * calls)
            control.read()
        while len(samples) < least or (spent < seconds and len(samples) < MAX_SAMPLES):
            samples.append(batch(calls))
            spent += samples[-1] * calls
            if control is not None:
                control.read()
            if len(samples) % LOOK_EVERY == 0 and half_width(samples) <= OWN_SHARE * precision:
                break
    finally:
        if was_enabled:
            gc.enable()
    return tuple(samples), {
        "calls_per_sample": calls,
        "warm_up_s": warm_up_s,
        "warmed_up": "yes" if settled else "no",
        "trend": trend(samples),
    }


def batches(
    call: Callable[[], object], clock_ns: Callable[[], int], finish: Callable[[], object] | None = None
) -> Callable[[int], float]:
    """Return a function that calls so many times and returns seconds per call.

    ``finish`` waits for an accelerator, and belongs to the time.
    """

    def batch(calls: int) -> float:
        start = clock_ns()
        for _ in range(calls):
            call()
        if finish is not None:
            finish()
        return (clock_ns() - start) / calls / 1e9

    return batch


def half_width(samples: Sequence[float]) -> float:
    """Return half of the median's 95 % interval, as a share of the median; infinite below 11 samples.

    The interval lies between two order statistics and assumes nothing about the samples' distribution.
    """
    n = len(samples)
    if n < 11:
        return math.inf
    ordered = sorted(samples)
    low = int(n / 2 - 0.98 * math.sqrt(n))  # 1.96 standard deviations of a binomial of n and 1/2
    return (ordered[n - 1 - low] - ordered[low]) / 2 / max(median(ordered), 1e-12)


def trend(samples: Sequence[float]) -> float:
    """Return how much slower the last third is than the first, as a share; 0 below 9 samples."""
    third = len(samples) // 3
    return median(samples[-third:]) / max(median(samples[:third]), 1e-12) - 1 if third >= 3 else 0.0


def warm_up(
    batch: Callable[[int], float], seconds: float, least_s: float | None = None
) -> tuple[float, bool, float]:
    """Call for at least ``least_s``, by default 0.1 s or less if ``seconds`` is, and until the time settles.

    ``batch(calls)`` returns seconds per call. Returns (seconds spent, True if two successive windows agreed,
    seconds per call).
    """
    least = min(WARM_UP_MIN_S, seconds) if least_s is None else least_s
    window_s = least / WARM_UP_WINDOWS
    first = batch(1)  # includes set-up; it is in no window
    spent, before = 0.0, first
    estimate = first
    while True:
        means: list[float] = []
        window_spent = 0.0
        while window_spent < window_s:
            calls = max(1, int(window_s / WARM_UP_BATCHES / max(estimate, 1e-9)))
            estimate = batch(calls)
            means.append(estimate)
            window_spent += estimate * calls
        spent += window_spent
        estimate = median(means)
        agree = abs(estimate - before) <= WARM_UP_AGREEMENT * before
        if (agree and spent >= least) or spent >= WARM_UP_MAX_S:
            return first + spent, agree, estimate
        before = estimate
