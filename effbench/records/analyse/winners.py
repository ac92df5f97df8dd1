"""The fastest among rows of one length, ties, and the reason where none can be named; in words too."""

from __future__ import annotations

import pandas as pd

from effbench.records.analyse.load import BESIDE_LOAD
from effbench.records.analyse.pairs import on_one_host
from effbench.records.analyse.summary import ONE_REPEAT, label
from effbench.records.analyse.uncertainty import differs

ONE_MECHANISM = "one mechanism was timed"
SEVERAL_HOSTS = "measured on different hosts"


def fastest(rows: pd.DataFrame) -> list[str]:
    """Return the labels of the fastest among rows of one length, and of all not significantly slower.

    Empty if there is nothing to compare or no winner can be named: see ``undecided``.
    """
    timed = _timed(rows)
    if timed.empty or undecided(rows):
        return []
    best = timed.loc[timed["time_s"].idxmin()]
    if (timed["time_ratio"] == 1).sum() == 1:
        ratios = timed[["time_ratio", "time_ratio_low", "time_ratio_high"]].itertuples(index=False, name=None)
        tied = timed[[not differs(ratio) for ratio in ratios]]
    else:  # rows of several folders, which share no repeats: only their intervals can be compared
        tied = timed[timed["time_low_s"] <= best["time_high_s"]]
    tied = tied.sort_values("time_s")
    return [
        label(mechanism, options)
        for mechanism, options in zip(tied["mechanism"], tied["options"], strict=True)
    ]


def undecided(rows: pd.DataFrame) -> str:
    """Return the reason why no winner can be named among rows of one length; empty if one can."""
    timed = _timed(rows)
    if timed.empty:
        return "no mechanism was timed"
    if len(timed[["mechanism", "options"]].drop_duplicates()) < 2:
        return ONE_MECHANISM
    noisy = timed["noisy"].fillna("")
    if noisy.str.contains(ONE_REPEAT, regex=False).any():
        return "one repeat has no confidence interval"
    if noisy.str.contains(BESIDE_LOAD, regex=False).any():
        return "measured beside other load"
    return SEVERAL_HOSTS if _apart(timed) else ""


def _apart(timed: pd.DataFrame) -> bool:
    """True if not all of these times are of one host, so that they are no pairs and cannot be compared."""
    others = timed[timed["time_ratio"] != 1]
    if len(others) == len(timed) - 1:  # the ratios of one summary: without two pairs, one has no interval
        return bool(others["time_ratio_low"].isna().any())
    return "hosts" in timed and not on_one_host(timed["hosts"])


def in_words(rows: pd.DataFrame) -> str:
    """Name the fastest at each length of one mode in words; neighbouring equal lengths are joined."""
    runs: list[tuple[int, int, list[str], str]] = []
    for n, same_length in rows.groupby("seq_len"):
        names, why = fastest(same_length), undecided(same_length)
        if runs and (sorted(runs[-1][2]), runs[-1][3]) == (sorted(names), why):
            runs[-1] = (runs[-1][0], n, runs[-1][2], why)
        else:
            runs.append((n, n, names, why))
    if all(why == ONE_MECHANISM for *_, why in runs):
        return ""
    parts = []
    for first, last, names, why in runs:
        where = f"at {first}" if first == last else f"from {first} to {last}"
        if why:
            parts.append(f"no winner is named {where}: {why}")
        elif len(names) == 1:
            parts.append(f"{names[0]} is fastest {where}")
        else:
            parts.append(f"{', '.join(names)} are fastest {where}, without a significant difference")
    return "; ".join(parts)


def _timed(rows: pd.DataFrame) -> pd.DataFrame:
    # a row whose memory or FLOPs failed still has its time: leaving it out would crown another
    return rows[rows["time_s"].notna() & (rows["status"] != "incorrect")]
