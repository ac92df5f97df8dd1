"""The noise of times: intervals that hold in another run; a control that shows the machine's speed."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import ORIGIN, cost_records, raw
from hypothesis import given
from hypothesis import strategies as st

from effbench.common import machine
from effbench.common.spec import Cell, Record
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import by_pair
from effbench.records.analyse.runs import Run, between_runs, learn
from effbench.records.analyse.summary import summarise
from effbench.records.analyse.uncertainty import (
    ASSUMED,
    ASSUMED_AS_MEASURED,
    ASSUMED_AT_FIRST,
    NOTHING,
    Between,
    Noise,
    Variance,
    differs,
    noise_of,
    own_error,
    ratio_interval,
    time_interval,
)
from effbench.sweep.machine_history import History, runs_of

ALONE = Noise(between=Between(time=NOTHING, own=NOTHING))
TRUE = {"time": 0.03, "own": 0.02, "process": 0.04, "slow": 0.15}


def test_a_constant_time_is_known_up_to_the_noise_between_runs():
    center, low, high = time_interval([[2.0] * 5, [2.0] * 3], ALONE)
    assert center == pytest.approx(2.0)
    assert high / low < 1.1
    wide = time_interval([[2.0] * 5, [2.0] * 3], Noise())
    assert math.log(wide[2] / wide[1]) > 4 * math.sqrt(ASSUMED.time.value)


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), min_size=1, max_size=5))
def test_the_interval_holds_the_time(repeats):
    center, low, high = time_interval(repeats, Noise())
    assert center == pytest.approx(np.exp(np.median(np.log([np.median(r) for r in repeats]))))
    if len(repeats) == 1:
        assert math.isnan(low)
        assert math.isnan(high)
        assert math.isnan(own_error(repeats, Noise()))
    else:
        assert 0 < low <= center <= high
        assert own_error(repeats, Noise()) > 0


def times_of(records: list[Record]) -> pd.DataFrame:
    """Return the raw frame of the records of time."""
    return raw([record for record in records if record.cell.probe == "time"])


def a_run(rng: np.random.Generator, *, told: dict[str, Any] | None = None, repeats: int = 3) -> list[Record]:
    """Return the records of a run of six mechanisms at two lengths on a machine with the noise of ``TRUE``.

    Its phases change within the run, and with the samples they slow down the control.
    """
    records = []
    common = rng.normal(0, TRUE["time"])
    for place, mechanism in enumerate(("a", "b", "c", "d", "e", "f")):
        for n in (128, 1024):
            own = common + rng.normal(0, TRUE["own"])
            for repeat in range(repeats):
                slow = max(0.0, rng.normal(0, TRUE["slow"]))
                log = math.log(1e-3 * (1 + place / 10) * n / 128) + own + rng.normal(0, TRUE["process"])
                samples = np.exp(log + slow + rng.normal(0, 0.03, 11))
                control = np.exp(math.log(1e-4) + slow + rng.normal(0, 0.01, 11))
                facts = {**ORIGIN["machine"], **({"history": told} if told else {})}
                records.append(
                    Record(
                        cell=Cell(mechanism=mechanism, probe="time", seq_len=n, repeat=repeat),
                        status="ok",
                        samples={"time_s": tuple(samples), "control_s": tuple(control)},
                        machine={**facts, "torch": "2"},
                        code=ORIGIN["code"],
                        started=f"2026-01-01T00:00:{rng.integers(10, 60)}+00:00",
                    )
                )
    return records


def test_another_run_falls_into_the_intervals_of_times_and_ratios():
    rng = np.random.default_rng(4)
    history: list[Run] = []
    for _ in range(12):
        history += runs_of(a_run(rng))
    told = learn(history)
    summaries = [summarise(raw(a_run(rng, told=told))) for _ in range(24)]
    inside: dict[str, list[bool]] = {"time": [], "ratio": []}
    moved, half = [], []
    for one, other in itertools.pairwise(summaries):
        inside["time"] += list((one.time_low_s <= other.time_s) & (other.time_s <= one.time_high_s))
        moved += list(np.abs(np.log(other.time_s / one.time_s)))
        half += list(np.log(one.time_high_s / one.time_low_s) / 2)
        rest = one[one.time_ratio != 1]
        best = other.time_s.groupby(other.seq_len).transform("min")  # a is the fastest by far enough
        theirs = (other.time_s / best)[rest.index]
        inside["ratio"] += list((rest.time_ratio_low <= theirs) & (theirs <= rest.time_ratio_high))
    assert 0.91 <= np.mean(inside["time"]) <= 0.99
    assert np.mean(inside["ratio"]) >= 0.91
    assert np.median(half) <= 1.3 * np.quantile(moved, 0.95), "and is not merely wide"


def test_equal_times_are_seldom_called_different_and_a_fifth_is_found():
    rng = np.random.default_rng(5)
    false, found = [], []
    for _ in range(30):
        times = comparable(raw(a_run(rng)))
        noise = noise_of(times)
        of = {(m, n): by_pair(rows) for (m, n), rows in times.groupby(["mechanism", "seq_len"])}
        for n in (128, 1024):
            level = {r: [s / 1.1 for s in own] for r, own in of["b", n].items()}  # b is a tenth slower than a
            false.append(differs(ratio_interval(level, of["a", n], noise)))
            fifth = {r: [s * 1.2 / 1.1 for s in own] for r, own in of["b", n].items()}
            found.append(differs(ratio_interval(fifth, of["a", n], noise)))
    assert np.mean(false) <= 0.1
    assert np.mean(found) >= 0.9


def test_a_slow_phase_is_taken_out_and_said():
    quick = cost_records(("linear", "vanilla"), (128, 512), noise=0.0)
    slow = [
        replace(r, samples={name: tuple(1.4 * x for x in series) for name, series in r.samples.items()})
        if r.cell.probe == "time" and r.cell.repeat == 2
        else r
        for r in quick
    ]
    plain, adjusted = (summarise(raw(records)) for records in (quick, slow))
    assert adjusted.time_s.to_numpy() == pytest.approx(plain.time_s.to_numpy())
    assert raw(slow)["slowdown"].max() == pytest.approx(1.4)
    assert plain.slowdown.dropna().eq(1.0).all()


def test_times_without_a_control_are_less_sure():
    records = cost_records(("linear", "vanilla"), (128,), noise=0.0)
    bare = [replace(r, samples={k: s for k, s in r.samples.items() if k != "control_s"}) for r in records]
    assert noise_of(comparable(times_of(bare))).between == ASSUMED_AS_MEASURED
    with_control, without = (summarise(raw(r)) for r in (records, bare))
    assert (without.time_high_s > with_control.time_high_s).all()
    assert without.slowdown.isna().all()


def test_the_noise_between_runs_is_learnt():
    rng = np.random.default_rng(6)
    runs = [run for _ in range(40) for run in runs_of(a_run(rng))]
    between = between_runs(runs)
    both = math.hypot(TRUE["time"], TRUE["own"])
    assert math.sqrt(between.time.value) == pytest.approx(both, rel=0.3)
    assert math.sqrt(between.own.value) == pytest.approx(TRUE["own"], rel=0.3)
    assert between.runs == 40
    assert between_runs(runs[:1]) == ASSUMED
    assert between_runs([runs[0], replace(runs[1], times={})]) == ASSUMED
    assert learn([]) is None
    told = learn(runs)
    assert told is not None
    assert told["control_s"] == pytest.approx(1e-4, rel=0.05)
    assert between.time.value < Between.told(told).time.value < 1.3 * between.time.value
    few = learn(runs[:2])
    assert few is not None
    assert few["time_sd"] > 1.3 * told["time_sd"], "how quick its quick phases are is not known yet"


def test_few_repeats_borrow_from_the_other_configurations():
    noise = noise_of(comparable(times_of(cost_records(noise=0.02, repeats=3))))
    assert math.sqrt(noise.within.value) == pytest.approx(0.02 * 1.25 / 3, rel=0.3)
    assert noise.within.degrees > 10, "they all have one noise"
    alike = [[1.0] * 9] * 3
    assert own_error(alike, noise) > 3 * own_error(alike, ALONE)


@given(st.floats(1e-6, 1), st.floats(1, 50), st.floats(1e-6, 1), st.floats(1, 50))
def test_a_sum_of_variances_is_known_no_better_than_its_parts(a, da, b, db):
    whole = Variance(value=a, degrees=da).plus(Variance(value=b, degrees=db))
    assert whole.value == pytest.approx(a + b)
    assert min(da, db) * 0.999 <= whole.degrees <= (da + db) * 1.001
    assert Variance(value=a, degrees=da).plus(NOTHING).degrees == pytest.approx(da)


def test_a_history_is_kept_and_a_damaged_one_is_forgotten(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "cache_dir", lambda: tmp_path / "cache")
    rng = np.random.default_rng(7)
    record = a_run(rng)[0]
    assert History().beside(record) == record, "nothing is known yet"
    for _ in range(3):
        History().keep(a_run(rng))
    told = History().beside(record).machine["history"]
    assert told["runs"] == 3
    assert History().between(1).runs == 3
    assert History().between(2) == ASSUMED_AT_FIRST, "another number of threads is another history"
    trained = replace(record, cell=replace(record.cell, probe="memory"), samples={})
    assert History().beside(trained) == trained
    (path,) = (tmp_path / "cache").iterdir()
    path.write_text(path.read_text().replace("0.", "1.", 1))
    assert History().between(1) == ASSUMED_AT_FIRST
    busy = [replace(r, values={"waited_share": 0.5}) for r in a_run(rng)]
    assert runs_of(busy) == [], "times beside other load tell nothing"
