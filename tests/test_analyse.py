"""Analysis: intervals against known truths; nothing lost and nothing invented on the way to a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from frames import SIX, accuracy_records, cost_records, raw
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from effbench.analyse.complexity import exponents
from effbench.analyse.statistics import mean_interval, median_interval, proportion_interval
from effbench.analyse.summary import COLUMNS, SEVERITY, summarise
from effbench.spec import STATUSES


def test_the_median_and_its_interval_of_a_constant_are_the_constant():
    assert median_interval([[2.0] * 5, [2.0] * 3]) == (2.0, 2.0, 2.0)


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=1, max_size=9), min_size=1, max_size=5))
def test_the_interval_holds_the_median_and_stays_within_the_samples(repeats):
    center, low, high = median_interval(repeats, resamples=200)
    assert min(min(r) for r in repeats) <= low <= center <= high <= max(max(r) for r in repeats)
    assert center == float(np.median([np.median(r) for r in repeats]))
    assert median_interval(repeats, resamples=200) == (center, low, high)


def test_differences_between_processes_widen_the_interval():
    rng = np.random.default_rng(0)
    alike = [rng.normal(1.0, 0.01, 50) for _ in range(5)]
    apart = [rng.normal(mean, 0.01, 50) for mean in (0.9, 0.95, 1.0, 1.05, 1.1)]
    width = {
        name: median_interval(r)[2] - median_interval(r)[1]
        for name, r in (("alike", alike), ("apart", apart))
    }
    assert width["apart"] > 10 * width["alike"]


def test_coverage_of_the_true_median_with_many_repeats():
    """Processes with an offset of their own: 20 repeats, 95 % asked, at least 88 % expected of 200 trials."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(200):
        repeats = [rng.normal(rng.normal(1.0, 0.05), 0.05, 10) for _ in range(20)]
        _, low, high = median_interval(repeats, resamples=300)
        hits += low <= 1.0 <= high
    assert hits >= 176


def test_students_t_agrees_with_scipy():
    values = [0.81, 0.84, 0.86, 0.79]
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert mean_interval(values) == pytest.approx((np.mean(values), *expected))
    with pytest.raises(ValueError, match="at least two"):
        mean_interval([0.8])


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_agrees_with_scipy(counts):
    hits, trials = counts
    expected = stats.binomtest(hits, trials).proportion_ci(method="wilson")
    assert proportion_interval(hits, trials)[1:] == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_one_row_a_cell():
    frame = summarise(raw(cost_records(), accuracy_records()))
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 6 * 6 * 2 + 6
    cost = frame[frame.task == ""]
    assert (cost.status == "ok").all()
    assert cost[["time_s", "peak_bytes", "flops", "tokens_per_s", "parameters"]].notna().all().all()
    assert ((cost.time_low_s <= cost.time_s) & (cost.time_s <= cost.time_high_s)).all()
    assert np.allclose(cost.tokens_per_s, cost.seq_len / cost.time_s)
    assert (frame.repeats == 3).all()
    trained = frame[frame.task != ""]
    assert ((trained.accuracy_low < trained.accuracy) & (trained.accuracy < trained.accuracy_high)).all()
    assert set(trained.accuracy_interval) == {"t over 3 seeds"}
    one = summarise(raw(accuracy_records(seeds=1)))
    assert set(one.accuracy_interval) == {"Wilson over test examples"}


@given(st.randoms(use_true_random=False))
def test_the_order_of_records_does_not_matter(random):
    records = cost_records(SIX[:2], (128, 256), fail={("vanilla", "train", 256): ("oom", "x")})
    expected = summarise(raw(records))
    random.shuffle(records)
    pd.testing.assert_frame_equal(summarise(raw(records)), expected)


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "ok"])
def test_a_failure_never_vanishes(status):
    records = cost_records(("vanilla",), (128, 256), fail={("vanilla", "train", 256): (status, "why")})
    frame = summarise(raw(records))
    assert len(frame) == 4
    (row,) = frame[frame.status != "ok"].itertuples()
    assert (row.status, row.reason, row.mode, row.seq_len) == (status, "why", "train", 256)
    assert pd.isna(row.time_s)
    # one bad repeat among good ones: its status shows, and what the others measured stays
    good = cost_records(("vanilla",), (128,), modes=("forward",))
    bad = cost_records(
        ("vanilla",), (128,), modes=("forward",), fail={("vanilla", "forward", 128): (status, "why")}
    )
    (row,) = summarise(raw([*good[1:], bad[0]])).itertuples()
    assert (row.status, row.reason) == (status, "time: why")
    assert row.time_s > 0
    assert row.repeats == 2


def test_every_column_and_status_is_documented():
    text = (Path(__file__).parents[1] / "docs" / "results.md").read_text()
    missing = [name for name in [*COLUMNS, *STATUSES] if f"`{name}`" not in text]
    assert missing == []


def test_every_status_has_its_place():
    assert sorted(SEVERITY) == sorted(STATUSES)


def test_no_records_are_no_rows():
    frame = summarise(raw())
    assert frame.empty
    assert list(frame.columns) == COLUMNS


@pytest.mark.parametrize("power", [0.5, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_law_is_found(power):
    records = cost_records(("vanilla",), (128, 256, 512, 1024, 2048), modes=("forward",))
    frame = raw(records)
    times = frame["seq_len"].astype(float) ** power
    frame.loc[frame["probe"] == "time", "time_s"] = times
    (row,) = exponents(frame, "time_s").itertuples()
    assert (row.exponent, row.exponent_low, row.exponent_high) == pytest.approx((power,) * 3)
    assert (row.first, row.last) == (256, 2048)
    (row,) = exponents(frame, "flops").itertuples()
    assert row.exponent == pytest.approx(2.0, abs=1e-6)


def test_the_interval_of_an_exponent_reflects_noise_between_repeats():
    quiet, noisy = (
        exponents(raw(cost_records(("vanilla",), modes=("forward",), noise=n, repeats=5)), "time_s")
        for n in (0.001, 0.2)
    )
    assert (noisy.exponent_high - noisy.exponent_low > 5 * (quiet.exponent_high - quiet.exponent_low)).all()


def test_two_lengths_are_no_growth():
    assert exponents(raw(cost_records(("vanilla",), (128, 256))), "time_s").empty
    assert exponents(raw(), "time_s").empty


def test_machines_share_no_exponent_and_zero_has_none():
    here = raw(cost_records(("vanilla",), modes=("forward",)))
    both = pd.concat([here, here.assign(machine="Other CPU")], ignore_index=True)
    assert len(exponents(both, "time_s")) == 2
    here.loc[here["probe"] == "flops", "flops"] = 0.0
    assert exponents(here, "flops").empty


def test_one_score_without_counts_has_no_interval():
    records = raw(accuracy_records(("vanilla",), seeds=1)).drop(columns=["test_correct", "test_examples"])
    (row,) = summarise(records).itertuples()
    assert row.accuracy > 0
    assert pd.isna(row.accuracy_low)
    assert "accuracy" in summarise(records.drop(columns="accuracy"))
