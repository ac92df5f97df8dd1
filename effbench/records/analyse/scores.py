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


def with_score(rows: pd.DataFrame) -> pd.DataFrame:
    """Return rows of trainings with the metric of each as ``score``, its interval as ``score_low`` and so on.

    The raw frame's series is ``samples_validation_score``. Values that a row lacks are missing there too.
    """
    metrics = rows[columns.METRIC] if columns.METRIC in rows else pd.Series(index=rows.index, dtype=object)
    metrics = metrics.fillna(columns.DEFAULT_METRIC)
    added = {}
    for place, new in enumerate(("score", *columns.bounds("score"), "samples_validation_score")):
        values = pd.Series(np.nan, index=rows.index, dtype=object)
        for metric in metrics.unique():
            old = (metric, *columns.bounds(metric), f"samples_validation_{metric}")[place]
            if old in rows:
                values = values.where(metrics != metric, rows[old])
        added[new] = (
            values if new.endswith(("interval", "samples_validation_score")) else values.astype(float)
        )
    return rows.assign(**added)


def metric_of(trained: pd.DataFrame) -> str:
    """Return the metric of rows of one task, of the raw frame or of the summary."""
    named = trained[columns.METRIC].dropna() if columns.METRIC in trained else ()
    return str(next(iter(named), columns.DEFAULT_METRIC))
