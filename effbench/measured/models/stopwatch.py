"""The median time of a few calls of a trained model."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch

from effbench.measured.decoding import finish

_AT_LEAST, _SECONDS = 3, 0.3  # calls, and seconds of calls, behind a median


def median_s(
    call: Callable[..., object], device: torch.device, before: Callable[[], object] | None = None
) -> float:
    """Return the median time of a call in seconds, after one call that is not timed.

    ``before`` makes the argument of each call anew; its time is not counted.
    """
    times: list[float] = []
    warm = False
    while len(times) < _AT_LEAST or sum(times) < _SECONDS:
        given = () if before is None else (before(),)
        finish(device)
        began = time.perf_counter()
        call(*given)
        finish(device)
        if warm:
            times.append(time.perf_counter() - began)
        warm = True
    return statistics.median(times)
