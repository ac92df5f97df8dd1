"""Ranking metrics are MIND's, ties count as their expectation, and ranks make a file that MIND reads."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score, roc_auc_score  # type: ignore[import-untyped]

from effbench.common import ranking
from effbench.common.ranking import (
    METRICS,
    impression_scores,
    intervals,
    mean_scores,
    ranks,
    write_ranks,
)

Impression = tuple[Sequence[float], Sequence[int]]


def ragged(impressions: Sequence[Impression]):
    """Scores, labels and starts of impressions."""
    starts = np.cumsum([0, *(len(scores) for scores, _ in impressions)])
    scores = np.array([score for scores, _ in impressions for score in scores])
    return scores, np.array([label for _, labels in impressions for label in labels]), starts


def scores_of(impressions: Sequence[Impression]) -> dict[str, list[float]]:
    return {name: found.tolist() for name, found in impression_scores(*ragged(impressions)).items()}


def official(labels: list[int]) -> list[float]:
    """The metrics of labels in the order of falling scores without ties, from their definitions."""
    clicked = [rank for rank, label in enumerate(labels, 1) if label]
    others = [rank for rank, label in enumerate(labels, 1) if not label]
    auc = np.mean([mine < other for mine in clicked for other in others])
    mrr = sum(1 / rank for rank in clicked) / len(clicked)

    def ndcg(k):
        gain = sum(1 / np.log2(1 + rank) for rank in clicked if rank <= k)
        return gain / sum(1 / np.log2(1 + rank) for rank in range(1, min(k, len(clicked)) + 1))

    return [float(auc), mrr, ndcg(5), ndcg(10)]


def mixed(impression: Impression) -> bool:
    return len(set(impression[1])) == 2


def impressions_of(most: int, values: st.SearchStrategy[float]) -> st.SearchStrategy[Impression]:
    pairs = st.lists(st.tuples(values, st.integers(0, 1)), min_size=2, max_size=most)
    return pairs.map(lambda rows: ([row[0] for row in rows], [row[1] for row in rows])).filter(mixed)


def test_a_ranking_worked_out_by_hand():
    # By falling score: clicked, not, clicked, not. Pairs in order: 3 of 4.
    found = scores_of([([0.1, 0.9, 0.4, 0.2], [0, 1, 0, 1])])
    assert found["auc"] == [pytest.approx(1 - 1 / 4)]
    assert found["mrr"] == [pytest.approx((1 + 1 / 3) / 2)]
    best = 1 + 1 / np.log2(3)
    assert found["ndcg5"] == found["ndcg10"] == [pytest.approx((1 + 1 / 2) / best)]


def test_only_the_first_ranks_count_in_ndcg():
    scores = list(range(12, 0, -1))
    found = scores_of([(scores, [0] * 6 + [1] + [0] * 5), (scores, [0] * 10 + [1, 0])])
    assert found["ndcg5"] == [0, 0]
    assert found["ndcg10"] == [pytest.approx(1 / 3), 0]
    assert found["mrr"] == [pytest.approx(1 / 7), pytest.approx(1 / 11)]


@given(impressions_of(5, st.sampled_from([0.0, 1.0, 2.0, -np.inf])))
def test_a_tie_counts_as_the_mean_over_all_orders(impression):
    scores, labels = impression
    orders = [
        official([labels[i] for i in order])
        for order in itertools.permutations(range(len(labels)))
        if all(scores[one] >= scores[other] for one, other in itertools.pairwise(order))
    ]
    found = [found[0] for found in scores_of([impression]).values()]
    assert found == pytest.approx(np.mean(orders, axis=0))


@given(st.lists(impressions_of(25, st.floats(-9, 9, width=16)), min_size=1, max_size=4))
def test_the_metrics_are_those_of_scikit_learn(impressions):
    found = scores_of(impressions)
    for i, (scores, labels) in enumerate(impressions):
        assert found["auc"][i] == pytest.approx(roc_auc_score(labels, scores))
        for k in (5, 10):
            assert found[f"ndcg{k}"][i] == pytest.approx(ndcg_score([labels], [scores], k=k))


def test_what_has_no_order_is_left_out_and_counted():
    impressions: Sequence[Impression] = [
        ([1, 2], [1, 1]), ([1, 2], [0, 0]), ([1, 2], [-1, -1]), ([], []), ([1, 2], [0, 1]), ([3], [1]),
    ]  # fmt: skip
    by_impression = impression_scores(*ragged(impressions))
    assert np.flatnonzero(~np.isnan(by_impression["auc"])).tolist() == [4]
    means = mean_scores(by_impression)
    assert means == {**dict.fromkeys(METRICS, 1.0), "impressions": 1, "impressions_left_out": 5}
    nothing = impression_scores(*ragged(impressions[:4]))
    assert np.isnan(mean_scores(nothing)["auc"])
    assert np.isnan(intervals(nothing, np.zeros(4, dtype=int))["auc"]).all()
    assert mean_scores(impression_scores(*ragged([])))["impressions"] == 0


def test_what_is_not_a_number_is_the_lowest():
    found = scores_of([([np.nan, 0, np.nan], [1, 0, 0]), ([np.nan, np.nan], [1, 0])])
    assert found["auc"] == [0.25, 0.5]
    assert ranks(np.array([np.nan, -np.inf, 5]), np.array([0, 3])).tolist() == [2, 3, 1]


def random_impressions(count: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    starts = np.concatenate(([0], np.cumsum(rng.integers(0, 40, size=count))))
    scores = rng.integers(0, 30, size=starts[-1]).astype(np.float32)
    return scores, rng.integers(0, 2, size=starts[-1]), starts


def test_blocks_change_nothing(monkeypatch):
    scores, labels, starts = random_impressions(200)
    whole, ranked = impression_scores(scores, labels, starts), ranks(scores, starts)
    for block in (1, 50, 333):
        monkeypatch.setattr(ranking, "_BLOCK", block)
        for name, found in impression_scores(scores, labels, starts).items():
            np.testing.assert_array_equal(found, whole[name])
        np.testing.assert_array_equal(ranks(scores, starts), ranked)


def test_ranks_are_permutations_in_the_order_of_scores_and_then_of_the_input():
    scores, _, starts = random_impressions(100)
    ranked = ranks(scores, starts)
    for first, last in itertools.pairwise(starts):
        order = sorted(range(first, last), key=lambda i: (-scores[i], i))
        assert ranked[order].tolist() == list(range(1, last - first + 1))


def test_the_prediction_file_is_as_mind_reads_it(tmp_path, monkeypatch):
    monkeypatch.setattr(ranking, "_BLOCK", 4)
    scores, _, starts = ragged([([0.1, 0.7, 0.2], [0] * 3), ([5.0], [0]), ([1.0, 1.0], [0] * 2)])
    ids = np.array([b"7", b"007", b"a"])
    write_ranks(tmp_path / "prediction.txt", ids, ranks(scores, starts), starts)
    text = (tmp_path / "prediction.txt").read_text()
    assert text == "7 [3,1,2]\n007 [1]\na [1,2]\n"
    for line, length in zip(text.splitlines(), (3, 1, 2), strict=True):
        impression, ranked = line.split()  # one space, as in the official evaluation
        assert impression
        assert sorted(json.loads(ranked)) == list(range(1, length + 1))


def test_intervals_are_over_users():
    rng = np.random.default_rng(1)
    means = rng.uniform(0.3, 0.9, size=200)
    # Ten equal impressions of a user say no more than one of them.
    one = dict.fromkeys(METRICS, means)
    ten = dict.fromkeys(METRICS, np.repeat(means, 10))
    low, high = intervals(one, np.arange(200))["auc"]
    assert intervals(ten, np.repeat(np.arange(200), 10))["auc"] == pytest.approx((low, high))
    error = means.std() / np.sqrt(200)
    assert low == pytest.approx(means.mean() - 1.96 * error, abs=0.3 * error)
    assert high == pytest.approx(means.mean() + 1.96 * error, abs=0.3 * error)
    assert intervals(one, np.arange(200))["auc"] == (low, high)
    # Unequal users and an impression left out: the mean is over impressions.
    values = np.array([1.0, 1.0, 1.0, 0.0, np.nan])
    spread = intervals(dict.fromkeys(METRICS, values), np.array([7, 7, 7, 9, 9]))["mrr"]
    assert spread == (0.0, 1.0)
