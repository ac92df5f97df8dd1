"""Scores of ranked candidates by MIND's definitions, and the file of ranks that its evaluation reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from effbench.common.bootstrap import DRAWS, PERCENTILES, Floats, Integers, resampled_sums
from effbench.common.files import replacing

METRICS = ("auc", "mrr", "ndcg5", "ndcg10")

_BLOCK = 2**15  # candidates at a time: bounded memory, and faster than more


def impression_scores(scores: Floats, labels: Integers, starts: Integers) -> dict[str, Floats]:
    """Return each metric of each impression [n]; NaN where the labels are all equal, or unknown (below 0).

    Impression i has the candidates ``starts[i]`` to ``starts[i + 1]``; label 1 is clicked, 0 is not. ``auc``
    is the share of pairs of a clicked and another candidate in which the clicked one has the higher score;
    ``mrr`` is the mean of 1 / rank over all clicked candidates (not only the first one: MIND's definition);
    ``ndcg5`` and ``ndcg10`` are the sum of 1 / log2(1 + rank) over the clicked ones among the first 5 or 10
    ranks, divided by the largest possible sum (the gain 2^label - 1 is the label).

    Tied scores are in random order: each metric is its expected value over all orders of tied candidates, in
    closed form. A constant score so gets an AUC of exactly one half. NaN is below all numbers.
    """
    longest = int(np.diff(starts).max(initial=0))
    weights = _rank_weights(longest)
    blocks = [
        _block_scores(scores[first:last], labels[first:last], part, weights)
        for first, last, part in _blocks(starts)
    ]
    return {name: np.concatenate([np.empty(0), *(block[name] for block in blocks)]) for name in METRICS}


def mean_scores(by_impression: Mapping[str, Floats]) -> dict[str, float]:
    """Return the mean of each metric over the impressions that have one, which ``impressions`` counts.

    ``impressions_left_out`` counts the others. Without any impression, a mean is NaN.
    """
    counted = ~np.isnan(by_impression[METRICS[0]])
    means = {
        name: float(by_impression[name][counted].mean()) if counted.any() else np.nan for name in METRICS
    }
    return {**means, "impressions": int(counted.sum()), "impressions_left_out": int((~counted).sum())}


def intervals(
    by_impression: Mapping[str, Floats], users: Integers, draws: int = DRAWS
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each mean, by a percentile bootstrap over users with a fixed seed.

    Users are drawn, with all of their impressions, since the impressions of one user are not independent.
    """
    counted = ~np.isnan(by_impression[METRICS[0]])
    if not counted.any():
        return dict.fromkeys(METRICS, (np.nan, np.nan))
    columns = [np.ones(int(counted.sum())), *(by_impression[name][counted] for name in METRICS)]
    totals = resampled(columns, users[counted], draws)
    low, high = np.percentile(totals[:, 1:] / totals[:, :1], PERCENTILES, axis=0)
    return {name: (float(low[i]), float(high[i])) for i, name in enumerate(METRICS)}


def resampled(columns: Sequence[Floats], users: Integers, draws: int = DRAWS) -> Floats:
    """Return [draws, columns]: the sum of each column [n] over users drawn with replacement, by a fixed seed.

    Row i of the columns belongs to user ``users[i]``. As many users are drawn as there are.
    """
    _, user = np.unique(users, return_inverse=True)
    return resampled_sums(np.stack([np.bincount(user, weights=column) for column in columns], axis=1), draws)


def ranks(scores: Floats, starts: Integers) -> Integers:
    """Return the rank of each candidate inside its impression, from 1 for the highest score.

    The ranks of an impression are a permutation; tied candidates keep their order. NaN is below all numbers.
    """
    placed = np.empty(len(scores), dtype=np.int32)
    for first, last, part in _blocks(starts):
        impression = _impression_of(part)
        order = np.lexsort((_falling(scores[first:last]), impression))
        placed[first + order] = np.arange(last - first) - part[impression] + 1
    return placed


def write_ranks(path: Path, ids: NDArray[np.bytes_], ranked: Integers, starts: Integers) -> None:
    """Write MIND's prediction file: a line ``<impression id> [rank,rank,...]`` for each impression in order.

    ``ids`` [n] are the impression ids as in the behaviours; ``ranked`` are the ranks of all candidates.
    """
    row = 0
    with replacing(path) as file:
        for first, last, part in _blocks(starts):
            texts = [str(rank) for rank in ranked[first:last].tolist()]
            for begin, end in itertools.pairwise(part.tolist()):
                file.write(b"%b [%b]\n" % (ids[row], ",".join(texts[begin:end]).encode()))
                row += 1


def _blocks(starts: Integers) -> Iterator[tuple[int, int, Integers]]:
    """Yield (first candidate, candidate after the last, starts inside) of blocks of whole impressions."""
    row, rows = 0, len(starts) - 1
    while row < rows:
        end = int(np.searchsorted(starts, starts[row] + _BLOCK, side="right")) - 1
        end = min(max(end, row + 1), rows)
        yield int(starts[row]), int(starts[end]), starts[row : end + 1] - starts[row]
        row = end


def _impression_of(starts: Integers) -> Integers:
    return np.repeat(np.arange(len(starts) - 1), np.diff(starts))


def _falling(scores: Floats) -> Floats:
    """Return what sorts the scores from the highest to the lowest, NaN last."""
    falling: Floats = -np.where(np.isnan(scores), -np.inf, scores)
    return falling


def _rank_weights(longest: int) -> dict[str, Floats]:
    """Return the sums of the first 0 to ``longest`` ranks' weights, for the metrics that have weights."""
    rank = np.arange(1, longest + 1)
    discount = 1 / np.log2(1 + rank)
    weights = {
        "mrr": 1 / rank,
        "ndcg5": np.where(rank <= 5, discount, 0),
        "ndcg10": np.where(rank <= 10, discount, 0),
    }
    return {name: np.concatenate(([0.0], np.cumsum(weight))) for name, weight in weights.items()}


def _block_scores(
    scores: Floats, labels: Integers, starts: Integers, weights: Mapping[str, Floats]
) -> dict[str, Floats]:
    rows = len(starts) - 1
    if not len(scores):
        return {name: np.full(rows, np.nan) for name in METRICS}
    impression = _impression_of(starts)
    falling = _falling(scores)
    order = np.lexsort((falling, impression))
    falling = falling[order]
    clicked = np.concatenate(([0], np.cumsum(labels[order] == 1)))  # among the candidates before a place
    new = np.concatenate(([True], (falling[1:] != falling[:-1]) | (impression[1:] != impression[:-1])))
    begin = np.flatnonzero(new)  # of each group of tied candidates
    end = np.append(begin[1:], len(scores))
    row = impression[begin]
    positives = clicked[end] - clicked[begin]
    size = end - begin

    def total(by_group: Floats | Integers) -> Floats:
        sums: Floats = np.bincount(row, weights=by_group, minlength=rows).astype(np.float64)
        return sums

    all_positives = clicked[starts[1:]] - clicked[starts[:-1]]
    all_negatives = np.diff(starts) - all_positives
    unknown = np.bincount(impression[labels < 0], minlength=rows) > 0
    valid = (all_positives > 0) & (all_negatives > 0) & ~unknown
    with np.errstate(divide="ignore", invalid="ignore"):
        above = begin - starts[row] - (clicked[begin] - clicked[starts[row]])  # not clicked, higher score
        wrong = total(positives * (above + (size - positives) / 2))
        results = {"auc": 1 - wrong / (all_positives * all_negatives)}
        for name, sums in weights.items():
            # Each clicked candidate of a group has each of the group's ranks with equal probability.
            mean = (sums[end - starts[row]] - sums[begin - starts[row]]) / size
            best = all_positives if name == "mrr" else sums[all_positives]
            results[name] = total(positives * mean) / best
    return {name: np.where(valid, value, np.nan) for name, value in results.items()}
