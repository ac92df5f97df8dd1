"""Growth against what is declared, and crossovers: planted power laws, nothing extrapolated."""

from __future__ import annotations

import io
import json
from functools import cache

import numpy as np
import pandas as pd
import pytest
from frames import cost_records, raw
from rich.console import Console

from effbench.common.growth import Growth, slope
from effbench.records.analyse.complexity import exponents
from effbench.records.analyse.crossover import COLUMNS, crossovers
from effbench.show.blocks import renderable
from effbench.show.complexity_tables import as_json, complexity_blocks

LENGTHS = (128, 256, 512, 1024, 2048)


@cache
def timed(names, lengths, repeats):
    """The raw frame that ``planted`` writes its times into."""
    frame = raw(cost_records(names, lengths, repeats=repeats, modes=("forward",)))
    return frame[frame["probe"] == "time"].reset_index(drop=True)


def planted(costs, lengths=LENGTHS, repeats=5, noise=0.01, seed=0, drift=0.0):
    """A raw frame whose times follow ``costs[name](n)``, noise by process and drift by repeat."""
    rng = np.random.default_rng(seed)
    frame = timed(tuple(costs), tuple(lengths), repeats).copy()
    shared = rng.normal(0, drift, (len(lengths), repeats))
    samples, medians = [], []
    for row in frame.itertuples():
        offset = rng.normal(0, noise) + shared[lengths.index(row.seq_len), row.repeat]
        times = list(costs[row.mechanism](row.seq_len) * np.exp(offset + rng.normal(0, noise / 3, 9)))
        samples.append(times)
        medians.append(float(np.median(times)))
    return frame.assign(samples_time_s=samples, time_s=medians)


def declaring(frame, **orders):
    frame = frame.copy()
    frame["declared_order"] = [orders.get(name) for name in frame["mechanism"]]
    return frame


@pytest.mark.parametrize("declared", ["N", "N^1.5", "N^2", "N log N"])
@pytest.mark.parametrize("truth", ["N", "N^1.5", "N^2", "N log N"])
def test_a_planted_growth_is_held_against_what_is_declared(truth, declared):
    growth = Growth.parse(truth)
    frame = declaring(planted({"mine": lambda n: 1e-6 * growth.at(n)}), mine=declared)
    (row,) = exponents(frame, "time_s").itertuples()
    expected = growth.exponent(LENGTHS[-4:])
    assert row.exponent == pytest.approx(expected, abs=0.03)
    assert row.exponent_low <= expected <= row.exponent_high
    gap = expected - Growth.parse(declared).exponent(LENGTHS[-4:])
    wanted = "agrees" if abs(gap) < 0.1 else "grows faster" if gap > 0 else "grows slower"
    if 0.1 < abs(gap) < 0.25:  # N log N against N: so close to the tolerance that either may be said
        assert row.verdict in ("agrees", "inconclusive", wanted)
    else:
        assert row.verdict == wanted


def test_a_wrong_claim_reads_as_one_plain_sentence():
    frame = declaring(planted({"mine": lambda n: 1e-9 * n**1.9}, noise=0.001), mine="N")
    (row,) = exponents(frame, "time_s").itertuples()
    assert row.statement.startswith("mine, forward: time grows as N^1.90 [1.")
    assert row.statement.endswith("from 256 to 2048, declared N: it grows faster than declared")


def test_nothing_declared_is_held_against_nothing():
    (row,) = exponents(planted({"mine": lambda n: 1e-6 * n}), "time_s").itertuples()
    assert (row.declared, row.verdict) == ("", "")
    assert "declared" not in row.statement


def test_noise_that_hides_the_exponent_is_said():
    frame = declaring(planted({"mine": lambda n: 1e-6 * n}, noise=0.4, repeats=3), mine="N")
    (row,) = exponents(frame, "time_s").itertuples()
    assert row.verdict == "inconclusive"


def test_a_curve_that_is_no_power_law_yet_is_said():
    frame = planted({"mine": lambda n: 1e-3 + 1e-9 * n**2}, lengths=(128, 512, 2048, 8192))
    (row,) = exponents(frame, "time_s").itertuples()
    assert "the exponent is still changing" in row.statement


@pytest.mark.slow
def test_the_interval_of_an_exponent_covers_the_truth():
    hits = 0
    for seed in range(100):
        frame = planted({"mine": lambda n: 1e-6 * n**1.3}, LENGTHS[1:], noise=0.05, repeats=4, seed=seed)
        (row,) = exponents(frame, "time_s").itertuples()
        hits += row.exponent_low <= 1.3 <= row.exponent_high
    assert hits >= 90


@pytest.mark.parametrize("repeats", [1, 2])
def test_few_repeats_make_the_interval_wide_enough(repeats):
    hits = 0
    for seed in range(50):
        frame = planted(
            {"mine": lambda n: 1e-6 * n**1.3}, LENGTHS[1:], noise=0.03, repeats=repeats, seed=seed
        )
        (row,) = exponents(frame, "time_s").itertuples()
        hits += row.exponent_low <= 1.3 <= row.exponent_high
    assert hits >= 42  # at a coverage of 95 %, 41 or fewer occur less than once in 1,000 times


def test_n_log_n_is_not_held_against_length_1():
    lengths = (1, 2, 4, 8)
    frame = declaring(planted({"mine": lambda n: 1e-6 * (1 + n)}, lengths), mine="N log N")
    (row,) = exponents(frame, "time_s").itertuples()
    assert row.declared_exponent == pytest.approx(Growth.parse("N log N").exponent(lengths[1:]))
    assert np.isnan(Growth.parse("N log N").exponent((1, 8)))
    assert Growth.parse("N").exponent((1, 8)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "power", "logs"), [(2, 2, 0), ("N", 1, 0), ("N^1.5", 1.5, 0), ("N log N", 1, 1)]
)
def test_growths_are_read_and_written(text, power, logs):
    growth = Growth.parse(text)
    assert (growth.power, growth.logs) == (power, logs)
    assert Growth.parse(str(growth)) == growth
    assert slope([8, 16, 32], [n**2 for n in (8, 16, 32)]) == pytest.approx(2)
    for wrong in ("n", "N^", "N^2 log", "log N", True, -1):
        with pytest.raises(ValueError, match="is not a growth in N"):
            Growth.parse(wrong)


CROSSING = {"a": lambda n: 4.5e-6 * n, "b": lambda n: 1e-8 * n**2}  # at N = 450


@pytest.mark.slow
def test_a_crossover_is_found_with_its_interval():
    hits, widths = 0, []
    for seed in range(80):
        (row,) = crossovers(planted(CROSSING, noise=0.03, repeats=4, seed=seed, drift=0.2)).itertuples()
        assert (row.faster_before, row.faster_after) == ("b", "a")
        assert 128 <= row.crossover_low <= row.crossover <= row.crossover_high <= 1024
        hits += row.crossover_low <= 450 <= row.crossover_high
        widths.append(row.crossover_high / row.crossover_low)
    assert hits >= 72
    assert np.median(widths) < 1.25, "drift that both share does not widen it"
    assert row.statement.startswith("a is faster than b from N = 4")


def test_no_crossover_is_extrapolated():
    (row,) = crossovers(planted(CROSSING, lengths=(16, 32, 64))).itertuples()
    assert np.isnan(row.crossover)
    assert row.statement == "b is faster than a from 16 to 64: no crossover within the measured lengths"
    (row,) = crossovers(planted(CROSSING, lengths=(512,), noise=0.001)).itertuples()
    assert row.statement == "a is faster than b at 512: no crossover within the measured lengths"


def test_equal_mechanisms_rarely_differ_significantly():
    different = 0
    for seed in range(30):
        frame = planted({"a": lambda n: 1e-6 * n, "b": lambda n: 1e-6 * n}, (128, 256), seed=seed)
        (row,) = crossovers(frame).itertuples()
        different += row.statement != "no significant difference between a and b from 128 to 256"
    assert different <= 6, "two lengths at 95 % each"


def test_two_crossings_are_two_rows():
    costs = {"a": lambda n: 1e-6 * n, "b": lambda n: 1e-6 * n * (2.0 if 200 < n < 1500 else 0.5)}
    rows = crossovers(planted(costs))
    assert list(rows["faster_after"]) == ["a", "b"]
    assert rows["crossover"].is_monotonic_increasing


@pytest.mark.parametrize("apart", [False, True])
def test_one_repeat_names_no_crossover(apart):
    frame = planted(CROSSING, noise=0.02, repeats=1)
    if apart:  # the one repeat of each is not the other's
        frame.loc[frame["mechanism"] == "a", "repeat"] = 1
    (row,) = crossovers(frame).itertuples()
    assert pd.isna(row.crossover)
    assert row.statement == "a and b were not compared from 128 to 2048: one repeat has no interval"


def test_a_length_with_one_repeat_is_left_out_and_named():
    frame = planted(CROSSING, noise=0.002, repeats=3)
    frame = frame[(frame["seq_len"] != 128) | (frame["repeat"] == 0)]
    (row,) = crossovers(frame).itertuples()
    assert row.crossover_low <= 450 <= row.crossover_high
    assert row.first == 256
    assert row.statement.endswith("; not compared at 128: one repeat has no interval")


@pytest.mark.slow
def test_no_common_repeat_still_covers_the_truth():
    hits = 0
    for seed in range(40):
        frame = planted(CROSSING, noise=0.03, repeats=4, seed=seed)
        frame.loc[frame["mechanism"] == "a", "repeat"] += 10
        (row,) = crossovers(frame).itertuples()
        hits += row.crossover_low <= 450 <= row.crossover_high
    assert hits >= 36


def test_an_end_too_close_to_tell_rules_no_crossover_out():
    costs = {"a": lambda n: 1e-6 * n, "b": lambda n: 1e-6 * n * (1.5 if n < 200 else 1.0)}
    frame = planted(costs, lengths=(128, 256), noise=0.02, seed=1)
    (row,) = crossovers(frame).itertuples()
    assert (row.faster_before, row.faster_after) == ("a", None)
    assert (
        row.statement
        == "a is faster than b at 128; a crossover is possible: no significant difference at 256"
    )


def test_what_follows_a_crossover_is_not_claimed_where_it_is_too_close():
    costs = {"a": lambda n: 1e-6 * n, "b": lambda n: 1e-6 * n * {128: 1.5, 256: 0.7}.get(n, 1.0)}
    (row,) = crossovers(planted(costs, lengths=(128, 256, 512), noise=0.02, seed=1)).itertuples()
    assert row.statement.startswith("b is faster than a from N = 1")
    assert row.statement.endswith("]; no significant difference at 512")


def test_an_interval_that_leaves_what_was_measured_is_open():
    # the repeats of either end agree on who is faster but not on by how much, hence not on where they cross
    frame = planted({"a": lambda n: 1e-6 * n, "b": lambda n: 1e-6 * n}, (128, 4096), repeats=3, noise=1e-4)
    logs = {128: (-0.28, -0.4, -0.52), 4096: (4.0, 2.0, 3.0)}
    for i, row in enumerate(frame.itertuples()):
        if row.mechanism == "a":
            frame.at[i, "samples_time_s"] = [
                s * np.exp(logs[row.seq_len][row.repeat]) for s in row.samples_time_s
            ]
    (row,) = crossovers(frame).itertuples()
    assert row.faster_after == "b"
    assert np.isnan(row.crossover_low)
    assert 128 < row.crossover < row.crossover_high < 4096
    assert "[< 128, " in row.statement
    assert json.loads(as_json(frame))["crossovers"][0]["crossover_low"] is None


def test_codes_are_lines_of_their_own():
    frame = planted(CROSSING, noise=0.01)
    slow = frame[frame["mechanism"] == "a"].assign(code="other")
    slow["samples_time_s"] = [[10 * s for s in samples] for samples in slow["samples_time_s"]]
    both = pd.concat([frame, slow], ignore_index=True)
    crossings = crossovers(both)
    code = frame["code"].iloc[0]
    assert set(crossings["first_label"]) == {f"a ({code})", "a (other)"}
    assert crossings["crossover"].notna().sum() == 1
    pd.testing.assert_frame_equal(crossings, crossovers(both[::-1].reset_index(drop=True)))


def test_only_common_lengths_count_and_failures_are_left_out():
    frame = planted(CROSSING)
    frame.loc[(frame["mechanism"] == "a") & (frame["seq_len"] > 256), "status"] = "oom"
    (row,) = crossovers(frame).itertuples()
    assert (row.first, row.last) == (128, 256)
    assert "no crossover" in row.statement
    one = frame[frame["mechanism"] == "a"]
    assert crossovers(one).empty
    assert list(crossovers(raw()).columns) == COLUMNS


def test_the_order_of_records_does_not_matter():
    frame = planted(CROSSING, noise=0.03)
    shuffled = frame.sample(frac=1, random_state=1).reset_index(drop=True)
    pd.testing.assert_frame_equal(crossovers(frame), crossovers(shuffled))
    pd.testing.assert_frame_equal(
        exponents(frame, "time_s"), exponents(shuffled, "time_s").sort_values("mechanism", ignore_index=True)
    )


def test_the_tables_say_what_the_frames_hold():
    frame = declaring(planted(CROSSING, noise=0.001), a="N", b="N")
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable(complexity_blocks(frame)))
    text = console.export_text()
    assert "NO, faster" in text
    assert "b, forward: time grows as N^2.00" in text
    assert "a is faster than b from N = 4" in text
    exported = json.loads(as_json(frame))
    assert {row["verdict"] for row in exported["exponents"]["time_s"]} == {"agrees", "grows faster"}
    assert exported["crossovers"][0]["crossover"] == pytest.approx(450, rel=0.02)
    empty = Console(width=80, record=True, file=io.StringIO())
    empty.print(renderable(complexity_blocks(frame[frame["seq_len"] < 0])))
    assert "fewer than three lengths" in empty.export_text()


def test_two_lengths_have_crossovers_and_no_table_of_growth():
    frame = planted(CROSSING, noise=0.001)
    two = frame[frame["seq_len"].isin(sorted(frame["seq_len"].unique())[:2])]
    growth, crossing = complexity_blocks(two)
    assert (growth.head, growth.rows) == ((), ())
    assert growth.notes == ["no growth rates: fewer than three lengths were measured"]
    assert crossing.notes[0] == "crossovers:"


def test_memory_is_held_against_its_own_declaration():
    frame = raw(cost_records(("vanilla",), LENGTHS, modes=("forward",)))  # memory and FLOPs as N^2
    frame["declared_order"], frame["declared_memory_order"] = "N^2", "N"
    (row,) = exponents(frame, "flops").itertuples()
    assert (row.declared, row.verdict) == ("N^2", "agrees")
    (row,) = exponents(frame, "peak_bytes").itertuples()
    assert (row.declared, row.verdict) == ("N", "grows faster")
