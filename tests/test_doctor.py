"""The doctor: planted faults have their findings; the smallest differences that it gives are detected."""

from __future__ import annotations

import io
import json
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
from fakes import FakeDevice
from rich.console import Console
from scipy import stats

from effbench.cli import app as cli
from effbench.common import machine
from effbench.common.spec import Cell, Record, Status, UsageError
from effbench.measured.probes.noise import on_card
from effbench.show.doctor_table import as_json, report
from effbench.sweep import checkup as doctor
from effbench.sweep.checkup import Card, Checkup
from effbench.sweep.diagnosis import _ranges, findings, verdict
from effbench.sweep.noise_estimate import (
    BUDGETS_S,
    Noise,
    noise_of,
    smallest_in_pairs,
    smallest_in_sweep,
)

STEADY = Noise(
    seq_len=2048,
    threads=4,
    call_s=0.002,
    within=0.01,
    between=0.005,
    pair=0.014,
    aside=0.0,
    pairs_per_s=250.0,
    tail=1.2,
    apart=0.002,
)
GOOD = Checkup(
    cores=4,
    affinity=(0, 1, 2, 3),
    quota_cores=None,
    threads=4,
    load_1min=0.1,
    others_cores=0.01,
    steal_cores=0.0,
    memory_bytes=16 * 2**30,
    keeps_memory=True,
    frequency_hz=3e9,
    governor="performance",
    turbo="on",
    throttled=0,
    clock_grain_s=5e-8,
    clock_cost_s=1e-7,
    noise=(STEADY, replace(STEADY, threads=1, call_s=0.007)),
)


def test_a_good_machine_is_fit_and_nothing_is_advised():
    found = findings(GOOD)
    assert verdict(found)[0] == "fit"
    assert not [finding.advice for finding in found if finding.advice]


@pytest.mark.parametrize(
    ("change", "name", "judged", "advice"),
    [
        ({"others_cores": 2.0}, "other load", "bad", "stop other programs"),
        ({"others_cores": 0.4}, "other load", "warn", "stop other programs"),
        ({"steal_cores": 0.3}, "stolen time", "bad", "the host is shared"),
        ({"steal_cores": 0.05}, "stolen time", "warn", "the host is shared"),
        ({"threads": 8}, "threads", "bad", "--threads 4"),
        ({"quota_cores": 2.0}, "threads", "bad", "--threads 2"),
        ({"governor": "powersave"}, "frequency", "warn", "performance"),
        ({"throttled": 7}, "throttling", "warn", "too hot"),
        ({"keeps_memory": False}, "allocator", "warn", "page faults"),
        ({"memory_bytes": 2**30}, "memory", "warn", "will not fit"),
        ({"clock_grain_s": 1e-5}, "clock", "warn", "batches"),
        ({"noise": (replace(STEADY, tail=40.0),)}, "noise", "bad", "competes for the cores"),
        ({"noise": (replace(STEADY, between=0.3),)}, "noise", "bad", "measure later"),
        ({"noise": (replace(STEADY, between=0.08),)}, "noise", "warn", "more repeats"),
        ({"noise": (replace(STEADY, apart=0.1),)}, "noise", "warn", "below 10 %"),
        (
            {"noise": (STEADY, replace(STEADY, threads=1, call_s=0.001))},
            "threads together",
            "warn",
            "--threads 1",
        ),
    ],
)
def test_each_fault_has_its_finding_and_advice(change, name, judged, advice):
    found = findings(replace(GOOD, **change))
    faults = [finding for finding in found if finding.verdict != "ok"]
    assert [fault.verdict for fault in faults] == [judged]
    assert faults[0].name.startswith(name)
    assert advice in faults[0].advice
    assert verdict(found)[0] == {"bad": "unfit", "warn": "fit with care"}[judged]


def test_what_is_not_visible_is_not_judged():
    blind = replace(
        GOOD, affinity=None, others_cores=None, steal_cores=None, frequency_hz=None, governor=None,
        turbo=None, throttled=None,
    )  # fmt: skip
    found = findings(blind)
    assert verdict(found)[0] == "fit"
    assert sum("not visible here" in finding.value for finding in found) >= 5


CARD = Card(
    name="H", driver="580.1", memory_bytes=2**35, memory_free_bytes=2**35 - 2**29, clock_hz=1.5e9,
    highest_clock_hz=2e9, throttled=(), other_processes=0,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "name", "advice"),
    [
        ({"throttled": ("power cap",)}, "card's throttling", "let it cool"),
        ({"memory_free_bytes": 2**34}, "card's memory", "other processes hold the rest"),
        ({"other_processes": 2}, "other processes on the card", "choose another card"),
    ],
)
def test_each_fault_of_a_card_has_its_finding_and_advice(change, name, advice):
    on_card = replace(GOOD, device="cuda:1", noise=(STEADY,), card=CARD)
    told = {finding.name: finding.value for finding in findings(on_card)}
    assert verdict(findings(on_card))[0] == "fit"
    assert told["card"] == "H (cuda:1), driver 580.1"
    assert told["card's clock"] == "1.50 GHz after the workload, at most 2.00 GHz"
    assert told["card's memory"] == "31.5 of 32.0 GiB free"
    assert "noise, 2 ms, cuda:1" in told
    (fault,) = (f for f in findings(replace(on_card, card=replace(CARD, **change))) if f.verdict != "ok")
    assert (fault.name, fault.verdict) == (name, "warn")
    assert advice in fault.advice


def test_a_card_without_nvml_is_not_judged_for_what_it_does_not_tell():
    blind = replace(CARD, driver=None, clock_hz=None, highest_clock_hz=None, other_processes=None)
    found = findings(replace(GOOD, device="cuda", noise=(STEADY,), card=blind))
    assert verdict(found)[0] == "fit"
    assert sum("not visible here" in f.value for f in found if "card" in f.name) == 4


def processes(rng, count, calls, within, between, shift=0.0):
    found = []
    for _ in range(count):
        offset = rng.normal(0, between)
        a, b = (0.002 * np.exp(offset + s + rng.normal(0, within, calls)) for s in (0.0, shift))
        found.append({"time_a_s": tuple(a), "time_b_s": tuple(b)})
    return found


def test_the_components_of_the_noise_are_found():
    rng = np.random.default_rng(0)
    noise = noise_of(2048, 2, processes(rng, 60, 100, within=0.03, between=0.05))
    assert noise.call_s == pytest.approx(0.002, rel=0.05)
    assert noise.within == pytest.approx(0.03, rel=0.1)
    assert noise.between == pytest.approx(0.05, rel=0.25)
    assert noise.pair == pytest.approx(0.03 * 2**0.5, rel=0.1)
    assert 1 < noise.tail < 1.25
    assert noise_of(2048, 2, processes(rng, 5, 50, 0.01, 0.0, shift=0.1)).apart == pytest.approx(
        0.095, abs=0.01
    )


@pytest.mark.parametrize("budget_s", [3.0, 10.0])
def test_a_difference_of_that_size_is_told_four_times_of_five(budget_s):
    """Simulated sweeps with these components: the share in which Student's t over pairs tells them apart."""
    rng = np.random.default_rng(1)
    noise = replace(STEADY, within=0.03, between=0.05)
    smallest = smallest_in_sweep(noise, budget_s)
    repeats, calls = int(budget_s / 0.5), int(0.1 / noise.call_s)
    told = 0
    for _ in range(400):
        medians = rng.normal(0, noise.between, (2, repeats))
        medians += np.median(rng.normal(0, noise.within, (2, repeats, calls)), axis=2)
        ratios = medians[1] + np.log1p(smallest) - medians[0]
        told += stats.ttest_1samp(ratios, 0).pvalue < 0.05
    assert 0.72 <= told / 400 <= 0.88


def test_interruptions_enter_what_pairs_can_tell():
    """Under load few pairs are made, and A differs from A by more than its calls' spread explains."""
    rng = np.random.default_rng(3)
    calm = noise_of(2048, 2, processes(rng, 6, 100, 0.01, 0.0))
    assert calm.aside < 0.002
    assert calm.pairs_per_s == pytest.approx(250, rel=0.05)
    found = processes(rng, 6, 100, 0.01, 0.0)
    for shift, process in zip((0.3, -0.2, 0.25, -0.3, 0.1, 0.2), found, strict=True):
        process["time_b_s"] = tuple(t * np.exp(shift) for t in process["time_b_s"])
    loaded = noise_of(2048, 2, found)
    assert loaded.aside == pytest.approx(0.235, rel=0.1)
    assert smallest_in_pairs(loaded, 60.0) > 0.5
    stalled = processes(rng, 1, 60, 0.01, 0.0)
    stalled[0]["time_a_s"] = (*stalled[0]["time_a_s"][:-1], 0.08)
    assert noise_of(2048, 2, stalled * 2).tail == pytest.approx(40, rel=0.1)
    assert noise_of(2048, 2, stalled * 2).pairs_per_s < 200


def test_more_time_and_finer_pairs_tell_smaller_differences():
    sweep = [smallest_in_sweep(STEADY, budget) for budget in BUDGETS_S]
    pairs = [smallest_in_pairs(STEADY, budget) for budget in BUDGETS_S]
    assert sweep == sorted(sweep, reverse=True)
    assert pairs == sorted(pairs, reverse=True)
    assert all(p < s for p, s in zip(pairs, sweep, strict=True))
    assert smallest_in_sweep(replace(STEADY, call_s=2.0), 1.0) == float("inf")
    assert smallest_in_pairs(replace(STEADY, pairs_per_s=0.25), 1.0) == float("inf")


def test_the_report_says_everything_and_json_parses():
    seen = replace(GOOD, others_cores=2.0)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(report(seen))
    text = console.export_text()
    assert "This machine is unfit" in text
    assert "stop other programs" in text
    assert "in 60 s" in text
    whole = json.loads(as_json(seen))
    assert whole["verdict"] == "unfit"
    assert len(whole["smallest_difference"]) == len(seen.noise) * 3
    assert whole["checkup"]["cores"] == 4


class Fake:
    """Answers noise cells with steady times."""

    def __init__(self, status: Status = "ok", cards: int = 1) -> None:
        self.status, self.cards = status, cards
        self.cells: list[Cell] = []

    def start(self):
        return {"torch": "2", "cuda_devices": self.cards}

    def close(self):
        """It has nothing to end."""

    def run(self, job, progress):
        self.cells.append(job.cell)
        samples = processes(np.random.default_rng(len(self.cells)), 1, 20, 0.01, 0.001)[0]
        values = {"clock_grain_s": 5e-8, "clock_cost_s": 1e-7}
        return Record(cell=job.cell, status=self.status, reason="why", samples=samples, values=values)


class OnCard(Fake):
    """Answers noise cells with what the probe measures on the fake device."""

    def run(self, job, progress):
        self.cells.append(job.cell)
        late = len(self.cells) > 2
        device = FakeDevice(1e-3 if late else 2e-3, throttled_after=0 if late else 10**9)
        cell = replace(job.cell, seconds=0.0)
        samples, values = on_card(lambda: device.call, device, cell, lambda: int(1e9 * device.now_s))
        values |= {"clock_grain_s": 5e-8, "clock_cost_s": 1e-7}
        machine = {"gpu": "H", "gpu_driver": "580.1", "gpu_memory_bytes": 2**35}
        return Record(
            cell=job.cell, status="ok", samples=samples, values=values, machine=machine, seconds=1.9
        )


def test_a_card_is_examined_with_its_own_workload_clock_and_neighbours(monkeypatch):
    monkeypatch.setattr(doctor, "_IDLE_S", 0.01)
    fake = OnCard()
    seen = doctor.examine(fake, threads=2, device="cuda", progress=print)
    assert {(c.seq_len, c.threads, c.device) for c in fake.cells} == {
        (n, 2, "cuda") for n in doctor.CARD_SCALES
    }
    assert seen.card == Card(
        name="H", driver="580.1", memory_bytes=2**35, memory_free_bytes=3 * 2**30, clock_hz=1e9,
        highest_clock_hz=2e9, throttled=("power cap",), other_processes=1,
    )  # fmt: skip
    assert [noise.call_s for noise in seen.noise] == pytest.approx([3e-3] * 3), "cold, and without the flush"
    assert [noise.overhead_s for noise in seen.noise] == pytest.approx([1.5] * 3)
    assert smallest_in_sweep(seen.noise[0], 3.0) == float("inf"), "two processes for each take 6.4 s"
    text = as_json(seen)
    assert json.loads(text)["checkup"]["card"]["other_processes"] == 1


def test_without_cuda_the_doctor_refuses_before_it_looks():
    fake = Fake(cards=0)
    with pytest.raises(UsageError, match="device 'cuda:1': torch 2 finds no CUDA device here"):
        doctor.examine(fake, device="cuda:1", progress=print)
    assert not fake.cells


def test_examining_spreads_processes_over_scales_in_turn(monkeypatch):
    monkeypatch.setattr(doctor, "_IDLE_S", 0.01)
    fake = Fake()
    said: list[str] = []
    seen = doctor.examine(fake, threads=2, progress=said.append)
    assert {(c.seq_len, c.threads) for c in fake.cells} == {(n, 2) for n in doctor.SCALES} | {(2048, 1)}
    assert len(fake.cells) == 4 * doctor.PROCESSES
    assert len({c.seq_len for c in fake.cells[:4]}) == 3, "no scale is measured in one stretch"
    assert seen.cores == machine.cores()
    assert len(seen.noise) == 4
    assert said
    with pytest.raises(RuntimeError, match="cannot run here: crashed: why"):
        doctor.examine(Fake("crashed"), threads=2, progress=said.append)


@pytest.mark.parametrize(
    ("text", "busy_s", "steal_s"),
    [
        ("cpu  100 0 200 5000 50 0 0 30 0 0\ncpu0 1 2 3\n", 3.0, 0.3),
        ("cpu  1 2 3\n", None, None),
    ],
)
def test_processor_time_is_read_from_the_systems_table(tmp_path, monkeypatch, text, busy_s, steal_s):
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    path = tmp_path / "stat"
    path.write_text(text)
    assert machine._stat(path) == (busy_s, steal_s)
    assert machine._stat(tmp_path / "absent") == (None, None)


@pytest.mark.parametrize(("cores", "text"), [((0,), "0"), ((0, 1, 2, 5), "0-2, 5"), ((3, 1), "1, 3")])
def test_cores_are_written_as_ranges(cores, text):
    assert _ranges(cores) == text


@pytest.mark.slow
@pytest.mark.alone
def test_the_command_examines_this_machine(monkeypatch, capfd):
    """With two short processes of each kind instead of six: less precise, but the same examination."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["effbench", "doctor", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    monkeypatch.setattr(doctor, "PROCESSES", 2)
    monkeypatch.setattr(doctor, "_IDLE_S", 0.2)
    monkeypatch.setattr(doctor, "SECONDS", 0.1)
    code, out, err = command("--format", "json")
    assert (code, err) == (0, "")
    whole = json.loads(out)
    assert whole["verdict"] in ("fit", "fit with care", "unfit")
    assert {noise["seq_len"] for noise in whole["checkup"]["noise"]} == set(doctor.SCALES)
    assert all(noise["call_s"] > 0 for noise in whole["checkup"]["noise"])
    for wrong in (["--threads", "0"], ["--format", "xml"], ["--device", "tpu"]):
        code, _, err = command(*wrong)
        assert code == 2
        assert err.count("\n") == 1
