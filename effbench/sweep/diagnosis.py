"""Examine this machine: its clock, noise, load and limits, and the smallest difference it can detect."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from effbench.common import machine
from effbench.common.spec import MACHINE, Cell, Job, Limits
from effbench.records.analyse.statistics import student_t
from effbench.records.analyse.uncertainty import ASSUMED, Between
from effbench.sweep.executor import Executor
from effbench.sweep.machine_history import History

Verdict = Literal["ok", "warn", "bad"]
# Tokens of the fixed workload: calls of about 0.2, 2 and 20 ms on a core of 2024.
SCALES = (256, 2048, 16384)
PROCESSES = 6
SECONDS = 0.4
BUDGETS_S = (1.0, 10.0, 60.0)
_IDLE_S = 1.0
_CELL_OVERHEAD_S = 0.15  # per process of a sweep: its start and its warm-up
_SAMPLING_S = 0.1  # assumed per process of a sweep
_LIMITS = Limits(timeout_s=60.0, memory_bytes=2 * 2**30)
_POWER_Z = 0.8416  # quantile of a standard normal: 80 % of the differences of that size are detected


@dataclass(frozen=True, kw_only=True)
class Noise:
    """The result of A/A runs of one workload at one scale, with all threads or with one.

    ``call_s``: median seconds per call. Standard deviations of logarithms: ``within``, of one call inside a
    process; ``between``, of a process's median, beyond what its calls explain; ``pair``, of the ratio of two
    neighbouring calls; ``aside``, of a process's ratio of A to B, beyond what its pairs explain, which more
    pairs do not reduce. ``pairs_per_s``: the rate of pairs. ``tail``: the slowest hundredth (below 300 calls
    the slowest call) over the median. ``apart``: the largest difference of A and B inside a process, as a
    share.
    """

    seq_len: int
    threads: int
    call_s: float
    within: float
    between: float
    pair: float
    aside: float
    pairs_per_s: float
    tail: float
    apart: float


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


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One item of the examination, with advice if it is not ok."""

    name: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""


def examine(executor: Executor, *, threads: int | None = None, progress: Callable[[str], None]) -> Checkup:
    """Examine the machine and run the fixed workload in fresh processes; this takes about half a minute.

    Scales take turns, as a sweep's repeats do: each has one process before any has its second. Raises
    RuntimeError with the reason if the workload cannot run here.
    """
    count = threads or machine.cores()
    progress("measuring other load")
    before = machine.Moment.now()
    time.sleep(_IDLE_S)
    idle = before.since()
    series: dict[tuple[int, int], list[dict[str, Any]]] = {}
    others = [idle["others_cores"]]
    wanted = [(n, count) for n in SCALES] + ([(SCALES[1], 1)] if count > 1 else [])
    for repeat in range(PROCESSES):
        for n, number in wanted[repeat % len(wanted) :] + wanted[: repeat % len(wanted)]:
            progress(
                f"the same call twice: {n} tokens, {number} threads, process {repeat + 1} of {PROCESSES}"
            )
            cell = Cell(
                mechanism=MACHINE, probe="noise", seq_len=n, threads=number, seconds=SECONDS, repeat=repeat
            )
            record = executor.run(Job(cell=cell, limits=_LIMITS), lambda fraction, text: None)
            if record.status != "ok":
                raise RuntimeError(f"the workload cannot run here: {record.status}: {record.reason}")
            series.setdefault((n, number), []).append({**record.samples, **record.values})
            others.append(record.machine.get("others_cores"))
    first = next(iter(series.values()))[0]
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
        clock_grain_s=first["clock_grain_s"],
        clock_cost_s=first["clock_cost_s"],
        thread_waiting=machine.thread_waiting(),
        between=History().between(count),
        noise=tuple(noise_of(n, number, processes) for (n, number), processes in series.items()),
    )


def noise_of(seq_len: int, threads: int, processes: Sequence[dict[str, Any]]) -> Noise:
    """Estimate variance components from A/A samples (``time_a_s``, ``time_b_s``) of several processes."""
    logs = [np.log([process["time_a_s"], process["time_b_s"]]) for process in processes]  # [2, calls] each
    # the median absolute deviation is robust against a few interrupted calls
    within = float(np.median([_spread(values) for values in logs]))
    medians = np.array([float(np.median(values)) for values in logs])
    calls = float(np.median([values.size for values in logs]))
    explained = (1.2533 * within) ** 2 / calls  # variance of a median of so many calls
    between = max(0.0, float(np.var(medians, ddof=1)) - explained) ** 0.5
    whole = np.concatenate([values.ravel() for values in logs])
    pair = float(np.median([_spread(values[0] - values[1]) for values in logs]))
    differences = np.array([float(np.median(values[0]) - np.median(values[1])) for values in logs])
    expected = 2 * (1.2533 * within) ** 2 / (calls / 2)  # variance of a difference of two such medians
    busy_s = sum(sum(process["time_a_s"]) + sum(process["time_b_s"]) for process in processes)
    slowest = np.quantile(whole, 0.99) if whole.size >= 300 else whole.max()
    return Noise(
        seq_len=seq_len,
        threads=threads,
        call_s=float(np.exp(np.median(whole))),
        within=within,
        between=between,
        pair=pair,
        aside=max(0.0, float(np.mean(differences**2)) - expected) ** 0.5,
        pairs_per_s=whole.size / 2 / busy_s,
        tail=float(np.exp(slowest - np.median(whole))),
        apart=float(np.max(np.abs(np.expm1(differences)))),
    )


def _mean(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else 0.0


def _spread(values: np.ndarray) -> float:
    """Return the standard deviation of a normal distribution with this median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def smallest_in_sweep(noise: Noise, budget_s: float) -> float:
    """Return the smallest difference of two mechanisms that a sweep of ``budget_s`` detects, as a share.

    Each repeat is a fresh process for both: k = budget / (2 (0.15 s + 0.1 s, or five calls)). The logarithm
    of a ratio of medians then has the variance s^2 = 2 (between^2 + 1.57 within^2 / calls) / k, and a
    difference of (t_{k-1} + z) s is detected at 95 % confidence with 80 % power. Infinite below two repeats.
    """
    sampling_s = max(_SAMPLING_S, 5 * noise.call_s)
    k = int(budget_s / (2 * (_CELL_OVERHEAD_S + sampling_s)))
    if k < 2:
        return math.inf
    variance = noise.between**2 + (1.2533 * noise.within) ** 2 * noise.call_s / sampling_s
    return math.expm1((student_t(0.95, k - 1) + _POWER_Z) * math.sqrt(2 * variance / k))


def smallest_in_pairs(noise: Noise, budget_s: float) -> float:
    """Return the same for A and B called alternately in one process, as a gate does.

    With k = budget times the pairs per second reached here, the logarithm of the pairs' median has the
    variance 1.57 pair^2 / k + aside^2. Infinite below two pairs.
    """
    k = int(budget_s * noise.pairs_per_s)
    if k < 2:
        return math.inf
    variance = (1.2533 * noise.pair) ** 2 / k + noise.aside**2
    return math.expm1((student_t(0.95, k - 1) + _POWER_Z) * math.sqrt(variance))


def findings(seen: Checkup) -> list[Finding]:
    """Judge each item of a checkup; a pure function of the checkup."""
    about = (_about_load, _about_processor, _about_memory, _about_noise, _about_runs)
    return [finding for of_one in about for finding in of_one(seen)]


def verdict(findings: Sequence[Finding]) -> tuple[str, str]:
    """Return ``fit``, ``fit with care`` or ``unfit``, and the same in words."""
    worst = {finding.verdict for finding in findings}
    if "bad" in worst:
        return "unfit", "unfit: times measured now would depend more on the machine than on the code"
    if "warn" in worst:
        return "fit with care", "fit with care: follow the advice above, and use more repeats"
    return "fit", "fit for measurements"


def _about_load(seen: Checkup) -> Iterator[Finding]:
    name = "other load"
    if seen.others_cores is None:
        value = f"load average {seen.load_1min:.1f}; the load of other processes is not visible here"
        yield Finding(name=name, value=value)
    else:
        used = f"other processes use {seen.others_cores:.2f} of {seen.cores} cores"
        value = f"{used}; load average {seen.load_1min:.1f}"
        free = machine.free_threads(seen.others_cores)
        fewer = f", or measure with --threads {free}" if free < seen.threads else ""
        advice = f"stop other programs, or measure later{fewer}"
        share = seen.others_cores / seen.cores
        how: Verdict = "bad" if share > 0.25 else "warn" if share > 0.05 else "ok"
        yield Finding(name=name, value=value, verdict=how, advice=advice if how != "ok" else "")
    if seen.steal_cores is None:
        yield Finding(name="stolen time", value="not visible here")
    else:
        how = "bad" if seen.steal_cores > 0.1 else "warn" if seen.steal_cores > 0.02 else "ok"
        advice = "the host is shared and busy: measure later, or on a dedicated machine"
        value = f"{100 * seen.steal_cores:.0f} % of a core"
        yield Finding(name="stolen time", value=value, verdict=how, advice=advice if how != "ok" else "")


def _about_processor(seen: Checkup) -> Iterator[Finding]:
    available = seen.cores if seen.quota_cores is None else min(seen.cores, seen.quota_cores)
    pinned = "not visible here" if seen.affinity is None else f"may run on {_ranges(seen.affinity)}"
    quota = "" if seen.quota_cores is None else f", quota {seen.quota_cores:g} cores"
    over = seen.threads > available
    yield Finding(
        name="threads",
        value=f"{seen.threads} threads, {seen.cores} cores ({pinned}{quota})",
        verdict="bad" if over else "ok",
        advice=f"threads would share cores: use --threads {max(1, int(available))}" if over else "",
    )
    waiting = seen.thread_waiting
    yield Finding(
        name="waiting",
        value=f"how threads wait for each other: {waiting}",
        verdict="ok" if waiting == "default" else "warn",
        advice=""
        if waiting == "default"
        else "times hold for this setting; unset it to measure as most programs run",
    )
    many = {n.seq_len: n for n in seen.noise if n.threads == seen.threads}
    for one in (n for n in seen.noise if n.threads == 1 and seen.threads > 1 and n.seq_len in many):
        gain = one.call_s / many[one.seq_len].call_s
        slow = gain < 1
        yield Finding(
            name="threads together",
            value=f"{seen.threads} threads are {gain:.2f} times as fast as one",
            verdict="warn" if slow else "ok",
            advice="more threads are slower here: use --threads 1, or stop other programs" if slow else "",
        )
    hidden = "not visible here"
    clock = hidden if seen.frequency_hz is None else f"{seen.frequency_hz / 1e9:.2f} GHz"
    power = seen.governor == "powersave"
    yield Finding(
        name="frequency",
        value=f"{clock}; governor {seen.governor or hidden}; turbo {seen.turbo or hidden}",
        verdict="warn" if power else "ok",
        advice="set the governor to performance" if power else "",
    )
    hot = bool(seen.throttled)
    yield Finding(
        name="throttling",
        value="not visible here" if seen.throttled is None else f"{seen.throttled} times since the start",
        verdict="warn" if hot else "ok",
        advice="the processor has been too hot: watch its frequency while you measure" if hot else "",
    )


def _about_memory(seen: Checkup) -> Iterator[Finding]:
    yield Finding(
        name="allocator",
        value="freed memory can be kept" if seen.keeps_memory else "freed memory is returned to the system",
        verdict="ok" if seen.keeps_memory else "warn",
        advice=""
        if seen.keeps_memory
        else "large tensors cost page faults here (docs/method.md): compare with care",
    )
    small = seen.memory_bytes < 2 * 2**30
    yield Finding(
        name="memory",
        value=f"{seen.memory_bytes / 2**30:.1f} GiB",
        verdict="warn" if small else "ok",
        advice="long sequences will not fit" if small else "",
    )


def _about_noise(seen: Checkup) -> Iterator[Finding]:
    coarse = seen.clock_grain_s > 2e-6
    yield Finding(
        name="clock",
        value=f"steps of {1e9 * seen.clock_grain_s:.0f} ns, {1e9 * seen.clock_cost_s:.0f} ns to read",
        verdict="warn" if coarse else "ok",
        advice="short calls are timed in batches; below 1 ms, use ratios only" if coarse else "",
    )
    for noise in seen.noise:
        spread = math.expm1(noise.between)
        worst = max(spread, noise.apart)
        how: Verdict = "ok"
        advice = ""
        if noise.tail > 5:
            how, advice = "bad", "calls are interrupted for long: other load competes for the cores; stop it"
        elif spread > 0.25:
            how, advice = "bad", "processes differ more than most mechanisms: measure later"
        elif spread > 0.05 or noise.apart > 0.05 or noise.tail > 2:
            how, advice = (
                "warn",
                f"use more repeats: one process shows no difference below {100 * worst:.0f} %",
            )
        yield Finding(
            name=f"noise, {1e3 * noise.call_s:.3g} ms, {noise.threads} threads",
            value=f"{100 * math.expm1(noise.within):.1f} % within a process, {100 * spread:.1f} % between; "
            f"A/A {100 * noise.apart:.1f} %; slowest hundredth {noise.tail:.1f} x the median",
            verdict=how,
            advice=advice,
        )


def _about_runs(seen: Checkup) -> Iterator[Finding]:
    """Yield the noise between the runs of this machine; every interval includes it."""
    between = seen.between
    time, ratio = _percent(between.time.value), _percent(2 * between.own.value)
    learnt = f"learnt from {between.runs} runs" if between.runs else "assumed: no two runs were compared yet"
    yield Finding(
        name="between runs",
        value=f"a time varies by {time}, a ratio by {ratio} (standard deviation; {learnt})",
    )


def _percent(variance: float) -> str:
    return f"{100 * math.sqrt(variance):.1f} %"


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


def _ranges(cores: Sequence[int]) -> str:
    """Write core numbers as ``0-3, 6``."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
