"""What seeds can tell: intervals cover, verdicts are seldom wrong, the advised number of seeds is enough."""

from __future__ import annotations

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from frames import ORIGIN, accuracy_records, raw
from rich.console import Console
from scipy import stats

from effbench.common.spec import Cell, Record, UsageError
from effbench.records.analyse import seeds
from effbench.records.analyse.best_at_end import best_at_end
from effbench.records.analyse.scores import within_scale
from effbench.show import comparison_tables as show_seeds
from effbench.show.blocks import renderable


def frame(
    scores: dict[str, list[float]], task: str = "listops", seq_len: int = 64, **setting: Any
) -> pd.DataFrame:
    """A raw frame of trainings: scores by mechanism and repeat."""
    return raw(
        [
            Record(
                cell=Cell(
                    mechanism=mechanism, probe="accuracy", scope="encoder", mode="train", repeat=repeat,
                    task=task, seq_len=seq_len, **setting,
                ),
                status="ok", values={"accuracy": score, "test_macro_f1": score / 2}, **ORIGIN,
            )
            for mechanism, line in scores.items()
            for repeat, score in enumerate(line)
        ]
    )  # fmt: skip


BY_HAND = frame(
    {
        "vanilla": [0.50, 0.53, 0.51, 0.56],
        "fastformer": [0.52, 0.54, 0.54, 0.57],
        "linear": [0.3, 0.31, 0.33, 0.36],
    }
)


def test_scores_and_differences_are_scipys():
    scores = seeds.seed_scores(BY_HAND).set_index("mechanism")
    line = np.array([0.50, 0.53, 0.51, 0.56])
    low, high = stats.t.interval(0.95, 3, line.mean(), stats.sem(line))
    assert scores.loc["vanilla", ["mean", "std", "low", "high"]].tolist() == pytest.approx(
        [line.mean(), line.std(ddof=1), low, high]
    )
    assert scores.loc["vanilla", "seeds"] == 4
    compared = seeds.compare(BY_HAND).set_index("mechanism")
    assert list(compared.index) == ["vanilla", "linear"]
    expected = stats.ttest_rel(line, [0.52, 0.54, 0.54, 0.57])
    interval = expected.confidence_interval(0.95)
    assert compared.loc["vanilla", ["difference", "low", "high", "p"]].tolist() == pytest.approx(
        [-0.0175, interval.low, interval.high, expected.pvalue]
    )
    # by hand: p = 0.0384 is the larger of two and keeps its level, the smaller is doubled
    assert compared.loc["vanilla", "p_holm"] == pytest.approx(compared.loc["vanilla", "p"])
    assert compared.loc["linear", "p_holm"] == pytest.approx(2 * compared.loc["linear", "p"])
    assert list(compared["verdict"]) == ["worse", "worse"]
    halves = seeds.compare(BY_HAND, metric="test_macro_f1").set_index("mechanism")
    assert halves.loc["vanilla", "difference"] == pytest.approx(-0.00875)
    assert halves.loc["vanilla", "p"] == pytest.approx(expected.pvalue)


def test_holm_by_hand():
    corrected, levels = seeds.holm([0.04, 0.01, math.nan, 0.03], alpha=0.05)
    np.testing.assert_allclose(corrected, [0.09, 0.04, np.nan, 0.09])  # 3 * 0.03 is carried over 2 * 0.04
    np.testing.assert_allclose(levels, [0.05 / 2, 0.05 / 4, 0.05, 0.05 / 3])
    assert seeds.holm([]) == ([], [])


def test_comparing_the_other_way_round_turns_signs_and_verdicts():
    there = seeds.compare(BY_HAND, against="vanilla").set_index("mechanism").loc["fastformer"]
    back = seeds.compare(BY_HAND).set_index("mechanism").loc["vanilla"]
    assert (there["difference"], there["low"], there["high"]) == (
        -back["difference"],
        -back["high"],
        -back["low"],
    )
    assert (there["p"], there["seeds_to_tell"]) == (back["p"], back["seeds_to_tell"])
    assert (there["verdict"], back["verdict"]) == ("better", "worse")
    every = seeds.compare(BY_HAND, against=None)
    assert list(zip(every["mechanism"], every["against"], strict=True)) == [
        ("fastformer", "linear"), ("fastformer", "vanilla"), ("linear", "vanilla"),
    ]  # fmt: skip
    assert set(every["comparisons"]) == {3}


def test_intervals_cover_the_mean_as_often_as_they_say():
    rng = np.random.default_rng(1)
    trials, hits = 600, 0
    for _ in range(trials):
        test = seeds.paired(list(rng.normal(0.3, 2.0, 4)))
        hits += test["low"] <= 0.3 <= test["high"]
    assert abs(hits / trials - 0.95) < 3.5 * math.sqrt(0.95 * 0.05 / trials)


@pytest.mark.slow
def test_a_table_without_differences_is_seldom_said_to_have_one():
    """400 tables of six mechanisms against a seventh: at most 5 % hold a wrong verdict."""
    rng = np.random.default_rng(2)
    wrong = uncorrected = 0
    for _ in range(400):
        scores = rng.normal(0.5, 0.02, (7, 5)) + rng.normal(0, 0.03, 5)
        family = [seeds.paired(list(line - scores[0])) for line in scores[1:]]
        corrected, _ = seeds.holm([one["p"] for one in family])
        wrong += min(corrected) <= 0.05
        uncorrected += min(one["p"] for one in family) <= 0.05
    assert wrong / 400 <= 0.05 + 2.5 * math.sqrt(0.05 * 0.95 / 400)
    assert uncorrected / 400 > 0.1, "the simulation would show an error if there was no correction"


@pytest.mark.parametrize(("effect", "alpha"), [(0.5, 0.05), (1.0, 0.05 / 6), (3.0, 0.05 / 6)])
def test_the_advised_number_of_seeds_finds_the_difference_four_times_in_five(effect, alpha):
    count = seeds.seeds_needed(effect, alpha=alpha)
    assert count is not None
    rng = np.random.default_rng(3)
    simulated = stats.ttest_1samp(rng.normal(effect, 1.0, (4000, count)), 0, axis=1).pvalue <= alpha
    # a number of few seeds can be well above 80 %, since one fewer would be below
    assert 0.78 <= simulated.mean() <= (0.86 if count > 10 else 1)
    fewer = stats.ttest_1samp(rng.normal(effect, 1.0, (4000, count - 1)), 0, axis=1).pvalue <= alpha
    assert fewer.mean() < 0.8 + 0.02
    assert seeds.power(effect, count, alpha=alpha) == pytest.approx(simulated.mean(), abs=0.03)


def test_the_advised_number_falls_with_the_effect_and_ends():
    needed = [seeds.seeds_needed(effect, alpha=0.05 / 6) for effect in (0.5, 1, 2, 4, 30, 1e6)]
    counts = [count for count in needed if count is not None]
    assert needed == counts == sorted(counts, reverse=True)
    assert all(2 <= count <= 100 for count in counts)
    assert seeds.seeds_needed(0.1, alpha=0.05) is None
    assert seeds.seeds_needed(0.0, alpha=0.05) is None


def test_what_one_seed_can_tell_is_nothing():
    one = seeds.compare(frame({"vanilla": [0.9], "fastformer": [0.1]})).iloc[0]
    assert one["verdict"] == "one seed in common: the training noise is unknown"
    assert one["difference"] == pytest.approx(0.8)
    assert one[["low", "high", "p", "p_holm"]].isna().all()
    assert one["seeds_to_tell"] == ""
    score = seeds.seed_scores(frame({"vanilla": [0.9]})).iloc[0]
    assert score["mean"] == 0.9
    assert score[["std", "low", "high"]].isna().all()


def test_the_interval_of_a_share_ends_at_1_and_that_of_a_perplexity_does_not():
    shares = frame({"vanilla": [0.9, 1.0, 1.0]})
    assert seeds.seed_scores(shares).iloc[0]["high"] == 1.0
    assert within_scale((1.9, 1.8, 2.0), "accuracy")[0] == 1.9, "a mean is never changed"
    numbers = seeds.seed_scores(shares.assign(test_perplexity=shares["accuracy"]), metric="test_perplexity")
    assert numbers.iloc[0]["high"] == pytest.approx(1.11, abs=0.01)


def test_differences_without_spread_are_no_proof():
    same = seeds.compare(frame({"vanilla": [0.5, 0.6, 0.7], "fastformer": [0.4, 0.5, 0.6]})).iloc[0]
    assert same["verdict"] == "the same difference at every seed: its noise is unknown"
    equal = seeds.compare(frame({"vanilla": [0.5, 0.6, 0.7], "fastformer": [0.5, 0.6, 0.7]})).iloc[0]
    assert (equal["verdict"], equal["p"]) == ("no significant difference at this number of seeds", 1.0)
    assert equal["seeds_to_tell"] == "more than 100"


def test_pairs_share_the_seed_of_the_data_too():
    ours, theirs = frame({"vanilla": [0.5, 0.6]}), frame({"fastformer": [0.4, 0.6]}, seed=100)
    assert seeds.compare(pd.concat([ours, theirs])).iloc[0]["verdict"] == "no seed in common"


def test_settings_are_not_mixed_and_every_length_is_a_table():
    compared = seeds.compare(raw(accuracy_records(lengths=(64, 128))))
    assert compared.groupby("seq_len").size().to_dict() == {64: 5, 128: 5}
    assert set(compared["comparisons"]) == {5}
    other = [
        dataclasses.replace(record, cell=dataclasses.replace(record.cell, d_model=256))
        for record in accuracy_records(("vanilla",))
    ]
    apart = raw(accuracy_records(("fastformer",)), other)
    assert seeds.compare(apart).empty


def test_trainings_that_cannot_be_told_apart_are_refused():
    with pytest.raises(UsageError, match="vanilla on listops at 64, repeat 0, was measured more than once"):
        seeds.seed_scores(pd.concat([BY_HAND, BY_HAND]))
    with pytest.raises(UsageError, match="'luna' is not among the trainings: fastformer, linear, vanilla"):
        seeds.compare(BY_HAND, against="luna")


def test_no_trainings_no_rows():
    assert seeds.compare(raw([])).empty
    assert seeds.seed_scores(BY_HAND, metric="bleu").empty


def test_a_comparison_is_of_accuracy_and_macro_f1_alike():
    compared = show_seeds.comparison(BY_HAND, "fastformer")
    assert compared.groupby("metric")["mechanism"].agg(set).to_dict() == {
        "accuracy": {"vanilla", "linear"},
        "test_macro_f1": {"vanilla", "linear"},
    }
    every = show_seeds.comparison(BY_HAND, "all")
    pairs = {("fastformer", "linear"), ("fastformer", "vanilla"), ("linear", "vanilla")}
    assert set(zip(every["mechanism"], every["against"], strict=True)) == pairs


def test_its_table_prints_the_means_the_verdicts_and_the_seeds_that_would_tell():
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(renderable(show_seeds.comparison_blocks(BY_HAND, "fastformer")))
    text = console.export_text()
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith(("linear ", "vanilla "))}
    accuracy = seeds.compare(BY_HAND).set_index("mechanism")
    # each mechanism has a row of either metric, and macro F1 was half of accuracy: the last ones are left
    assert f"{100 * accuracy.loc['linear', 'difference'] / 2:+.2f}" in rows["linear"]
    assert rows["linear"].rstrip().endswith("worse")
    assert (accuracy.loc["vanilla", "verdict"] == seeds.NOT_SIGNIFICANT) == rows["vanilla"].rstrip().endswith(
        "n.s."
    )
    assert "accuracy in points" in text
    assert "macro F1 in points" in text
    assert "2 differences significant" in text


@pytest.mark.parametrize(
    ("records", "against", "complaint"),
    [
        (BY_HAND, "bigbrid", "'bigbrid' is not among the trainings"),
        (raw([]), "all", "no trainings to compare"),
    ],
)
def test_what_cannot_be_compared_is_said(records, against, complaint):
    with pytest.raises(UsageError, match=complaint):
        show_seeds.comparison(records, against)


def test_a_lower_perplexity_is_better_and_a_higher_accuracy():
    rows = BY_HAND.assign(test_perplexity=BY_HAND["accuracy"] * 10, bits_per_byte=BY_HAND["accuracy"])
    of_all = {
        at: seeds.compare(rows, metric=at, against=None).set_index(["mechanism", "against"])
        for at in ("accuracy", "test_perplexity", "bits_per_byte")
    }
    for pair, row in of_all["accuracy"].iterrows():
        opposite = {seeds.BETTER: seeds.WORSE, seeds.WORSE: seeds.BETTER}.get(row["verdict"], row["verdict"])
        assert of_all["test_perplexity"].loc[pair, "verdict"] == opposite
        assert of_all["bits_per_byte"].loc[pair, "verdict"] == opposite
    assert {seeds.BETTER, seeds.WORSE} & set(of_all["accuracy"]["verdict"])


def test_a_mechanism_is_compared_on_the_tasks_that_it_was_trained_on():
    other = frame({"fastformer": [0.5, 0.6], "nrms": [0.7, 0.8]}, task="news")
    other = other.drop(columns=["test_macro_f1"]).rename(columns={"accuracy": "auc"}).assign(metric="auc")
    mixed = pd.concat([BY_HAND, other], ignore_index=True)
    found = show_seeds.comparison(mixed, "nrms")
    assert set(found["task"]) == {"news"}
    assert set(show_seeds.comparison(mixed, "fastformer")["task"]) == {"news", "listops"}
    with pytest.raises(UsageError, match="'luna' is not among the trainings"):
        show_seeds.comparison(mixed, "luna")


@pytest.mark.parametrize(
    ("best", "epochs", "warned"),
    [
        ([3.0, 3.0, 2.5], [3.0, 3.0, 3.0], True),
        ([3.0, 2.5], [3.0, 3.0], False),  # half of them: it may be chance
        ([2.0, 2.0, 2.5], [3.0, 2.5, 3.0], False),
        ([4.5, 2.0, 4.5], [4.5, 3.0, 4.5], True),  # ended by its seconds
        ([], [], False),
    ],
)
def test_trainings_that_ended_while_they_learned_are_said(best, epochs, warned):
    scores = dict(zip(("vanilla", "linear", "luna"), ([0.5], [0.6], [0.7]), strict=True))
    table = frame({name: scores[name] for name, _ in zip(scores, best, strict=False)})
    if best:
        table = table.assign(best_epoch=best, epochs=epochs)
    warning = best_at_end(table)
    assert warning.startswith(f"2 of {len(best)} trainings had the best") if warned else warning == ""
    assert best_at_end(table.assign(status="crashed")) == ""
    if best:
        (block, *_) = show_seeds.comparison_blocks(table, "all")
        assert list(block.warnings) == ([warning] if warned else [])
        other = frame(scores, seq_len=128).assign(best_epoch=1.0, epochs=3.0)
        blocks = show_seeds.comparison_blocks(pd.concat([table, other], ignore_index=True), "all")
        assert sum(bool(block.warnings) for block in blocks) == (2 if warned else 0), "one for each score"
