"""Seconds per call: calibrated, warmed up, every sample kept."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median

# A sample lasts at least this long, so that the clock's own cost and grain stay below a thousandth of it.
MIN_SAMPLE_S = 200e-6
# Warm-up goes on until two successive windows agree this well, at least and at most so long.
WARM_UP_AGREEMENT = 0.05
WARM_UP_MIN_S = 0.1
WARM_UP_MAX_S = 3.0
WARM_UP_WINDOWS = 4
WARM_UP_BATCHES = 10  # at most so many looks at the clock a window
MIN_SAMPLES = 5
MAX_SAMPLES = 200


def sample_seconds(
    call: Callable[[], object],
    *,
    seconds: float,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
    synchronize: Callable[[], object] | None = None,
) -> tuple[tuple[float, ...], dict[str, float | int | str | None]]:
    """Time ``call`` for about ``seconds``: (seconds per call of each sample, how they were taken).

    Each sample is the mean of ``calls_per_sample`` successive calls, the fewest that last 200 µs; most calls
    last longer, so that a sample is one call. Garbage collection is off while samples are taken.
    ``synchronize`` waits for an accelerator and belongs to the sample. Takes at least 5 samples, 3 if a call
    lasts longer than ``seconds``, and at most 200; ``warmed_up`` says whether the warm-up settled.
    """

    def batch(calls: int) -> float:
        start = clock_ns()
        for _ in range(calls):
            call()
        if synchronize is not None:
            synchronize()
        return (clock_ns() - start) / calls / 1e9

    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        warm_up_s, settled, estimate = _warm_up(batch, seconds)
        calls = 1 if estimate >= MIN_SAMPLE_S else int(MIN_SAMPLE_S / max(estimate, 1e-9)) + 1
        least = MIN_SAMPLES if estimate <= seconds else 3
        samples: list[float] = []
        spent = 0.0
        while len(samples) < least or (spent < seconds and len(samples) < MAX_SAMPLES):
            samples.append(batch(calls))
            spent += samples[-1] * calls
    finally:
        if was_enabled:
            gc.enable()
    return tuple(samples), {
        "calls_per_sample": calls,
        "warm_up_s": warm_up_s,
        "warmed_up": "yes" if settled else "no",
    }


def _warm_up(batch: Callable[[int], float], seconds: float) -> tuple[float, bool, float]:
    """(seconds spent, whether two successive windows agreed, seconds a call)."""
    least = min(WARM_UP_MIN_S, seconds)
    window_s = least / WARM_UP_WINDOWS
    first = batch(1)  # pays for set-up; it is in no window
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
