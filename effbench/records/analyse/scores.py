"""The scores of trainings in the raw frame: their names and their columns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from effbench.common import columns


def scores_of(raw: pd.DataFrame) -> dict[str, str]:
    """Return the column of every score that trainings of the raw frame hold; a task's metric comes first."""
    trained = raw[(raw["probe"] == "accuracy") & (raw["status"] == "ok")] if len(raw) else raw
    kinds = [name for name in (columns.METRIC, columns.SCORES) if name in trained]
    rows = trained.drop_duplicates(kinds) if kinds else trained.head(1)
    columns_of: dict[str, str] = {}
    for row in rows.to_dict(orient="records"):
        known = {name: value for name, value in row.items() if isinstance(value, list) or pd.notna(value)}
        columns_of |= columns.record_scores({str(name): value for name, value in known.items()})
    return {score: at for score, at in columns_of.items() if at in trained and trained[at].notna().any()}


def within_scale(interval: tuple[float, float, float], score: str) -> tuple[float, float, float]:
    """Return (mean, low, high), the bounds cut to 0 and 1 if the score, by its name or column, is a share."""
    if columns.score_unit(score) != "share":
        return interval
    mean, low, high = interval
    return mean, float(np.maximum(low, 0.0)), float(np.minimum(high, 1.0))  # NaN stays NaN


def with_score(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of trainings with the metric of each as ``score``, its interval as ``score_low`` and so on.

    The raw frame's series is ``samples_validation_score``. Values that a row lacks are missing there too.
    """
    metrics = rows[columns.METRIC] if columns.METRIC in rows else pd.Series(index=rows.index, dtype=object)
    metrics = metrics.astype(object).fillna(columns.DEFAULT_METRIC)
    added = {
        new: _of_metric(rows, metrics, old)
        for new, old in zip(("score", *columns.bounds("score")), ("{}", *columns.bounds("{}")), strict=True)
    }
    added = {n: v if n.endswith("interval") else v.astype(float) for n, v in added.items()}
    if columns.VALIDATION_METRIC in rows:
        metrics = rows[columns.VALIDATION_METRIC].fillna(metrics)
    added["samples_validation_score"] = _of_metric(rows, metrics, "samples_validation_{}")
    # one step: inserted one by one, many columns are slow
    return pd.concat([rows.drop(columns=[*added], errors="ignore"), pd.DataFrame(added)], axis=1)


def _of_metric(rows: pd.DataFrame, metrics: pd.Series, name: str) -> pd.Series:
    """Return, for each row, the value of the column ``name`` with the row's metric in the place of {}."""
    values = pd.Series(np.nan, index=rows.index, dtype=object)
    for metric in metrics.unique():
        if (column := name.format(metric)) in rows:
            values = values.where(metrics != metric, rows[column])
    return values


def metric_of(trained: pd.DataFrame) -> str:
    """Return the metric of rows of one task, of the raw frame or of the summary."""
    return _first(trained, columns.METRIC) or columns.DEFAULT_METRIC


def validation_metric_of(trained: pd.DataFrame) -> str:
    """Return the score that trainings of one task stopped on, from the raw frame."""
    return _first(trained, columns.VALIDATION_METRIC) or metric_of(trained)


def _first(rows: pd.DataFrame, name: str) -> str:
    """Return the first text in a column, "" if there is none."""
    return str(next(iter(rows[name].dropna()), "")) if name in rows else ""
