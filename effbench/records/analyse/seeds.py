"""What seeds can tell: scores with intervals, differences paired by seed, how many seeds would tell them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.spec import UsageError
from effbench.records.analyse.statistics import LEVEL, mean_interval
from effbench.records.analyse.summary import label

# Trainings are compared inside one setting. The machine is no part of it: a score does not depend on speed.
SETTING = ["task", "seq_len", "batch_size", "d_model", "heads", "layers", "dtype", "device", "data"]
POWER = 0.8
MOST_SEEDS = 100

BETTER, WORSE = "better", "worse"
UNTOLD = "no difference can be told at this many seeds"
ONE_SEED = "one seed in common: nothing can be told about training noise"
NO_SEED = "no seed in common"
SAME = "the same difference at every seed: its noise is not known"

# Differences of scores are far above this; what is below is rounding of equal ones.
_ROUNDING = 1e-12


def trainings(raw: pd.DataFrame, metric: str = "accuracy", within: Sequence[str] = SETTING) -> pd.DataFrame:
    """The rows of the raw frame that hold this score, with the mechanism's ``label`` and the ``score``.

    Raises UsageError if one training of one setting is there twice: which of them counts cannot be known.
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
    """One row a setting and mechanism: ``seeds``, ``mean``, ``std`` (n - 1), t-interval ``low``, ``high``.

    With one seed the last three are not known. The interval covers the luck of the seed (initial weights,
    shuffling, dropout), not that of the test examples, which all seeds share.
    """
    found = []
    for key, group in trainings(raw, metric, within).groupby([*within, "label"], sort=False, dropna=False):
        scores = list(group["score"])
        row = dict(zip([*within, "mechanism"], key, strict=True))
        row |= {"metric": metric, "seeds": len(scores), "mean": float(np.mean(scores))}
        if len(scores) > 1:
            _, row["low"], row["high"] = mean_interval(scores, level=level)
            row["std"] = float(np.std(scores, ddof=1))
        found.append(row)
    columns = [*within, "mechanism", "metric", "seeds", "mean", "std", "low", "high"]
    return pd.DataFrame(found, columns=columns)


def compare(
    raw: pd.DataFrame,
    *,
    metric: str = "accuracy",
    against: str | None = "fastformer",
    within: Sequence[str] = SETTING,
    level: float = LEVEL,
) -> pd.DataFrame:
    """One row a setting and pair of mechanisms: the mean of score minus that of ``against``, paired by seed.

    ``against`` is a label; None compares every pair. ``p`` is of the paired t-test, ``p_holm`` corrected by
    Holm (1979) over all comparisons of the same setting, one table: with probability ``level`` none of its
    verdicts claims a difference where there is none. The interval ``low``, ``high`` is of the one difference,
    uncorrected: it can leave zero where the verdict is that nothing can be told. ``seeds_to_tell`` is how
    many seeds would show a difference of the observed size and spread with 80 % power, at the level that Holm
    asks of this comparison.

    Raises UsageError if ``against`` was trained in no setting.
    """
    rows = trainings(raw, metric, within)
    labels = sorted(set(rows["label"]))
    if against is not None and len(rows) and against not in labels:
        raise UsageError(f"{against!r} is not among the trainings: {', '.join(labels)}")
    tables = []
    for key, group in rows.groupby(list(within), sort=False, dropna=False):
        scores = {name: _by_seed(mine) for name, mine in group.groupby("label", sort=False)}
        pairs: list[tuple[Any, Any]] = (
            list(itertools.combinations(sorted(scores), 2))
            if against is None
            else [(name, against) for name in scores if name != against and against in scores]
        )
        if not pairs:
            continue
        family = [paired(_shared(scores[a], scores[b]), level=level) for a, b in pairs]
        identity = dict(zip(within, key if isinstance(key, tuple) else (key,), strict=True))
        tables.append(
            pd.DataFrame(
                [
                    {**identity, "metric": metric, "mechanism": a, "against": b, **one}
                    for (a, b), one in zip(pairs, judged(family, level=level), strict=True)
                ]
            )
        )
    columns = [*within, "metric", "mechanism", "against", *_FOUND]
    return pd.concat(tables, ignore_index=True)[columns] if tables else pd.DataFrame(columns=columns)


_FOUND = ["seeds", "difference", "std", "low", "high", "p"]
_FOUND += ["comparisons", "p_holm", "verdict", "seeds_to_tell"]


def paired(differences: Sequence[float], *, level: float = LEVEL) -> dict[str, Any]:
    """``seeds``, ``difference`` (their mean), ``std``, ``low``, ``high`` and ``p`` of the paired t-test.

    What cannot be known is NaN: everything but the mean at one seed, and p where all differences are one and
    the same without being zero (p is 1 where all are zero).
    """
    n = len(differences)
    if n < 2:
        mean = float(differences[0]) if n else math.nan
        return {"seeds": n, "difference": mean, **dict.fromkeys(("std", "low", "high", "p"), math.nan)}
    from scipy import stats

    mean, low, high = mean_interval(differences, level=level)
    std = float(np.std(differences, ddof=1))
    if std > _ROUNDING:
        p = float(2 * stats.t.sf(abs(mean) / (std / math.sqrt(n)), n - 1))
    else:
        p = 1.0 if abs(mean) <= _ROUNDING else math.nan
    return {"seeds": n, "difference": mean, "std": std, "low": low, "high": high, "p": p}


def judged(family: Sequence[dict[str, Any]], *, level: float = LEVEL) -> list[dict[str, Any]]:
    """What ``paired`` found for each row of a table, with ``p_holm``, ``verdict`` and ``seeds_to_tell``."""
    corrected, levels = holm([one["p"] for one in family], alpha=1 - level)
    return [
        {
            **one,
            "comparisons": len(family),
            "p_holm": p,
            "verdict": _verdict(one, p, 1 - level),
            "seeds_to_tell": _seeds_to_tell(one, alpha),
        }
        for one, p, alpha in zip(family, corrected, levels, strict=True)
    ]


def holm(p_values: Sequence[float], *, alpha: float = 1 - LEVEL) -> tuple[list[float], list[float]]:
    """(corrected p-values, the level each p-value is held against), Holm 1979.

    The k-th smallest of m is held against alpha / (m - k + 1). A NaN, a comparison that could not be made,
    counts as one of the m and stays NaN.
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
    """Probability that the two-sided paired t-test finds a difference of ``effect`` standard deviations.

    Exact for normal differences: the tails of the noncentral t distribution.
    """
    from scipy import stats

    n = np.asarray(seeds)
    critical = stats.t.ppf(1 - alpha / 2, n - 1)
    shift = abs(effect) * np.sqrt(n)
    return stats.nct.sf(critical, n - 1, shift) + stats.nct.cdf(-critical, n - 1, shift)


def seeds_needed(effect: float, *, alpha: float, most: int = MOST_SEEDS) -> int | None:
    """The fewest seeds with 80 % power for ``effect`` standard deviations; None if more than ``most``."""
    n = np.arange(2, most + 1)
    # beyond so many standard deviations a few seeds do, and the distribution's tails cannot be computed
    enough = np.nonzero(power(min(abs(effect), 30.0), n, alpha=alpha) >= POWER)[0]
    return int(n[enough[0]]) if len(enough) else None


def _by_seed(group: pd.DataFrame) -> dict[tuple[int, int], float]:
    """Scores by (seed of the data, repeat): what two trainings must have in common to be a pair."""
    return dict(zip(zip(group["seed"], group["repeat"], strict=True), group["score"], strict=True))


def _shared(ours: dict[tuple[int, int], float], theirs: dict[tuple[int, int], float]) -> list[float]:
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _verdict(one: dict[str, Any], p_holm: float, alpha: float) -> str:
    if one["seeds"] < 2:
        return ONE_SEED if one["seeds"] else NO_SEED
    if math.isnan(p_holm):
        return SAME
    if p_holm > alpha:
        return UNTOLD
    return BETTER if one["difference"] > 0 else WORSE


def _seeds_to_tell(one: dict[str, Any], alpha: float) -> str:
    """A number in words; empty where the spread of the differences is not known."""
    if one["seeds"] < 2 or math.isnan(one["p"]):
        return ""
    effect = one["difference"] / one["std"] if one["std"] > _ROUNDING else 0.0
    count = seeds_needed(effect, alpha=alpha)
    return str(count) if count else f"more than {MOST_SEEDS}"
