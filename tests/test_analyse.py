"""Analysis: intervals against known truths; nothing lost and nothing invented on the way to a row."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import SIX, accuracy_records, cost_records, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from effbench.common import columns
from effbench.common.spec import STATUSES
from effbench.records.analyse.complexity import exponents
from effbench.records.analyse.roofline import bandwidth_for, roofline
from effbench.records.analyse.statistics import mean_interval, proportion_interval
from effbench.records.analyse.summary import COLUMNS, SEVERITY, summarise


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


def test_one_row_per_configuration():
    frame = summarise(raw(cost_records(SIX[:3], (128, 512)), accuracy_records()))
    priors = ["prior_majority", "prior_root_operator"]
    assert list(frame.columns) == columns.of_summary(priors=priors)
    assert [name for name in frame.columns if name not in priors] == COLUMNS
    assert len(frame) == 3 * 2 * 2 + 6
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


FOUR = cost_records(SIX[:2], (128, 256), fail={("vanilla", "train", 256): ("oom", "x")})


@cache
def summary_of_four() -> pd.DataFrame:
    return summarise(raw(FOUR))


@settings(max_examples=8)
@given(st.permutations(FOUR))
def test_the_order_of_records_does_not_matter(records):
    pd.testing.assert_frame_equal(summarise(raw(records)), summary_of_four())


@pytest.mark.parametrize("status", [s for s in STATUSES if s != "ok"])
def test_a_failure_never_vanishes(status):
    records = cost_records(("vanilla",), (128, 256), fail={("vanilla", "train", 256): (status, "why")})
    frame = summarise(raw(records))
    assert len(frame) == 4
    (row,) = frame[frame.status != "ok"].itertuples()
    assert (row.status, row.reason, row.mode, row.seq_len) == (status, "why", "train", 256)
    assert pd.isna(row.time_s)
    # one bad repeat among good ones: its status shows, and what the others measured stays; one that was not
    # reached says nothing of those that were
    good = cost_records(("vanilla",), (128,), modes=("forward",))
    bad = cost_records(
        ("vanilla",), (128,), modes=("forward",), fail={("vanilla", "forward", 128): (status, "why")}
    )
    (row,) = summarise(raw([*good[1:], bad[0]])).itertuples()
    assert (row.status, row.reason) == (("ok", "") if status == "interrupted" else (status, "time: why"))
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
    frame["samples_time_s"] = [[time] * 9 for time in times]
    (row,) = exponents(frame, "time_s").itertuples()
    assert row.exponent == pytest.approx(power)
    assert row.exponent_low < power < row.exponent_high, "another run may differ"
    assert (row.first, row.last) == (256, 2048)
    (row,) = exponents(frame, "flops").itertuples()
    assert row.exponent == pytest.approx(2.0, abs=1e-6)


def test_the_interval_of_an_exponent_reflects_noise_between_repeats():
    quiet, noisy = (
        exponents(raw(cost_records(("vanilla",), modes=("forward",), noise=n, repeats=5)), "time_s")
        for n in (0.001, 0.2)
    )
    assert (noisy.exponent_high - noisy.exponent_low > 2 * (quiet.exponent_high - quiet.exponent_low)).all()
    assert (quiet.exponent_high - quiet.exponent_low > 0.03).all(), "runs differ too"


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


CEILING: dict[str, Any] = {
    "peak_flops_per_s": 1e11,
    "bandwidth_at_bytes": [1e6, 1e8],
    "bandwidth_bytes_per_s": [1e11, 1e10],
}


def test_the_roof_is_the_peak_or_the_bandwidth_of_the_footprint():
    compute = roofline(flops=1e9, bytes_moved=1e6, time_s=0.02, footprint_bytes=1e6, **CEILING)
    assert compute["arithmetic_intensity"] == 1000
    assert compute["roof_flops_per_s"] == 1e11
    assert compute["roof_share"] == pytest.approx(0.5)
    for footprint, bandwidth in ((1e5, 1e11), (1e6, 1e11), (1e7, 10**10.5), (1e9, 1e10), (None, 1e11)):
        assert bandwidth_for(footprint, CEILING["bandwidth_at_bytes"], CEILING["bandwidth_bytes_per_s"]) == (
            pytest.approx(bandwidth)
        )
    moving = roofline(flops=1e6, bytes_moved=1e7, time_s=0.01, footprint_bytes=1e9, **CEILING)
    assert moving["roof_flops_per_s"] == pytest.approx(0.1 * 1e10)
    assert roofline(flops=0, bytes_moved=1e7, time_s=0.01, footprint_bytes=1e9, **CEILING) == {}


def test_ratios_are_to_the_fastest_and_hold_one():
    frame = summarise(raw(cost_records(SIX[:4], (128, 512), noise=0.05)))
    for _, block in frame.groupby(["mode", "seq_len"]):
        best = block.loc[block.time_s.idxmin()]
        assert best.time_ratio == best.time_ratio_low == best.time_ratio_high == 1
        rest = block.drop(best.name)
        assert np.allclose(rest.time_ratio, rest.time_s / best.time_s, rtol=0.1)
        assert (rest.time_ratio_low <= rest.time_ratio).all()


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("trend", 0.2, "slows down by 20 % while it runs"),
        ("trend", -0.1, "speeds up by 10 % while it runs"),
        ("warmed_up", "no", "did not settle in the warm-up"),
    ],
)
def test_what_makes_a_time_doubtful_is_said(column, value, words):
    frame = raw(cost_records(("vanilla",), (128,), modes=("forward",), noise=0.0))
    assert summarise(frame).noisy.tolist() == [""]
    frame.loc[frame["probe"] == "time", column] = value
    assert summarise(frame).noisy.tolist() == [words]
    wide = summarise(raw(cost_records(("vanilla",), (128,), modes=("forward",), noise=0.1)))
    assert wide.noisy.str.contains(" %, target ± 5 %").all()


def test_a_task_without_counts_beside_one_with_them_has_no_interval_at_one_seed():
    counted = accuracy_records(("vanilla",), seeds=1)
    bare = accuracy_records(("vanilla",), seeds=1, task="other")
    kept = ("accuracy", "tokens_per_s", "train_seconds")
    bare = [replace(r, values={name: r.values[name] for name in kept}) for r in bare]
    frame = summarise(raw(counted, bare)).set_index("task")
    assert frame.loc["listops", "accuracy_interval"] == "Wilson over test examples"
    assert pd.isna(frame.loc["other", "accuracy_low"])
