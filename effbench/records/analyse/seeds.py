"""Scores over seeds: intervals, differences paired by seed, and the number of seeds that a test needs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.columns import lower_is_better
from effbench.common.spec import UsageError
from effbench.records.analyse.scores import within_scale
from effbench.records.analyse.statistics import LEVEL, mean_interval
from effbench.records.analyse.summary import label

# Trainings are compared inside one setting. The machine is not part of it: scores do not depend on speed.
SETTING = ["task", "seq_len", "batch_size", "d_model", "heads", "layers", "dtype", "device", "data"]
POWER = 0.8
MOST_SEEDS = 100

BETTER, WORSE = "better", "worse"
NOT_SIGNIFICANT = "no significant difference at this number of seeds"
ONE_SEED = "one seed in common: the training noise is unknown"
NO_SEED = "no seed in common"
SAME = "the same difference at every seed: its noise is unknown"

# Differences of scores are far above this; smaller numbers are rounding errors of equal scores.
_ROUNDING = 1e-12


def trainings(raw: pd.DataFrame, metric: str = "accuracy", within: Sequence[str] = SETTING) -> pd.DataFrame:
    """Return the rows of the raw frame that hold this score, with the mechanism's ``label`` and ``score``.

    Raises UsageError if a training of one setting occurs twice, since either of them could be meant.
    """
    if raw.empty or metric not in raw.columns:
        return raw.iloc[:0].assign(label="", score=0.0)
    rows = raw[(raw["probe"] == "accuracy") & (raw["status"] == "ok") & raw[metric].notna()]
    rows = rows.assign(
        label=[label(m, o) for m, o in zip(rows["mechanism"], rows["options"], strict=True)],
        score=rows[metric].astype(float),
    )
    twice = rows[rows.duplicated([*within, "label", "seed", "repeat"])]
    if len(twice):
        row = twice.iloc[0]
        raise UsageError(
            f"{row['label']} on {row['task']} at {row['seq_len']}, repeat {row['repeat']}, was measured more "
            "than once: name folders that hold each training once"
        )
    return rows


def seed_scores(
    raw: pd.DataFrame, *, metric: str = "accuracy", within: Sequence[str] = SETTING, level: float = LEVEL
) -> pd.DataFrame:
    """Return one row per setting and mechanism: ``seeds``, ``mean``, ``std`` (n - 1), ``low``, ``high``.

    The interval is Student's t, for a share cut to 0 and 1; with one seed the last three are NaN. It covers
    the variation between seeds (initial weights, shuffling, dropout), not that of the test examples, which
    all seeds share.
    """
    rows = []
    for key, group in trainings(raw, metric, within).groupby([*within, "label"], sort=False, dropna=False):
        scores = list(group["score"])
        row = dict(zip([*within, "mechanism"], key, strict=True))
        row |= {"metric": metric, "seeds": len(scores), "mean": float(np.mean(scores))}
        if len(scores) > 1:
            _, row["low"], row["high"] = within_scale(mean_interval(scores, level=level), metric)
            row["std"] = float(np.std(scores, ddof=1))
        rows.append(row)
    columns = [*within, "mechanism", "metric", "seeds", "mean", "std", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def compare(
    raw: pd.DataFrame,
    *,
    metric: str = "accuracy",
    against: str | None = "fastformer",
    within: Sequence[str] = SETTING,
    level: float = LEVEL,
) -> pd.DataFrame:
    """Return one row per setting and pair of mechanisms: the mean difference of scores, paired by seed.

    The difference is the score minus that of ``against``, a label; None compares every pair. ``p`` is that of
    the paired t-test, ``p_holm`` is corrected by Holm (1979) over all comparisons of the same setting (one
    table): with probability ``level`` no verdict of a table claims a difference where there is none. The
    interval ``low``, ``high`` is that of the single difference, uncorrected: it can exclude zero although the
    verdict is not significant. ``seeds_to_tell`` is the number of seeds that detects a difference of the
    observed size and spread with 80 % power at the level that Holm's correction requires. ``verdict`` is
    better or worse, or says why it is neither; of a loss, the lower one is better.

    Raises UsageError if ``against`` was trained in no setting.
    """
    tables = []
    for identity, trained, pairs in families(trainings(raw, metric, within), against, within):
        scores = {name: _by_seed(group) for name, group in trained.items()}
        family = [paired(_shared(scores[a], scores[b]), level=level) for a, b in pairs]
        lower = lower_is_better(metric)
        tables.append(
            pd.DataFrame(
                [
                    {**identity, "metric": metric, "mechanism": a, "against": b, **one}
                    for (a, b), one in zip(pairs, judged(family, level=level, lower=lower), strict=True)
                ]
            )
        )
    columns = [*within, "metric", "mechanism", "against", *_COMPARISON]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


def families(
    rows: pd.DataFrame, against: str | None, within: Sequence[str]
) -> Iterator[tuple[dict[str, Any], dict[str, pd.DataFrame], list[tuple[str, str]]]]:
    """Yield for each setting of the trainings: it, the rows of each label, and the pairs that are compared.

    ``against`` is the second of each pair; None yields every pair. A setting without a pair is left out.
    Raises UsageError if ``against`` was trained in no setting.
    """
    labels = sorted(set(rows["label"]))
    if against is not None and len(rows) and against not in labels:
        raise UsageError(f"{against!r} is not among the trainings: {', '.join(labels)}")
    for key, group in rows.groupby(list(within), sort=False, dropna=False):
        trained = {str(name): mine for name, mine in group.groupby("label", sort=False)}
        pairs = (
            list(itertools.combinations(sorted(trained), 2))
            if against is None
            else [(name, against) for name in trained if name != against and against in trained]
        )
        if pairs:
            yield dict(zip(within, key if isinstance(key, tuple) else (key,), strict=True)), trained, pairs


_COMPARISON = ["seeds", "difference", "std", "low", "high", "p"]
_COMPARISON += ["comparisons", "p_holm", "verdict", "seeds_to_tell"]


def paired(differences: Sequence[float], *, level: float = LEVEL) -> dict[str, Any]:
    """Return ``seeds``, ``difference`` (the mean), ``std``, ``low``, ``high`` and ``p`` of a paired t-test.

    With one seed all but the mean is NaN. If all differences are equal, p is 1 for zero and NaN otherwise.
    """
    n = len(differences)
    if n < 2:
        mean = float(differences[0]) if n else math.nan
        return {"seeds": n, "difference": mean, **dict.fromkeys(("std", "low", "high", "p"), math.nan)}
    mean, low, high = mean_interval(differences, level=level)
    std = float(np.std(differences, ddof=1))
    if std > _ROUNDING:
        from scipy import stats

        p = float(stats.ttest_1samp(differences, 0.0).pvalue)
    else:
        p = 1.0 if abs(mean) <= _ROUNDING else math.nan
    return {"seeds": n, "difference": mean, "std": std, "low": low, "high": high, "p": p}


def judged(
    family: Sequence[dict[str, Any]], *, level: float = LEVEL, lower: bool = False
) -> list[dict[str, Any]]:
    """Return the results of ``paired`` for a table with ``p_holm``, ``verdict`` and ``seeds_to_tell``.

    ``lower``: the lower score is the better one.
    """
    corrected, levels = holm([test["p"] for test in family], alpha=1 - level)
    return [
        {
            **test,
            "comparisons": len(family),
            "p_holm": p,
            "verdict": _verdict(test, p, 1 - level, lower),
            "seeds_to_tell": _seeds_to_tell(test, alpha),
        }
        for test, p, alpha in zip(family, corrected, levels, strict=True)
    ]


def holm(p_values: Sequence[float], *, alpha: float = 1 - LEVEL) -> tuple[list[float], list[float]]:
    """Return (corrected p-values, the level that each p-value is compared with) by Holm (1979).

    The k-th smallest of m is compared with alpha / (m - k + 1). A NaN, from a comparison that could not be
    made, counts as one of the m and stays NaN. scipy does not have this correction.
    """
    m = len(p_values)
    order = sorted(range(m), key=lambda i: (math.isnan(p_values[i]), p_values[i]))
    corrected, levels = [math.nan] * m, [alpha] * m
    highest = 0.0
    for rank, i in enumerate(order):
        levels[i] = alpha / (m - rank)
        if not math.isnan(p_values[i]):
            highest = max(highest, min(1.0, (m - rank) * p_values[i]))
            corrected[i] = highest
    return corrected, levels


def power(effect: float, seeds: int | np.ndarray[Any, Any], *, alpha: float) -> Any:
    """Return the power of the two-sided paired t-test for an ``effect`` in standard deviations.

    Exact for normal differences, by the tails of the noncentral t distribution.
    """
    from scipy import stats

    n = np.asarray(seeds)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(effect) * np.sqrt(n)
    return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)


def seeds_needed(effect: float, *, alpha: float, most: int = MOST_SEEDS) -> int | None:
    """Return the fewest seeds with 80 % power for ``effect`` standard deviations; None if above ``most``."""
    n = np.arange(2, most + 1)
    # for larger effects a few seeds are enough, and the tails of the distribution cannot be computed
    enough = np.nonzero(power(min(abs(effect), 30.0), n, alpha=alpha) >= POWER)[0]
    return int(n[enough[0]]) if len(enough) else None


def _by_seed(group: pd.DataFrame) -> dict[tuple[int, int], float]:
    """Return the scores by (seed of the data, repeat), which the two trainings of a pair have in common."""
    return dict(zip(zip(group["seed"], group["repeat"], strict=True), group["score"], strict=True))


def _shared(ours: dict[tuple[int, int], float], theirs: dict[tuple[int, int], float]) -> list[float]:
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _verdict(test: dict[str, Any], p_holm: float, alpha: float, lower: bool) -> str:
    if test["seeds"] < 2:
        return ONE_SEED if test["seeds"] else NO_SEED
    if math.isnan(p_holm):
        return SAME
    if p_holm > alpha:
        return NOT_SIGNIFICANT
    return BETTER if (test["difference"] > 0) != lower else WORSE


def _seeds_to_tell(test: dict[str, Any], alpha: float) -> str:
    """Return the number as text; empty if the spread of the differences is unknown."""
    if test["seeds"] < 2 or math.isnan(test["p"]):
        return ""
    effect = test["difference"] / test["std"] if test["std"] > _ROUNDING else 0.0
    count = seeds_needed(effect, alpha=alpha)
    return str(count) if count else f"more than {MOST_SEEDS}"
