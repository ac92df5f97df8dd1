"""The machine: its name, allocator, cores, clocks and load. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from effbench.common.spec import Allocator

# glibc's mallopt parameters (malloc.h)
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8


@cache
def name() -> str:
    """Return the machine's identity: processor, cores that this process may use, memory."""
    memory = total_memory_bytes() / 2**30
    return f"{processor()}, {cores()} cores, {memory:.0f} GiB"


def cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


# Other load disturbs a measurement if it uses at least so many cores and if so large a share of all cores is
# in use: a thread that waits for a core delays all threads that wait for it. The same is seen directly if
# the threads waited for a core for so large a share of the time.
BUSY_CORES, BUSY_SHARE, WAITED_SHARE = 0.5, 0.75, 0.2
# Environment variables that tell the threads of an operation how to wait for each other.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def crowded(
    others_cores: float | None, threads: int, machine_cores: float | None, waited_share: float | None = None
) -> bool:
    """True if other load competed for cores with an operation of ``threads`` threads on this machine."""
    if waited_share is not None and waited_share > WAITED_SHARE:
        return True
    if others_cores is None or machine_cores is None or not others_cores >= BUSY_CORES:
        return False
    return bool(threads + others_cores > BUSY_SHARE * machine_cores)


def free_threads(others_cores: float) -> int:
    """Return how many threads find a core each beside the load of other processes, at least 1."""
    return max(1, int(cores() - others_cores + 0.25))


def thread_waiting() -> str:
    """Return how threads wait for each other: the environment variables that say so, or ``default``."""
    return ", ".join(f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ) or "default"


def cache_dir() -> Path:
    """Return ``$XDG_CACHE_HOME/effbench``, or ``~/.cache/effbench``; it may be deleted at any time."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "effbench"
    except RuntimeError:  # a user without a home folder, as in some containers: nothing is kept
        return Path(os.devnull) / "effbench"


def total_memory_bytes() -> int:
    """Return the memory available to this process in bytes: the machine's, or its control group's limit."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (most := limit.read_text().strip()) != "max":
        return min(physical, int(most))
    return physical


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory, so that a large tensor does not cause page faults in every call.

    glibc returns blocks of 32 MiB and more to the kernel at once; the next call of the same size then waits
    for fresh zeroed pages, which can take longer than the arithmetic. This sets one arena, no mmap and no
    trimming. Returns False if the C library has no mallopt (only glibc's has).
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    wanted = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_ARENA_MAX, 1))
    return all(mallopt(parameter, value) == 1 for parameter, value in wanted)


def set_allocator(allocator: Allocator) -> str:
    """Set malloc's policy for this process and return the one in force, in words."""
    if allocator == "system":
        return "system"
    return "kept" if keep_freed_memory() else "system (freed memory cannot be kept here)"


def cpu_quota_cores() -> float | None:
    """Return the control group's limit of processor time in cores; None without a limit or if not visible."""
    limit = Path("/sys/fs/cgroup/cpu.max")
    if not limit.is_file():
        return None
    most, _, period = limit.read_text().partition(" ")
    return None if most == "max" else int(most) / int(period)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """The machine's clocks at one moment, for a comparison with a later moment.

    ``own_s`` is the processor time of this process and of those that it started, such as a compiler.
    ``busy_s`` and ``steal_s`` are seconds, summed over all cores since the machine started, in which cores
    were busy and in which the hypervisor withheld them; None where that is not visible.
    """

    wall_s: float
    own_s: float
    busy_s: float | None
    steal_s: float | None
    frequency_hz: float | None

    @classmethod
    def now(cls) -> Moment:
        """Read the clocks."""
        busy_s, steal_s = _stat(Path("/proc/stat"))
        return cls(
            wall_s=time.perf_counter(),
            own_s=time.process_time() + _descendants_s(),
            busy_s=busy_s,
            steal_s=steal_s,
            frequency_hz=frequency_hz(),
        )

    def since(self) -> dict[str, float | None]:
        """Return ``steal_s``, ``others_cores``, ``frequency_change`` since then, and ``frequency_hz`` now."""
        end = Moment.now()
        others = steal = change = None
        if self.busy_s is not None and end.busy_s is not None:
            busy = (end.busy_s - self.busy_s) - (end.own_s - self.own_s)
            others = round(max(0.0, busy) / max(end.wall_s - self.wall_s, 1e-3), 2)
        if self.steal_s is not None and end.steal_s is not None:
            steal = round(end.steal_s - self.steal_s, 3)
        if self.frequency_hz and end.frequency_hz:
            change = round(end.frequency_hz / self.frequency_hz - 1, 4)
        return {
            "steal_s": steal,
            "others_cores": others,
            "frequency_hz": end.frequency_hz,
            "frequency_change": change,
        }


def _descendants_s() -> float:
    """Return the processor time of the processes that this one started, in s; of ended ones if waited for."""
    try:
        import resource
    except ImportError:  # not a Unix
        return 0.0
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    ticks, parents = 0, [os.getpid()]
    while parents:
        for path in Path(f"/proc/{parents.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # a thread or a process that has just ended
                children = [int(number) for number in path.read_text().split()]
                parents += children
                for child in children:
                    # utime, stime, and those of its own ended children
                    fields = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11:15]
                    ticks += sum(map(int, fields))
    return ended.ru_utime + ended.ru_stime + ticks / os.sysconf("SC_CLK_TCK")


def _stat(path: Path) -> tuple[float | None, float | None]:
    """Return (busy, stolen) seconds of all cores since the start, from /proc/stat; None if there is none."""
    if not path.is_file():
        return None, None
    fields = [int(field) for field in path.read_text().split("\n", 1)[0].split()[1:]]
    if len(fields) < 8:
        return None, None
    user, nice, system, _, _, irq, softirq, steal = fields[:8]
    tick = float(os.sysconf("SC_CLK_TCK"))
    return (user + nice + system + irq + softirq) / tick, steal / tick


def waited_s() -> float | None:
    """Return how long this process's threads have waited for a core so far, in s; None if it is not visible.

    It is the sum over the threads that are alive, from Linux's schedstat.
    """
    total, visible = 0, False
    for thread in Path("/proc/self/task").glob("*"):
        with contextlib.suppress(OSError):  # a thread that has just ended, or a kernel without schedstat
            total += int((thread / "schedstat").read_text().split()[1])
            visible = True
    return total / 1e9 if visible else None


def affinity() -> tuple[int, ...] | None:
    """Return the numbers of the cores that this process may run on; None where that is not visible."""
    return tuple(sorted(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else None


def load_1min() -> float:
    """Return the load average over the last minute."""
    return os.getloadavg()[0]


def frequency_hz() -> float | None:
    """Return the first core's clock in Hz; None where the system does not show it."""
    scaling = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
    if scaling.is_file():
        return float(scaling.read_text()) * 1e3
    megahertz = _cpuinfo("cpu MHz")
    return float(megahertz) * 1e6 if megahertz else None


def processor() -> str:
    """Return the processor's name, as the system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(field: str) -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == field:
                return " ".join(value.split())
    return ""
