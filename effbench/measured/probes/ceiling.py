"""Measure this machine's ceiling: FLOP/s of matrix products, and bytes per second at several sizes."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch

from effbench.measured.probes.context import Context, Result

PRODUCT_SIZES = (1024, 1536, 2048)
CUDA_PRODUCT_SIZES = (4096, 8192)  # a card's many units are busy in large products only
# Total size of an addition's three operands: from the size of a core's cache to main memory.
BANDWIDTH_BYTES = (2**19, 2**21, 2**23, 2**25, 2**27, 2**28)
_ENOUGH_S = 0.01
_CALLS = 2
_ROUNDS = 4


def ceiling(context: Context) -> Result:
    """Measure peak and bandwidth in the cell's dtype, on its device, with the threads in force.

    ``peak_flops_per_s``: the best of square products of several sizes. ``bandwidth_bytes_per_s``: of
    c = a + b into kept memory, bytes read and written over the best time, for each total of
    ``bandwidth_at_bytes``; the last is main memory's. Both use the best of several calls, not the median,
    because this is a ceiling.
    """
    cell = context.cell
    dtype, device = getattr(torch, cell.dtype), torch.device(cell.device)
    synchronize = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    torch.manual_seed(0)
    calls: list[Callable[[], object]] = []
    sizes = CUDA_PRODUCT_SIZES if device.type == "cuda" else PRODUCT_SIZES
    for n in sizes:
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        calls.append(partial(torch.mm, a, b, out=torch.empty_like(a)))
    counts = [total // 3 // dtype.itemsize for total in BANDWIDTH_BYTES]
    for count in counts:
        a, b, c = (torch.zeros(count, device=device, dtype=dtype) for _ in range(3))
        calls.append(partial(torch.add, a, b, out=c))
    # in rounds, so that an interruption does not affect all calls of one size
    rounds = [[_best_s(call, synchronize) for call in calls] for _ in range(_ROUNDS)]
    best = [min(seconds) for seconds in zip(*rounds, strict=True)]
    products, additions = best[: len(sizes)], best[len(sizes) :]
    samples = {
        "bandwidth_at_bytes": tuple(float(total) for total in BANDWIDTH_BYTES),
        "bandwidth_bytes_per_s": tuple(
            3 * count * dtype.itemsize / seconds for count, seconds in zip(counts, additions, strict=True)
        ),
    }
    peak = max(2 * n**3 / seconds for n, seconds in zip(sizes, products, strict=True))
    return samples, {"peak_flops_per_s": peak}


def _best_s(call: Callable[[], object], synchronize: Callable[[], object]) -> float:
    """Return the seconds of the fastest call, of at least two and as many as fit into 10 ms."""
    call()
    synchronize()
    best, spent, calls = float("inf"), 0.0, 0
    while calls < _CALLS or spent < _ENOUGH_S:
        start = time.perf_counter()
        call()
        synchronize()
        took = time.perf_counter() - start
        best, spent, calls = min(best, took), spent + took, calls + 1
    return best
