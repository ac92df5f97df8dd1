"""The most memory a call holds at once, from the allocator's own events."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

EVENTS = "allocator events"
CUDA_STATISTICS = "CUDA allocator statistics"


def peak_bytes(call: Callable[[], object], device: str = "cpu") -> tuple[int, str]:
    """Peak bytes that ``call()`` holds above what existed before it, and the method's name.

    Inputs and parameters existed before and do not count; the output does. On the CPU the profiler
    reports every allocation and release by size, so the running sum's maximum is exact to the byte for
    all that goes through torch's allocator, scratch space of kernels included; memory that C code takes
    elsewhere is not seen. Never call this while timing: the events cost time.

    Raises RuntimeError if this torch's profiler does not report a known allocation exactly.
    """
    if torch.device(device).type == "cuda":
        return _cuda_peak(call), CUDA_STATISTICS
    _self_test()
    return _running_peak(call), EVENTS


def prime() -> None:
    """Start the profiler once and test it: a second of set-up that forked processes then inherit."""
    _self_test()


def _profiler() -> Any:
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and stop lines on stderr are noise
    return profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True)


def _running_peak(call: Callable[[], object]) -> int:
    gc.collect()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the profiler announces its own deprecations
        with _profiler() as profiled:
            kept = call()
    # The only place that reads the profiler's raw events: their accessor is not public.
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    del kept
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


@cache
def _self_test() -> None:
    size = 3 * 4096

    def known() -> torch.Tensor:
        first = torch.empty(size, dtype=torch.uint8)
        second = torch.empty(2 * size, dtype=torch.uint8)
        del first
        return second

    seen = _running_peak(known)
    if seen != 3 * size:
        raise RuntimeError(
            f"torch {torch.__version__}'s profiler reports {seen} bytes for a peak of {3 * size}: "
            "peak memory cannot be measured with it"
        )


def _cuda_peak(call: Callable[[], object]) -> int:
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    kept = call()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    del kept
    return int(peak)
