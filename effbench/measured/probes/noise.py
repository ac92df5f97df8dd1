"""Measure this machine's noise: one fixed workload, timed as if it were two."""

from __future__ import annotations

import gc
import itertools
import random
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from effbench.common.spec import Cell
from effbench.measured.gpu import CudaDevice, Device
from effbench.measured.probes.context import Context, Result, Samples, Values
from effbench.measured.probes.cuda_time import WARM_UP_CUDA_S, between_events
from effbench.measured.probes.time import batches, sample_seconds, warm_up
from effbench.measured.workload import Call, device_of

WIDTH, HEADS = 256, 8
_CLOCK_READS = 2000


def noise(context: Context) -> Result:
    """Time one workload under two names, A and B, one call at a time, in random order, for ``cell.seconds``.

    The workload has the operations of an attention layer, on ``cell.seq_len`` tokens of width 256: a linear
    map, a product of the results, a softmax and a batched product. Samples are ``time_a_s`` and ``time_b_s``,
    one call each; values are ``clock_grain_s`` and ``clock_cost_s`` of the clock of the processor, from which
    times on the CPU are read. On a card the calls are timed as those of a time cell are, and the values tell
    its state too (``on_card``).
    """
    cell, device = context.cell, device_of(context.cell.device)
    torch.manual_seed(0)
    work = partial(_workload, cell.seq_len, device)
    measured = on_card(work, CudaDevice(device), cell) if device.type == "cuda" else _on_cpu(work(), cell)
    grain_s, cost_s = _clock()
    return measured[0], {**measured[1], "clock_grain_s": grain_s, "clock_cost_s": cost_s}


def on_card(
    make: Callable[[], Call],
    card: Device,
    cell: Cell,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Result:
    """Time the workload that ``make`` returns on a card, A and B in random order for ``cell.seconds``.

    The values are what ``Device.status`` tells before the workload is made, and clock and throttling after
    the last call.
    """
    values: Values = {**card.status()}
    call = make()
    batch = batches(call, clock_ns, card.synchronize)
    _, settled, _ = warm_up(batch, cell.seconds, least_s=WARM_UP_CUDA_S)
    samples = _taken(lambda: between_events(call, card, 1)[0], cell)
    hertz, why = card.clock()
    values |= {"sm_clock_hz": hertz, "warmed_up": "yes" if settled else "no"}
    return samples, values | ({"throttle_reasons": ", ".join(why)} if why else {})


def _on_cpu(call: Call, cell: Cell) -> Result:
    _, how = sample_seconds(call, seconds=min(0.05, cell.seconds))  # the warm-up is the same as a time cell's

    def once() -> float:
        start = time.perf_counter_ns()
        call()
        return (time.perf_counter_ns() - start) / 1e9

    return _taken(once, cell), {"warmed_up": how["warmed_up"]}


def _taken(once: Callable[[], float], cell: Cell) -> Samples:
    """Return the samples of A and B; ``once()`` makes a call and returns its seconds."""
    rng = random.Random(cell.repeat)
    times: dict[str, list[float]] = {"a": [], "b": []}
    began = time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        while len(times["a"]) < 5 or time.perf_counter() - began < cell.seconds:
            for name in rng.sample(["a", "b"], 2):
                times[name].append(once())
    finally:
        gc.enable()
    return {f"time_{name}_s": tuple(series) for name, series in times.items()}


def _workload(n: int, device: torch.device) -> Call:
    x = torch.randn(n, WIDTH, device=device)
    weight = torch.randn(WIDTH, WIDTH, device=device) / WIDTH**0.5

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
