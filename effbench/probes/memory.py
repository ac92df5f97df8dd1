"""The memory of a call: its peak, what it keeps for backward, what the operating system saw."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
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


def saved_bytes(forward: Callable[[], object], besides: Iterable[Tensor] = ()) -> int:
    """Bytes that autograd keeps for the backward pass of one ``forward()``, each storage once and whole.

    ``besides`` exist anyway, the parameters and the input, and do not count. What a custom function keeps
    by other means than ``save_for_backward`` is not seen.
    """
    there = {storage_of(t) for t in besides}
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        if storage_of(t) not in there:
            kept[storage_of(t)] = t.untyped_storage().nbytes()
        return t

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        out = forward()  # the graph holds what is kept, so that no storage's place is used twice
    del out
    return sum(kept.values())


def parameter_bytes(module: nn.Module) -> int:
    """Bytes of the module's parameters, those that share a storage once."""
    return sum({storage_of(p): p.untyped_storage().nbytes() for p in module.parameters()}.values())


def rss_growth_bytes(call: Callable[[], object]) -> int | None:
    """How much the process's resident memory rose above its start during ``call()``; None where it
    cannot be seen, as outside Linux.

    What the operating system saw: also memory that C code takes without torch's allocator, and what a first
    call sets up; but nothing where freed pages of the heap serve again. Pages, so good to 0.1 MiB at best.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    except OSError:
        call()  # who asks for the first call's growth still gets its first call
        return None
    before = _status_bytes("VmRSS")
    kept = call()
    highest = _status_bytes("VmHWM")
    del kept
    return max(0, highest - before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def storage_of(t: Tensor) -> int:
    """What tells a tensor's storage from another: views share it."""
    return int(t.untyped_storage()._cdata)


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
