"""How time, memory and FLOPs grow with N on the upper lengths measured, held against what is declared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from effbench.common.growth import Growth, slope
from effbench.records.analyse.load import undisturbed
from effbench.records.analyse.statistics import student_t
from effbench.records.analyse.summary import IDENTITY, ORIGIN, label

QUANTITIES = ("time_s", "peak_bytes", "flops")
UPPER = 4
# Exponents this close to the declared one agree with it: caches, blocks and fixed costs bend real curves.
TOLERANCE = 0.15
# Slopes of the first and the last pair of lengths that differ by more than this: not a power law yet.
CURVED = 0.3
# An interval that reaches further than this to either side does not tell one growth from another.
WIDEST = 0.5
# Cells that differ only in length; another machine or other code is another line.
LINE = [name for name in [*IDENTITY, *ORIGIN] if name != "seq_len"]
_DECLARED = {"time_s": "declared_order", "flops": "declared_order", "peak_bytes": "declared_memory_order"}
_FOUND = ["exponent", "exponent_low", "exponent_high", "first", "last", "declared", "declared_exponent"]
_WORDS = {"time_s": "time grows", "peak_bytes": "peak memory grows", "flops": "FLOPs grow"}


def exponents(raw: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """One row a line of cells that differ only in length: the exponent, its interval, and what it says.

    ``exponent`` is the slope of log quantity against log N by least squares on the four longest lengths that
    were measured (``first`` to ``last``), or three if there are no more; short lengths are dominated by fixed
    costs and say little about growth. For time, each repeat has a slope of its own, since a repeat of the
    whole grid is one stretch of the machine's time: the exponent is that of the medians over repeats, and its
    95 % interval Student's t of the repeats' slopes about it; with one repeat, the standard error of the fit
    itself. Memory and FLOPs are exact, so that their interval is the point. Lines with fewer than three
    lengths are left out. Nothing is extrapolated.

    ``declared`` is what the mechanism says, ``declared_exponent`` what this means on these lengths,
    ``verdict`` one of ``agrees`` (the interval lies within 0.15 of it), ``grows faster``, ``grows slower``
    (wholly beyond), ``cannot be told``, or empty where nothing is declared; ``statement`` says it in words.
    """
    columns = [*LINE, *_FOUND, "verdict", "statement"]
    if raw.empty or quantity not in raw:
        return pd.DataFrame(columns=columns)
    known = raw[(raw["status"] == "ok") & raw[quantity].notna() & (raw["task"] == "")]
    known = known[known[quantity].astype(float) > 0]  # zero has no logarithm
    known = undisturbed(known) if quantity == "time_s" else known
    rows = []
    for key, group in known.groupby(LINE, sort=False, dropna=False):
        lengths = sorted(int(n) for n in group["seq_len"].unique())[-UPPER:]
        if len(lengths) < 3:
            continue
        group = group[group["seq_len"].isin(lengths)]
        line = dict(zip(LINE, key, strict=True))
        found = {"first": lengths[0], "last": lengths[-1], **_fit(group, lengths, quantity)}
        rows.append({**line, **found, **_held_against(line, group, lengths, quantity, found)})
    return pd.DataFrame(rows, columns=columns)


def told(row: Any) -> bool:
    """Whether the exponent of a row of ``exponents`` is known well enough to be printed."""
    return _is_told(row.exponent_low, row.exponent_high, row.verdict)


def _is_told(low: float, high: float, verdict: str) -> bool:
    return (high - low) / 2 <= WIDEST or verdict in ("grows faster", "grows slower")


def _fit(group: pd.DataFrame, lengths: list[int], quantity: str) -> dict[str, Any]:
    table = group.pivot_table(index="repeat", columns="seq_len", values=quantity, aggfunc="median")
    medians = table.median().loc[lengths].to_numpy(dtype=float)
    center = slope(lengths, list(medians))
    own = np.array([slope(lengths, list(row)) for row in table.dropna()[lengths].to_numpy(dtype=float)])
    logs = np.log(medians)
    half = 0.0
    if quantity == "time_s" and len(own) > 1:
        spread = float(np.sqrt(np.mean((own - center) ** 2) * len(own) / (len(own) - 1)))
        half = student_t(0.95, len(own) - 1) * spread / len(own) ** 0.5
    elif quantity == "time_s":
        half = student_t(0.95, len(lengths) - 2) * _standard_error(lengths, logs, center)
    steps = np.diff(logs) / np.diff(np.log(lengths))
    return {
        "exponent": center,
        "exponent_low": center - half,
        "exponent_high": center + half,
        "steps": (float(steps[0]), float(steps[-1])),
    }


def _held_against(
    line: dict[str, Any], group: pd.DataFrame, lengths: list[int], quantity: str, found: dict[str, Any]
) -> dict[str, Any]:
    column = _DECLARED[quantity]
    said = group[column].dropna() if column in group else pd.Series(dtype=object)
    interval = f"N^{found['exponent']:.2f}"
    if found["exponent_high"] > found["exponent_low"]:
        interval += f" [{found['exponent_low']:.2f}, {found['exponent_high']:.2f}]"
    name = label(line["mechanism"], line["options"])
    span = f"from {lengths[0]} to {lengths[-1]}"
    statement = f"{name}, {line['mode']}: {_WORDS[quantity]} as {interval} {span}"
    first, last = found["steps"]
    curve = (
        f"; the exponent is still changing ({first:.2f} to {last:.2f})" if abs(last - first) > CURVED else ""
    )
    declared = None if said.empty or not said.iloc[0] else Growth.parse(said.iloc[0])
    expected = np.nan if declared is None else declared.exponent(lengths)
    low, high = found["exponent_low"], found["exponent_high"]
    verdict = "" if declared is None else _verdict(low, high, expected)
    claim = {"declared": str(declared or ""), "declared_exponent": expected, "verdict": verdict}
    if not _is_told(low, high, verdict):
        noisy = f"{name}, {line['mode']}: the values are too noisy to tell a growth {span}"
        return {**claim, "statement": noisy}
    if declared is None:
        return {**claim, "statement": statement + curve}
    ending = {
        "agrees": "as declared",
        "grows faster": "it grows faster than declared",
        "grows slower": "it grows slower than declared: terms of lower order still dominate",
        "cannot be told": "whether as declared cannot be told",
    }[verdict]
    return {**claim, "statement": f"{statement}, declared {declared}: {ending}{curve}"}


def _verdict(low: float, high: float, expected: float) -> str:
    if expected - TOLERANCE <= low and high <= expected + TOLERANCE:
        return "agrees"
    if low > expected + TOLERANCE:
        return "grows faster"
    return "grows slower" if high < expected - TOLERANCE else "cannot be told"


def _standard_error(lengths: list[int], logs: np.ndarray, center: float) -> float:
    """Of the slope, from how far the points lie from the line."""
    x = np.log(np.array(lengths, dtype=float))
    x = x - x.mean()
    residuals = logs - logs.mean() - center * x
    return float(np.sqrt((residuals**2).sum() / (len(x) - 2) / (x**2).sum()))
