"""The machine: what it is, its allocator and threads, and how busy it is."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from functools import cache
from pathlib import Path
from typing import Any

from effbench.spec import Allocator

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@cache
def name() -> str:
    """What tells this machine from another: processor, cores that this process may use, memory."""
    memory = total_memory_bytes() / 2**30
    return f"{_processor()}, {cores()} cores, {memory:.0f} GiB"


def cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def total_memory_bytes() -> int:
    """Memory that this process could have: the machine's, or its control group's if that is less; bytes."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        return min(physical, int(most))
    return physical


def facts() -> dict[str, Any]:
    """What a record keeps of the machine, as it is now. Imports torch; call it in the measured process."""
    import torch

    found: dict[str, Any] = {
        "name": name(),
        "processor": _processor(),
        "cores": cores(),
        "memory_bytes": total_memory_bytes(),
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "load_1min": os.getloadavg()[0],
        "steal_s": steal_seconds(),
        "frequency_hz": _frequency_hz(),
    }
    if torch.cuda.is_initialized():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def keep_freed_memory() -> bool:
    """Make malloc keep what is freed, so that a large tensor is not page-faulted anew at every call.

    glibc hands blocks of 32 MiB and more back to the kernel at once; the next call of the same size then
    pays for fresh zeroed pages, which can exceed the arithmetic. One arena, no mmap, no trimming. Returns
    False where the C library has no mallopt (only glibc's does this).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)


def set_allocator(allocator: Allocator) -> str:
    """Set malloc's policy for this process and say which one is in force."""
    if allocator == "system":
        return "system"
    return "kept" if keep_freed_memory() else "system (freed memory cannot be kept here)"


def steal_seconds() -> float | None:
    """Seconds that the hypervisor kept from this machine's cores since it started; None if unknown."""
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None
    fields = stat.read_text().split("\n", 1)[0].split()
    return int(fields[8]) / os.sysconf("SC_CLK_TCK") if len(fields) > 8 else None


def _frequency_hz() -> float | None:
    scaling = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if scaling.is_file():
        return float(scaling.read_text()) * 1e3
    megahertz = _cpuinfo("cpu MHz")
    return float(megahertz) * 1e6 if megahertz else None


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == field:
                return " ".join(value.split())
    return ""
