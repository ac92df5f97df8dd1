"""Scores of single documents: differences of mechanisms paired by document, with intervals over documents."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.bootstrap import DRAWS, PERCENTILES, Floats, resampled_sums
from effbench.records.analyse.scores import scores_of
from effbench.records.analyse.seeds import NO_SEED, SETTING, families, holm, trainings
from effbench.records.analyse.statistics import LEVEL

# With fewer, percentile intervals miss the true difference more often than they say.
FEWEST = 100

HIGHER, LOWER = "higher", "lower"
NOT_SIGNIFICANT = "no significant difference over documents"
TOO_FEW = f"fewer than {FEWEST} documents"
NO_SCORES = "no scores of single documents"
SEVERAL_DATA = "several seeds of the data: their documents can differ"

_COMPARISON = ["documents", "seeds", "difference", "low", "high", "p", "comparisons", "p_holm", "verdict"]
_DIGITS = 12  # what follows in a difference is the rounding error of equal scores

_Scores = dict[tuple[int, int], list[float]]  # of each document, by (seed of the data, repeat)


def compare_documents(
    raw: pd.DataFrame, *, score: str, against: str | None = "fastformer", within: Sequence[str] = SETTING
) -> pd.DataFrame:
    """Return one row per setting and pair of mechanisms: the mean difference of scores, paired by document.

    Trainings that score documents have the series ``test_SCORE_by_document``, all of one setting in the same
    order. The scores of a document are averaged over the ``seeds`` that both mechanisms have. ``difference``
    is the mean over ``documents`` of the score minus that of ``against``, a label; None compares every pair.
    ``low`` and ``high`` are its 95 % interval, a percentile bootstrap over documents, uncorrected. ``p`` is
    twice the share of draws on the rarer side of zero; ``p_holm`` is corrected by Holm (1979) over all
    comparisons of one setting, and the verdict follows from it. They all hold for these trained weights on
    other documents of this kind, and do not say what other seeds would give.

    If documents cannot be paired, the numbers are NaN and ``verdict`` is the reason. With fewer than FEWEST
    documents there is an interval and no verdict. The frame is empty if no training has the series.

    Raises UsageError if ``against`` was trained in no setting.
    """
    names = ["metric", "mechanism", "against", *_COMPARISON]
    metric, series = scores_of(raw).get(score), f"samples_test_{score}_by_document"
    if metric is None or series not in raw:
        return pd.DataFrame(columns=[*within, *names])
    rows = []
    for identity, trained, pairs in families(trainings(raw, metric, within), against, within):
        scores = {name: _by_seed(group, series) for name, group in trained.items()}
        if not any(scores.values()):
            continue
        family = _judged([_paired(scores[a], scores[b]) for a, b in pairs])
        rows += [
            {**identity, "metric": metric, "mechanism": a, "against": b, **test}
            for (a, b), test in zip(pairs, family, strict=True)
        ]
    return pd.DataFrame(rows, columns=[*within, *names])


def _by_seed(group: pd.DataFrame, series: str) -> _Scores:
    return {
        (seed, repeat): scores
        for seed, repeat, scores in zip(group["seed"], group["repeat"], group[series], strict=True)
        if isinstance(scores, list) and scores  # NaN: a record without the series
    }


def _paired(ours: _Scores, theirs: _Scores) -> tuple[int, Floats | str]:
    """Return (seeds in common, difference of each document [n]), or a reason in the place of the latter."""
    shared = sorted(ours.keys() & theirs.keys())
    if not ours or not theirs:
        return 0, NO_SCORES
    if not shared:
        return 0, NO_SEED
    if len({seed for seed, _ in shared}) > 1:
        return len(shared), SEVERAL_DATA
    counts = sorted({len(scores[seed]) for scores in (ours, theirs) for seed in shared})
    if len(counts) > 1:
        return len(shared), f"{' and '.join(map(str, counts))} documents cannot be paired"
    ours_mean, theirs_mean = (np.mean([scores[seed] for seed in shared], axis=0) for scores in (ours, theirs))
    return len(shared), np.round(ours_mean - theirs_mean, _DIGITS)


def _judged(family: Sequence[tuple[int, Floats | str]]) -> list[dict[str, Any]]:
    """Return _COMPARISON of each pair of a table. The same number of documents has the same draws."""
    alpha = 1 - LEVEL
    # the smallest p-value, 2 / draws, is half of what Holm asks of the first of all comparisons
    draws = max(DRAWS, math.ceil(4 * len(family) / alpha))
    tests = [
        {"seeds": seeds, **(_unknown() if isinstance(found, str) else _bootstrapped(found, draws))}
        for seeds, found in family
    ]
    corrected, _ = holm([test["p"] for test in tests], alpha=alpha)
    return [
        {
            **test,
            "comparisons": len(family),
            "p_holm": p,
            "verdict": found if isinstance(found, str) else _verdict(test, p, alpha),
        }
        for test, (_, found), p in zip(tests, family, corrected, strict=True)
    ]


def _unknown() -> dict[str, float]:
    return dict.fromkeys(("documents", "difference", "low", "high", "p"), math.nan)


def _bootstrapped(differences: Floats, draws: int) -> dict[str, float]:
    """Return the mean of the documents' differences [n] with its interval and p-value."""
    n = len(differences)
    means = resampled_sums(differences[:, None], draws)[:, 0] / n
    low, high = np.percentile(means, PERCENTILES)
    rarer = min(np.count_nonzero(means <= 0), np.count_nonzero(means >= 0))
    return {
        "documents": n,
        "difference": float(differences.mean()),
        "low": float(low),
        "high": float(high),
        "p": math.nan if n < FEWEST else min(1.0, 2 * (rarer + 1) / (draws + 1)),
    }


def _verdict(test: dict[str, Any], p_holm: float, alpha: float) -> str:
    if math.isnan(p_holm):
        return TOO_FEW
    if p_holm > alpha:
        return NOT_SIGNIFICANT
    return HIGHER if test["difference"] > 0 else LOWER
