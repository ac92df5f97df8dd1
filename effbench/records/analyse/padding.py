"""Trainings whose rows are much shorter than the length that they are reported at."""

from __future__ import annotations

import pandas as pd

from effbench.common.extent import mostly_padding


def padded_lengths(rows: pd.DataFrame) -> dict[int, float]:
    """Return seq_len -> mean tokens of a row, for the lengths whose rows are mostly padding.

    Rows without ``mean_tokens``, as of earlier versions, say nothing about this.
    """
    if "mean_tokens" not in rows:
        return {}
    means = rows.groupby("seq_len")["mean_tokens"].median()
    return {int(n): float(mean) for n, mean in means.items() if mostly_padding(int(n), float(mean))}
