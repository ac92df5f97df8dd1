"""The roofline model: the bound on a call's speed, from its FLOPs and the bytes that it moves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def roofline(
    *,
    flops: float,
    bytes_moved: float,
    time_s: float,
    footprint_bytes: float | None,
    peak_flops_per_s: float,
    bandwidth_at_bytes: Sequence[float],
    bandwidth_bytes_per_s: Sequence[float],
) -> dict[str, Any]:
    """Return ``arithmetic_intensity`` (FLOP/B), ``flops_per_s``, ``roof_flops_per_s`` and ``roof_share``.

    The roof is the smaller of the peak and of intensity times bandwidth (Williams et al. 2009). The bandwidth
    is that of data as large as the call's footprint, since data in a cache streams faster than main memory;
    without a footprint it is the largest. FLOPs are those of matrix products, whose peak was measured. The
    result is empty for a call without FLOPs, bytes or time.
    """
    if flops <= 0 or bytes_moved <= 0 or time_s <= 0:
        return {}
    bandwidth = bandwidth_for(footprint_bytes, bandwidth_at_bytes, bandwidth_bytes_per_s)
    intensity = flops / bytes_moved
    roof = min(peak_flops_per_s, intensity * bandwidth)
    return {
        "arithmetic_intensity": intensity,
        "flops_per_s": flops / time_s,
        "roof_flops_per_s": roof,
        "roof_share": flops / time_s / roof,
    }


def bandwidth_for(
    footprint_bytes: float | None, at_bytes: Sequence[float], bytes_per_s: Sequence[float]
) -> float:
    """Return the bytes per second for data of this size, interpolated between the logarithms of two sizes.

    Outside the measured sizes it is that of the nearest one; without a size the largest of all.
    """
    if footprint_bytes is None or footprint_bytes <= 0:
        return max(bytes_per_s)
    return float(np.exp(np.interp(np.log(footprint_bytes), np.log(at_bytes), np.log(bytes_per_s))))
