"""Time calls on a CUDA device: events per call, cold L2 cache, clock and throttling beside each sample."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from statistics import median

from effbench.common.spec import MIN_SAMPLES
from effbench.measured.gpu import Device
from effbench.measured.probes.time import (
    LOOK_EVERY,
    MAX_SAMPLES,
    OWN_SHARE,
    batches,
    half_width,
    trend,
    warm_up,
)

WARM_UP_CUDA_S = 0.5  # a shorter warm-up finds a card that has not raised its clock yet
# Calls that are shorter than this are replayed as a CUDA graph: queueing their kernels takes longer.
SHORT_S = 50e-6
_IN_A_GRAPH = 10

Take = Callable[[Callable[[], object], Device, int], list[float]]
Values = dict[str, float | int | str | None]


def cuda_seconds(
    call: Callable[[], object],
    device: Device,
    *,
    seconds: float,
    precision: float,
    clock_ns: Callable[[], int],
) -> tuple[dict[str, tuple[float, ...]], Values]:
    """Time ``call`` for at most about ``seconds`` of the device's time.

    Returns (``time_s``, seconds per call of each sample, with ``sm_clock_hz`` and ``throttled``, 0 or 1,
    beside each, if the clock is known; how the samples were taken). Before each call the L2 cache is written
    over, outside of the measured time. A sample is the time between two CUDA events around one call. A call
    of less than 50 µs is captured as a CUDA graph of ten flushes and calls, if it can be; a sample is then
    the graph's time less that of ten flushes, over ten. Clock and throttling are read
    after every five samples, when the device has done its work.
    """
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        batch = batches(call, clock_ns, device.synchronize)
        spent_s, settled, estimate = warm_up(batch, seconds, least_s=WARM_UP_CUDA_S)
        probe = min(between_events(call, device, LOOK_EVERY))
        how: Values = {"timed_by": "CUDA events", "calls_per_sample": 1}
        take: Take = between_events
        if probe < SHORT_S:
            try:
                take = _by_graphs(call, device)
                how = {"timed_by": "CUDA graphs", "calls_per_sample": _IN_A_GRAPH}
            except RuntimeError as error:
                how["timed_by"] = f"CUDA events; no CUDA graph: {str(error).splitlines()[0][:120]}"
        samples: list[float] = []
        clocks: list[float | None] = []
        throttled: list[float] = []
        reasons: dict[str, None] = {}
        least = MIN_SAMPLES if max(estimate, probe) <= seconds else 3
        while len(samples) < least or (sum(samples) < seconds and len(samples) < MAX_SAMPLES):
            new = take(call, device, min(LOOK_EVERY, least))
            hertz, why = device.clock()
            samples += new
            clocks += [hertz] * len(new)
            throttled += [float(bool(why))] * len(new)
            reasons |= dict.fromkeys(why)
            if half_width(samples) <= OWN_SHARE * precision:
                break
    finally:
        if was_enabled:
            gc.enable()
    series: dict[str, Sequence[float]] = {"time_s": samples}
    known = [hertz for hertz in clocks if hertz is not None]
    if len(known) == len(samples):
        series |= {"sm_clock_hz": known, "throttled": throttled}
        how |= {"sm_clock_hz": median(known), "throttled_share": sum(throttled) / len(throttled)}
        how |= {"throttle_reasons": ", ".join(reasons)} if reasons else {}
    return {name: tuple(values) for name, values in series.items()}, {
        **how,
        "warm_up_s": spent_s,
        "warmed_up": "yes" if settled else "no",
        "trend": trend(samples),
    }


def between_events(call: Callable[[], object], device: Device, count: int) -> list[float]:
    """Queue ``count`` calls, each after a flush and between two events, and return their seconds."""
    pairs = [(device.event(), device.event()) for _ in range(count)]
    for start, end in pairs:
        device.flush()
        start.record()
        call()
        end.record()
    device.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in pairs]


def block_seconds(call: Callable[[], object], device: Device, calls: int) -> float:
    """Return seconds per call of a block of successive calls between two events; no cache is written over."""
    start, end = device.event(), device.event()
    start.record()
    for _ in range(calls):
        call()
    end.record()
    device.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def _by_graphs(call: Callable[[], object], device: Device) -> Take:
    """Capture flushes with and without calls; return what takes samples by replaying one after the other."""

    def cold() -> None:
        for _ in range(_IN_A_GRAPH):
            device.flush()
            call()

    def flushes() -> None:
        for _ in range(_IN_A_GRAPH):
            device.flush()

    both, alone = device.graph(cold), device.graph(flushes)

    def take(_: Callable[[], object], device: Device, count: int) -> list[float]:
        moments = [[device.event() for _ in range(3)] for _ in range(count)]
        for first, second, third in moments:
            first.record()
            alone()
            second.record()
            both()
            third.record()
        device.synchronize()
        return [
            max(0.0, second.elapsed_time(third) - first.elapsed_time(second)) / 1e3 / _IN_A_GRAPH
            for first, second, third in moments
        ]

    return take
