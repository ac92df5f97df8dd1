"""The growth of time, memory and FLOPs with N over the longest lengths, compared with the declared one."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.growth import Growth, slope
from effbench.records.analyse.load import comparable
from effbench.records.analyse.pairs import several_hosts
from effbench.records.analyse.statistics import student_t
from effbench.records.analyse.summary import IDENTITY, ORIGIN, label
from effbench.records.analyse.uncertainty import NOTHING, Noise, Variance, noises

QUANTITIES = ("time_s", "peak_bytes", "flops", "state_bytes")
UPPER = 4
# Exponents this close to the declared one agree with it: caches, blocks and fixed costs bend real curves.
TOLERANCE = 0.15
# If the slopes of the first and the last pair of lengths differ by more, the curve is no power law yet.
CURVED = 0.3
# An exponent is named only if its 95 % interval is narrower: a wider one holds both N and N times its root.
WIDEST = 0.5
# What a series has in common: its points differ only in length. Other machines or code are other series.
SERIES = [name for name in [*IDENTITY, *ORIGIN] if name != "seq_len"]
INCONCLUSIVE = "inconclusive"
_DECLARED = {
    "time_s": "declared_order",
    "flops": "declared_order",
    "state_bytes": "declared_order",
    "peak_bytes": "declared_memory_order",
}
_FIT = ["exponent", "exponent_low", "exponent_high", "first", "last", "declared", "declared_exponent"]
_WORDS = {
    "time_s": "time grows",
    "peak_bytes": "peak memory grows",
    "flops": "FLOPs grow",
    "state_bytes": "the state grows",
}


def exponents(raw: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Return one row per series: the exponent with its interval, and a comparison with the declared growth.

    ``exponent`` is the slope of log quantity against log N by least squares on the four longest lengths that
    were measured (``first`` to ``last``), or three if there are no more: at short lengths fixed costs
    dominate. Each repeat has its own slope of the time, because a repeat of the whole grid on one host is one
    stretch of the machine's time. The exponent is the slope of the medians over repeats, and its 95 %
    interval is Student's t of the repeats' slopes about it, and the noise between runs; with one repeat of
    all lengths or none, it comes from the standard error of the fit. If the lengths were not all measured on
    the same hosts, each length's time has the whole noise between runs. The statement names several hosts.
    Memory and FLOPs are exact, and so is their exponent. Series with fewer than three lengths are left out.
    Nothing is extrapolated.

    ``declared`` is the growth that the mechanism declares and ``declared_exponent`` its slope on these
    lengths. ``verdict`` is ``agrees`` (the interval lies within 0.15 of the declared slope), ``grows faster``
    or ``grows slower`` (the interval lies wholly beyond that), ``inconclusive``, or empty if nothing is
    declared; ``statement`` is the same in words.
    """
    columns = [*SERIES, *_FIT, "verdict", "statement"]
    if raw.empty or quantity not in raw:
        return pd.DataFrame(columns=columns)
    known = raw[(raw["status"] == "ok") & raw[quantity].notna() & (raw["task"] == "")]
    known = known[known[quantity].astype(float) > 0]  # zero has no logarithm
    noise: dict[str, Noise] = {}
    if quantity == "time_s":
        known = comparable(known)
        noise = noises(known)
    rows = []
    for key, group in known.groupby(SERIES, sort=False, dropna=False):
        lengths = sorted(int(n) for n in group["seq_len"].unique())[-UPPER:]
        if len(lengths) < 3:
            continue
        group = group[group["seq_len"].isin(lengths)]
        series = dict(zip(SERIES, key, strict=True))
        between = noise[series["machine"]].between if noise else None
        alike = group.groupby("seq_len")["host"].agg(frozenset).nunique() < 2  # the hosts of each length
        own = NOTHING if between is None else between.own if alike else between.time
        fit = {"first": lengths[0], "last": lengths[-1], **_fit(group, lengths, quantity, own)}
        rows.append({**series, **fit, **_compared(series, group, lengths, quantity, fit)})
    return pd.DataFrame(rows, columns=columns)


def is_known(row: Any) -> bool:
    """True if the exponent in a row of ``exponents`` is precise enough to be named.

    Every table, page and plot asks this function.
    """
    return _is_known(row.exponent_low, row.exponent_high)


def _is_known(low: float, high: float) -> bool:
    return high - low < WIDEST


def _fit(group: pd.DataFrame, lengths: list[int], quantity: str, between: Variance) -> dict[str, Any]:
    table = group.pivot_table(index=["host", "repeat"], columns="seq_len", values=quantity, aggfunc="median")
    medians = table.median().loc[lengths].to_numpy(dtype=float)
    center = slope(lengths, list(medians))
    half = 0.0
    if quantity == "time_s":
        half = _half_width(table.dropna()[lengths].to_numpy(dtype=float), lengths, medians, center)
        # each length's time also varies between runs, by itself
        half = math.hypot(
            half, student_t(0.95, between.degrees) * math.sqrt(between.value / _spread(lengths))
        )
    steps = np.diff(np.log(medians)) / np.diff(np.log(lengths))
    return {
        "exponent": center,
        "exponent_low": center - half,
        "exponent_high": center + half,
        "steps": (float(steps[0]), float(steps[-1])),
    }


def _spread(lengths: list[int]) -> float:
    x = np.log(lengths)
    return float(np.sum((x - x.mean()) ** 2))


def _half_width(repeats: np.ndarray, lengths: list[int], medians: np.ndarray, center: float) -> float:
    """Return half the width of the slope's interval; ``repeats`` [repeats, lengths] are complete ones."""
    own = np.array([slope(lengths, list(row)) for row in repeats])
    if len(own) > 1:
        variance = float(np.sum((own - center) ** 2)) / (len(own) - 1)
        return student_t(0.95, len(own) - 1) * math.sqrt(variance / len(own))
    from scipy import stats

    error = float(stats.linregress(np.log(lengths), np.log(medians)).stderr)
    return student_t(0.95, len(lengths) - 2) * error


def _compared(
    series: dict[str, Any], group: pd.DataFrame, lengths: list[int], quantity: str, fit: dict[str, Any]
) -> dict[str, Any]:
    column = _DECLARED[quantity]
    declarations = group[column].dropna() if column in group else pd.Series(dtype=object)
    declared = Growth.parse(declarations.iloc[0]) if len(declarations) and declarations.iloc[0] else None
    low, high = fit["exponent_low"], fit["exponent_high"]
    expected = np.nan if declared is None else declared.exponent(lengths)
    verdict = "" if np.isnan(expected) else _verdict(low, high, expected)
    claim = {"declared": str(declared or ""), "declared_exponent": expected, "verdict": verdict}
    name = f"{label(series['mechanism'], series['options'])}, {series['mode']}"
    span = f"from {lengths[0]} to {lengths[-1]}"
    if not _is_known(low, high):
        unknown = (
            f"{name}: the growth {span} is not known (95 % interval of the exponent: {low:.2f} to {high:.2f})"
        )
        if verdict in ("grows faster", "grows slower"):
            unknown += f", but {verdict.replace('grows', 'it is')} than declared ({declared})"
        return {**claim, "statement": unknown}
    interval = f" [{low:.2f}, {high:.2f}]" if high > low else ""
    statement = f"{name}: {_WORDS[quantity]} as N^{fit['exponent']:.2f}{interval} {span}"
    if declared is not None:
        ending = {
            "agrees": "as declared",
            "grows faster": "it grows faster than declared",
            "grows slower": "it grows slower than declared: terms of lower order still dominate",
            INCONCLUSIVE: "the comparison is inconclusive",
        }[verdict]
        statement += f", declared {declared}: {ending}"
    first, last = fit["steps"]
    if abs(last - first) > CURVED:
        statement += f"; the exponent is still changing ({first:.2f} to {last:.2f})"
    if quantity == "time_s" and (hosts := several_hosts(group)):
        statement += f"; measured on {hosts}"
    return {**claim, "statement": statement}


def _verdict(low: float, high: float, expected: float) -> str:
    if expected - TOLERANCE <= low and high <= expected + TOLERANCE:
        return "agrees"
    if low > expected + TOLERANCE:
        return "grows faster"
    return "grows slower" if high < expected - TOLERANCE else INCONCLUSIVE
