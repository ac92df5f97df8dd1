"""Run torch's profiler on one call; only this file reads its raw events, which are no public API."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from torch._C._autograd import (
    _disable_profiler,
    _enable_profiler,
    _prepare_profiler,
)
from torch._C._profiler import ProfilerConfig, ProfilerState, _ExperimentalConfig, _RecordFunctionFast
from torch.profiler import ProfilerActivity

MEMORY = "[memory]"


def record(call: Callable[[], object], *, memory: bool = False, all_threads: bool = False) -> list[Any]:
    """Return the events of one ``call()``, by their start: operators and, with ``memory``, allocations.

    Operators are seen on this thread, on threads to which torch hands this thread's state (autograd's,
    ``torch.jit.fork``'s), and with ``all_threads`` on all others. Allocations are never seen on those others.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its start and stop lines on stderr are noise
    how = _ExperimentalConfig(profile_all_threads=all_threads, capture_overload_names=True)
    config = ProfilerConfig(ProfilerState.KINETO, False, memory, False, False, False, how)
    _prepare_profiler(config, {ProfilerActivity.CPU})
    _enable_profiler(config, {ProfilerActivity.CPU})
    try:
        kept = call()
    finally:
        recorded = _disable_profiler()
    del kept
    return sorted(recorded.events(), key=lambda event: (event.start_ns(), -event.end_ns()))


def mark(name: str) -> Any:
    """Return a context that appears among the events under this name."""
    return _RecordFunctionFast(name)
