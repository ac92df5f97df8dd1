"""Measure this machine's noise: one fixed workload, timed as if it were two."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Callable

import torch
from torch import Tensor

from effbench.measured.probes.context import Context, Result, Values
from effbench.measured.probes.time import sample_seconds

WIDTH, HEADS = 256, 8
_CLOCK_READS = 2000


def noise(context: Context) -> Result:
    """Time one workload under two names, A and B, one call at a time, in random order, for ``cell.seconds``.

    The workload has the operations of an attention layer, on ``cell.seq_len`` tokens of width 256: a linear
    map, a product of the results, a softmax and a batched product. Samples are ``time_a_s`` and ``time_b_s``,
    one call each; values are ``clock_grain_s`` and ``clock_cost_s`` of the clock that they are read from.
    """
    cell = context.cell
    torch.manual_seed(0)
    call = _workload(cell.seq_len)
    _, how = sample_seconds(call, seconds=min(0.05, cell.seconds))  # the warm-up is the same as a time cell's
    rng = random.Random(cell.repeat)
    times: dict[str, list[float]] = {"a": [], "b": []}
    began = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while len(times["a"]) < 5 or time.perf_counter() - began < cell.seconds:
            for name in rng.sample(["a", "b"], 2):
                start = time.perf_counter_ns()
                call()
                times[name].append((time.perf_counter_ns() - start) / 1e9)
    finally:
        gc.enable()
    grain_s, cost_s = _clock()
    values: Values = {"clock_grain_s": grain_s, "clock_cost_s": cost_s, "warmed_up": how["warmed_up"]}
    return {f"time_{name}_s": tuple(series) for name, series in times.items()}, values


def _workload(n: int) -> Callable[[], Tensor]:
    x = torch.randn(n, WIDTH)
    weight = torch.randn(WIDTH, WIDTH) / WIDTH**0.5

    def call() -> Tensor:
        with torch.inference_mode():
            y_hnd = (x @ weight).view(n, HEADS, -1).transpose(0, 1)
            shares_hnd = (y_hnd * y_hnd).softmax(-1)
            pooled: Tensor = y_hnd.mT @ shares_hnd
            return pooled

    return call


def _clock() -> tuple[float, float]:
    """Return (the smallest step of the clock, the time to read it), in seconds."""
    reads = [time.perf_counter_ns() for _ in range(_CLOCK_READS)]
    steps = [b - a for a, b in itertools.pairwise(reads)]
    return min(step for step in steps if step > 0) / 1e9, (reads[-1] - reads[0]) / (_CLOCK_READS - 1) / 1e9
