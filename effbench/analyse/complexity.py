"""How time, memory and FLOPs grow: the exponent in N, fitted on the upper lengths that were measured."""

from __future__ import annotations

import numpy as np
import pandas as pd

from effbench.analyse.summary import IDENTITY, ORIGIN

QUANTITIES = ("time_s", "peak_bytes", "flops")
UPPER = 4
# Cells that differ only in length; another machine or other code is another line.
LINE = [name for name in [*IDENTITY, *ORIGIN] if name != "seq_len"]


def exponents(raw: pd.DataFrame, quantity: str, *, resamples: int = 500, seed: int = 0) -> pd.DataFrame:
    """One row a line of cells that differ only in length: exponent, exponent_low, exponent_high, lengths.

    The slope of log quantity against log N by least squares on the four longest lengths that were measured,
    or three if there are no more; short lengths are dominated by fixed costs and say little about growth. For
    time, the interval is a 95 % bootstrap that draws repeats, then takes their medians; memory and FLOPs are
    exact, so that their interval is the point. Lines with fewer than three lengths are left out. Nothing is
    extrapolated: the exponent describes the lengths named in ``first`` and ``last``.
    """
    columns = [*LINE, "exponent", "exponent_low", "exponent_high", "first", "last"]
    if raw.empty or quantity not in raw:
        return pd.DataFrame(columns=columns)
    known = raw[(raw["status"] == "ok") & raw[quantity].notna() & (raw["task"] == "")]
    known = known[known[quantity].astype(float) > 0]  # zero has no logarithm
    rows = []
    for key, group in known.groupby(LINE, sort=False, dropna=False):
        lengths = sorted(group["seq_len"].unique())[-UPPER:]
        if len(lengths) < 3:
            continue
        medians = [group.loc[group["seq_len"] == n, quantity].to_numpy(dtype=float) for n in lengths]
        rng = np.random.default_rng(seed)
        draws = [np.median(m[rng.integers(len(m), size=(resamples, len(m)))], axis=1) for m in medians]
        slopes = _slope(lengths, np.stack(draws))
        center = float(_slope(lengths, np.array([[np.median(m)] for m in medians]))[0])
        low, high = (float(q) for q in np.quantile(slopes, [0.025, 0.975]))
        found = {"exponent": center, "exponent_low": min(low, center), "exponent_high": max(high, center)}
        rows.append({**dict(zip(LINE, key, strict=True)), **found, "first": lengths[0], "last": lengths[-1]})
    return pd.DataFrame(rows, columns=columns)


def _slope(lengths: list[int], values: np.ndarray) -> np.ndarray:
    """Least-squares slopes of log values [lengths, draws] against log lengths: [draws]."""
    x = np.log(np.array(lengths, dtype=float))
    x = x - x.mean()
    slopes: np.ndarray = (x[:, None] * np.log(values)).sum(axis=0) / (x**2).sum()
    return slopes
