"""Judge a checkup of this machine: what ``effbench doctor`` says of each item, and its verdict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from effbench.common import machine
from effbench.sweep.checkup import Checkup
from effbench.sweep.noise_estimate import Noise

Verdict = Literal["ok", "warn", "bad"]
_FREE_SHARE = 0.9  # of a card's memory: the process that looks holds some of the rest itself


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One item of the examination, with advice if it is not ok."""

    name: str
    value: str
    verdict: Verdict = "ok"
    advice: str = ""


def findings(seen: Checkup) -> list[Finding]:
    """Judge each item of a checkup; a pure function of the checkup."""
    about = (_about_load, _about_processor, _about_memory, _about_card, _about_noise, _about_runs)
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


def _about_card(seen: Checkup) -> Iterator[Finding]:
    card, hidden = seen.card, "not visible here"
    if card is None:
        return
    yield Finding(name="card", value=f"{card.name} ({seen.device}), driver {card.driver or hidden}")
    clock = hidden if card.clock_hz is None else f"{card.clock_hz / 1e9:.2f} GHz after the workload"
    most = "" if card.highest_clock_hz is None else f", at most {card.highest_clock_hz / 1e9:.2f} GHz"
    yield Finding(name="card's clock", value=f"{clock}{most}")
    unknown = card.clock_hz is None
    yield Finding(
        name="card's throttling",
        value=hidden if unknown else ", ".join(card.throttled) or "none",
        verdict="warn" if card.throttled else "ok",
        advice="its speed changes with its heat and power: let it cool, or fix its clock with nvidia-smi"
        if card.throttled
        else "",
    )
    taken = card.memory_free_bytes < _FREE_SHARE * card.memory_bytes
    yield Finding(
        name="card's memory",
        value=f"{card.memory_free_bytes / 2**30:.1f} of {card.memory_bytes / 2**30:.1f} GiB free",
        verdict="warn" if taken else "ok",
        advice="other processes hold the rest: long sequences will not fit; stop them" if taken else "",
    )
    others = card.other_processes
    yield Finding(
        name="other processes on the card",
        value=hidden if others is None else str(others),
        verdict="warn" if others else "ok",
        advice="they share its units, memory and power: stop them, or choose another card" if others else "",
    )


def call_name(noise: Noise, seen: Checkup) -> str:
    """Return how a table names the call of a noise measurement: its time, and where it runs."""
    where = f"{noise.threads} threads" if seen.card is None else seen.device
    return f"{1e3 * noise.call_s:.3g} ms, {where}"


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
            name=f"noise, {call_name(noise, seen)}",
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


def _ranges(cores: Sequence[int]) -> str:
    """Write core numbers as ``0-3, 6``."""
    runs: list[list[int]] = []
    for core in sorted(cores):
        if runs and core == runs[-1][-1] + 1:
            runs[-1].append(core)
        else:
            runs.append([core])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
