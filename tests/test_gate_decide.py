"""The gate's statistics: intervals cover what they claim, verdicts follow, looks spend what there is."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from effbench.gate.decide import Interval, Middle, Plan, Round, decide, detectable, estimate

TURNS = 12


def rounds(rng, k, *, ratio=1.0, between=0.01, within=0.02, base_s=0.002, again=1.0):
    """k rounds whose times differ by ``between`` from worker to worker, by ``within`` from call to call."""
    made = []
    for _ in range(k):
        series = [
            base_s * factor * np.exp(between * rng.standard_normal() + within * rng.standard_normal(TURNS))
            for factor in (1.0, ratio, again)
        ]
        made.append(Round(base_s=series[0], head_s=series[1], again_s=series[2]))
    return made


def judged(ratio, *, k=12, threshold=0.05, floor_s=0.0, error=0.001, seed=0, **noise):
    made = rounds(np.random.default_rng(seed), k, ratio=ratio, **noise)
    return decide(made, error=error, threshold=threshold, floor_s=floor_s)


def test_the_ratio_is_head_over_base_and_the_control_is_of_the_base_alone():
    decision = judged(1.3, between=0.0, within=0.0)
    assert decision.head.ratio == pytest.approx(1.3)
    assert decision.control.ratio == pytest.approx(1.0)
    assert decision.head.low == pytest.approx(1.3)
    assert (decision.base_s, decision.head_s) == pytest.approx((0.002, 0.0026))


@pytest.mark.parametrize(
    ("ratio", "verdict"), [(1.2, "slower"), (0.8, "faster"), (1.0, "same"), (1.05, "inconclusive")]
)
def test_the_verdict_is_what_was_planted(ratio, verdict):
    assert judged(ratio).verdict == verdict


def test_noise_makes_a_verdict_inconclusive_never_wrong():
    verdicts = {judged(1.0, between=0.2, k=5, seed=seed).verdict for seed in range(20)}
    assert verdicts <= {"inconclusive", "unfit"}
    assert "inconclusive" in verdicts


def test_a_base_that_differs_from_itself_judges_nothing_whatever_the_head_does():
    decision = judged(1.5, again=1.2, between=0.001)
    assert decision.verdict == "unfit"
    assert "itself" in decision.reason


def test_a_difference_below_the_floor_is_no_slowdown():
    assert judged(1.2, base_s=20e-6).verdict == "slower"
    decision = judged(1.2, base_s=20e-6, floor_s=10e-6)
    assert decision.verdict == "same"
    assert decision.threshold == pytest.approx(0.5, rel=0.02)


def test_calls_that_are_skewed_do_not_move_the_ratio_of_unchanged_code():
    """As real ones are, which now and then take longer: against the mean of two bases the head would seem
    faster, by 0.56 % here, nineteen of this mean's standard errors."""
    rng = np.random.default_rng(11)
    medians = []
    for _ in range(300):
        base, head, again = 0.002 * np.exp(rng.gamma(1.0, 0.05, size=(3, 100)))
        medians.append(Round(base_s=base, head_s=head, again_s=again).ratio.median)
    error = np.std(medians) / math.sqrt(len(medians))
    assert abs(np.mean(medians)) < 3 * error < 0.0012


@pytest.mark.parametrize("k", [3, 8])
def test_the_interval_misses_as_often_as_it_says(k):
    """Of 400 repetitions at an error of 10 %; the band is some three standard deviations wide."""
    rng = np.random.default_rng(k)
    missed = [0, 0]
    for _ in range(400):
        for i, interval in enumerate(estimate(rounds(rng, k, between=0.02, within=0.005), 0.1)):
            missed[i] += not interval.low <= 1.0 <= interval.high
    assert all(0.055 < each / 400 < 0.145 for each in missed), missed


def test_far_out_in_the_tails_the_interval_misses_no_more_often_than_it_says():
    """At the error of a first look at four cells, with processes of heavy tails: at most as many as 10,000
    tries can show of 0.2 %."""
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(10_000):
        medians = 0.01 * rng.standard_t(5, size=(6, 3))
        made = [
            SimpleNamespace(ratio=Middle(head - (base + again) / 2, 0.0), control=Middle(again - base, 0.0))
            for base, head, again in medians
        ]
        head, _ = estimate(cast("list[Round]", made), 0.002)
        missed += not head.low <= 1.0 <= head.high
    assert missed <= stats.binom.ppf(0.999, 10_000, 0.002)


def test_a_head_that_spreads_more_than_the_base_widens_the_interval():
    """Its calls' own spread bounds the error, which the base's alone would put lower."""
    rng = np.random.default_rng(2)
    calm = rounds(rng, 6, between=0.0, within=0.01)
    wild = [
        Round(base_s=r.base_s, again_s=r.again_s, head_s=np.asarray(r.head_s) * np.exp(0.2 * noise))
        for r, noise in zip(calm, rng.standard_normal((6, TURNS)), strict=True)
    ]
    assert estimate(wild, 0.01)[0].half > 4 * estimate(calm, 0.01)[0].half


def test_rounds_not_calls_are_the_sample():
    """A worker that is slow as a whole is one observation, however many calls it made."""
    made = rounds(np.random.default_rng(1), 6, between=0.02, within=0.001)
    many = [
        Round(
            base_s=np.tile(r.base_s, 50).tolist(),
            head_s=np.tile(r.head_s, 50).tolist(),
            again_s=np.tile(r.again_s, 50).tolist(),
        )
        for r in made
    ]
    assert estimate(many, 0.01)[0].half > 0.9 * estimate(made, 0.01)[0].half


def test_one_round_has_no_interval():
    with pytest.raises(ValueError, match="at least two rounds"):
        estimate(rounds(np.random.default_rng(0), 1), 0.01)


@given(
    cells=st.integers(1, 100),
    error=st.floats(1e-4, 0.2),
    looks=st.lists(st.integers(2, 60), min_size=1, max_size=8, unique=True).map(lambda x: tuple(sorted(x))),
)
def test_all_looks_of_all_cells_together_spend_the_error(cells, error, looks):
    plan = Plan(cells=cells, error=error, looks=looks)
    assert sum(plan.alpha(look) for look in looks) * cells == pytest.approx(error)
    assert all(plan.alpha(look) > 0 for look in looks)


def test_a_slowdown_of_the_detectable_size_is_found_four_times_of_five():
    """It is planted in simulated calls: the share that is found lies where 120 tries can put 80 %."""
    spread = math.sqrt(1.5 * (0.01**2 + math.pi / 2 * 0.02**2 / TURNS) / 12)  # of what rounds() makes
    half = float(stats.t.ppf(1 - 0.001 / 2, 22)) * spread
    known = Interval(ratio=1.0, low=math.exp(-half), high=math.exp(half), error=0.001, se=spread, degrees=22)
    planted = 1 + detectable(known, 0.05)
    slower = sum(judged(planted, seed=seed).verdict == "slower" for seed in range(120))
    assert 0.69 < slower / 120 < 0.91


def test_head_and_base_exchanged_invert_the_ratio():
    made = rounds(np.random.default_rng(3), 6, ratio=1.1)
    turned = [Round(base_s=r.head_s, head_s=r.base_s, again_s=r.head_s) for r in made]
    there, back = estimate(made, 0.01)[0], estimate(turned, 0.01)[0]
    assert math.log(back.ratio) == pytest.approx(-math.log(there.ratio), abs=0.03)
