"""Measure the memory of a call: its peak, what it saves for backward, and resident memory."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from effbench.measured.probes import profiler
from effbench.measured.probes.elsewhere import Elsewhere
from effbench.measured.probes.failure import ProbeFailed, observed
from effbench.measured.probes.tensors import storages
from effbench.measured.probes.witness import operators_on_other_threads

EVENTS = "allocator events"
CUDA_STATISTICS = "CUDA allocator statistics"


def peak_bytes(call: Callable[[], object], device: str = "cpu", *, tested: bool = False) -> tuple[int, str]:
    """Return the peak bytes that ``call()`` holds above what existed before it, and the method's name.

    Inputs and parameters existed before and do not count; the output does. On the CPU the profiler reports
    every allocation and release by size, so that the maximum of the running sum is exact to the byte for all
    memory from torch's allocator, scratch space of kernels included; memory that C code takes elsewhere is
    not seen. Never call this while timing: the events cost time. The profiler is tested on a
    known allocation once per process, unless ``tested`` says that it has passed elsewhere.

    Raises ProbeFailed if this torch's profiler does not report a known allocation exactly, or if the call
    fails under the profiler alone.
    """
    if torch.device(device).type == "cuda":
        peak = _cuda_growth(call, torch.cuda.memory_allocated, torch.cuda.max_memory_allocated)
        return peak, CUDA_STATISTICS
    if not tested:
        self_test()
    return observed("peak_bytes", lambda: _running_peak(call), call), EVENTS


def saved_bytes(forward: Callable[[], object], besides: Iterable[Tensor] = ()) -> int:
    """Return the bytes that autograd saves for the backward pass of one ``forward()``, each storage once.

    ``besides`` are the tensors that exist anyway, the parameters and the input; they do not count. What a
    custom function keeps by other means than ``save_for_backward`` is not seen.

    Raises ProbeFailed if torch hides the size of a saved tensor, or if the pass fails under the hooks alone,
    as one through torch.func's derivatives does.
    """
    there = {storage for t in besides for storage in storages(t)}
    kept: dict[int, int] = {}
    opaque: set[str] = set()

    def pack(t: Tensor) -> Tensor:
        sizes = storages(t)
        kept.update({storage: size for storage, size in sizes.items() if storage not in there})
        if not sizes:
            opaque.add(str(t.layout))
        return t

    def run() -> None:
        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            out = forward()  # the graph holds what is saved, so that no address is used twice
        del out

    observed("saved_bytes", run, forward)
    if opaque:
        layouts = ", ".join(sorted(opaque))
        raise ProbeFailed(f"saved_bytes cannot be measured: torch hides the size of layout {layouts}")
    return sum(kept.values())


def left_out(call: Callable[[], object]) -> Counter[str]:
    """Name the work of one ``call()`` that ``peak_bytes`` and ``saved_bytes`` cannot see, with its calls.

    It is that of operators on threads that Python code started, of child processes and of other libraries.
    Work on the threads of autograd and of ``torch.jit.fork`` is seen.
    """
    elsewhere = Elsewhere()

    def watched() -> object:
        with elsewhere:
            return call()

    events = observed("memory_left_out", lambda: profiler.record(watched, all_threads=True), call)
    return operators_on_other_threads(events) + elsewhere.work


def parameter_bytes(module: nn.Module) -> int:
    """Return the bytes of the module's parameters; a shared storage counts once."""
    return sum(dict(pair for p in module.parameters() for pair in storages(p).items()).values())


def rss_growth_bytes(call: Callable[[], object]) -> int | None:
    """Return the rise of the process's resident memory during ``call()``, in bytes; None if not visible.

    It includes memory that C code takes without torch's allocator, and the set-up of a first call; it does
    not include freed pages of the heap that are used again. It counts pages: accurate to 0.1 MiB at best. It
    is visible on Linux only.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    except OSError:
        call()  # the caller relies on this being the first call
        return None
    before = _status_bytes("VmRSS")
    kept = call()
    highest = _status_bytes("VmHWM")
    del kept
    return max(0, highest - before)


def _status_bytes(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def _running_peak(call: Callable[[], object]) -> int:
    gc.collect()
    held = peak = 0
    for event in profiler.record(call, memory=True):
        if event.name() == profiler.MEMORY:
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@cache
def self_test() -> None:
    """Compare the peak of a known allocation with what the profiler reports; once per process.

    It starts the profiler, a second of set-up that forked processes inherit. Raises ProbeFailed if the two
    differ.
    """
    size = 3 * 4096

    def known() -> torch.Tensor:
        first = torch.empty(size, dtype=torch.uint8)
        second = torch.empty(2 * size, dtype=torch.uint8)
        del first
        return second

    seen = _running_peak(known)
    if seen != 3 * size:
        raise ProbeFailed(
            f"peak_bytes cannot be measured: torch {torch.__version__}'s profiler reports {seen} bytes for a "
            f"peak of {3 * size}"
        )


def reserved_bytes(call: Callable[[], object]) -> int:
    """Return the bytes by which torch's CUDA allocator grows in ``call()``, from a state without free blocks.

    It is more than the peak of what is allocated, since the allocator takes memory in larger pieces.
    """
    gc.collect()
    torch.cuda.empty_cache()
    return _cuda_growth(call, torch.cuda.memory_reserved, torch.cuda.max_memory_reserved)


def _cuda_growth(call: Callable[[], object], now: Callable[[], int], most: Callable[[], int]) -> int:
    """Return by how much a statistic of the CUDA allocator rises at most during ``call()``."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = now()
    kept = call()
    torch.cuda.synchronize()
    grown = most() - before
    del kept
    return int(grown)
