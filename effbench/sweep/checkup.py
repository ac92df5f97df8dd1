"""Look at this machine and run the fixed workload on it: what ``effbench doctor`` then judges."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from effbench.common import machine
from effbench.common.spec import MACHINE, Cell, Job, Limits, Record
from effbench.records.analyse.uncertainty import ASSUMED, Between
from effbench.sweep.executor import Executor, refuse_missing
from effbench.sweep.machine_history import History
from effbench.sweep.noise_estimate import OVERHEAD_S, Noise, noise_of

# Tokens of the fixed workload: calls of about 0.2, 2 and 20 ms on a core of 2024.
SCALES = (256, 2048, 16384)
CARD_SCALES = (4096, 65536, 524288)  # a card is idle most of the time in calls of fewer tokens
PROCESSES = 6
SECONDS = 0.4
_IDLE_S = 1.0
_LIMITS = Limits(timeout_s=60.0, memory_bytes=2 * 2**30)


@dataclass(frozen=True, kw_only=True)
class Card:
    """The readings of a CUDA card; a field is None if the card does not report it.

    ``clock_hz``: of the multiprocessors, just after the workload; ``throttled``: why it is lower than it
    might be, in any process. ``memory_free_bytes``: the least that any process found free.
    ``other_processes``: the most that any process found on the card beside itself.
    """

    name: str
    driver: str | None
    memory_bytes: int
    memory_free_bytes: int
    clock_hz: float | None
    highest_clock_hz: float | None
    throttled: tuple[str, ...]
    other_processes: int | None


@dataclass(frozen=True, kw_only=True)
class Checkup:
    """All observations of a machine; those that the system does not show are None."""

    cores: int
    affinity: tuple[int, ...] | None
    quota_cores: float | None
    threads: int
    load_1min: float
    others_cores: float | None
    steal_cores: float | None
    memory_bytes: int
    keeps_memory: bool
    frequency_hz: float | None
    governor: str | None
    turbo: str | None
    throttled: int | None
    clock_grain_s: float
    clock_cost_s: float
    thread_waiting: str = "default"
    noise: tuple[Noise, ...] = field(default_factory=tuple)
    between: Between = ASSUMED
    device: str = "cpu"
    card: Card | None = None


def examine(
    executor: Executor,
    *,
    threads: int | None = None,
    device: str = "cpu",
    progress: Callable[[str], None],
) -> Checkup:
    """Examine the machine and run the fixed workload on the device in fresh processes.

    On the CPU this takes about half a minute. Scales take turns, as a sweep's repeats do: each has one
    process before any has its second. Raises UsageError if there is no such device, and RuntimeError with the
    reason if the workload cannot run here.
    """
    count, on_cpu = threads or machine.cores(), device == "cpu"
    refuse_missing({device}, executor.start())
    progress("measuring other load")
    before = machine.Moment.now()
    time.sleep(_IDLE_S)
    idle = before.since()
    series: dict[tuple[int, int], list[Record]] = {}
    others = [idle["others_cores"]]
    wanted = [(n, count) for n in (SCALES if on_cpu else CARD_SCALES)]
    wanted += [(SCALES[1], 1)] if count > 1 and on_cpu else []
    for repeat in range(PROCESSES):
        for n, number in wanted[repeat % len(wanted) :] + wanted[: repeat % len(wanted)]:
            where = f"{number} threads" if on_cpu else device
            progress(f"the same call twice: {n} tokens, {where}, process {repeat + 1} of {PROCESSES}")
            cell = Cell(
                mechanism=MACHINE, probe="noise", seq_len=n, threads=number, device=device, seconds=SECONDS,
                repeat=repeat,
            )  # fmt: skip
            record = executor.run(Job(cell=cell, limits=_LIMITS), lambda fraction, text: None)
            if record.status != "ok":
                raise RuntimeError(f"the workload cannot run here: {record.status}: {record.reason}")
            series.setdefault((n, number), []).append(record)
            others.append(record.machine.get("others_cores"))
    records = [record for own in series.values() for record in own]
    clock = records[0].values
    cpu = Path("/sys/devices/system/cpu")
    return Checkup(
        cores=machine.cores(),
        affinity=machine.affinity(),
        quota_cores=machine.cpu_quota_cores(),
        threads=count,
        load_1min=machine.load_1min(),
        others_cores=None if others[0] is None else max(others[0], _mean(others[1:])),
        steal_cores=None if idle["steal_s"] is None else idle["steal_s"] / _IDLE_S,
        memory_bytes=machine.total_memory_bytes(),
        keeps_memory=machine.keep_freed_memory(),
        frequency_hz=machine.frequency_hz(),
        governor=_text(cpu / "cpu0/cpufreq/scaling_governor"),
        turbo=_turbo(cpu),
        throttled=_throttled(cpu),
        clock_grain_s=float(clock["clock_grain_s"] or 0.0),
        clock_cost_s=float(clock["clock_cost_s"] or 0.0),
        thread_waiting=machine.thread_waiting(),
        between=History().between(count) if on_cpu else ASSUMED,
        noise=tuple(
            noise_of(n, number, [one.samples for one in own], OVERHEAD_S if on_cpu else _overhead_s(own))
            for (n, number), own in series.items()
        ),
        device=device,
        card=None if on_cpu else card_of(records),
    )


def card_of(records: Sequence[Record]) -> Card:
    """Return what the card reported to the processes that ran the workload on it."""

    def told(name: str) -> list[Any]:
        return [value for record in records if (value := record.values.get(name)) is not None]

    clocks, others = told("sm_clock_hz"), told("other_processes")
    facts = records[0].machine
    reasons = dict.fromkeys(reason for text in told("throttle_reasons") for reason in text.split(", "))
    return Card(
        name=str(facts["gpu"]),
        driver=facts.get("gpu_driver"),
        memory_bytes=facts["gpu_memory_bytes"],
        memory_free_bytes=min(told("memory_free_bytes")),
        clock_hz=median(clocks) if clocks else None,
        highest_clock_hz=max(told("sm_clock_max_hz"), default=None),
        throttled=tuple(reasons),
        other_processes=max(others, default=None),
    )


def _overhead_s(records: Sequence[Record]) -> float:
    """Return the seconds that a process took beside its samples: its start, its warm-up and its end."""
    return max(0.0, median(record.seconds for record in records) - SECONDS)


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def _text(path: Path) -> str | None:
    return path.read_text().strip() if path.is_file() else None


def _turbo(cpu: Path) -> str | None:
    """Return ``on`` or ``off``; None if the driver does not show it."""
    off, boost = _text(cpu / "intel_pstate/no_turbo"), _text(cpu / "cpufreq/boost")
    if off is not None:
        return "off" if off == "1" else "on"
    return None if boost is None else "on" if boost == "1" else "off"


def _throttled(cpu: Path) -> int | None:
    counts = [_text(path) for path in sorted(cpu.glob("cpu*/thermal_throttle/core_throttle_count"))]
    return sum(int(count or 0) for count in counts) if counts else None
