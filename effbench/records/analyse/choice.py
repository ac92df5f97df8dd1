"""Decide from records alone which mechanism to use at one length, under limits."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from effbench.common.columns import score_unit
from effbench.common.exits import Exit
from effbench.common.spec import UsageError
from effbench.records.analyse.choice_costs import AtLength, costs
from effbench.records.analyse.choice_scores import Scores, plain
from effbench.records.analyse.choice_setting import SETTING, Untold, setting_of_costs
from effbench.records.analyse.summary import IDENTITY, ORIGIN
from effbench.records.analyse.winners import ONE_MECHANISM, fastest, undecided

# Where a mechanism of a choice stands.
FRONT, DOMINATED, OUTSIDE, FAILED = "front", "dominated", "outside the limits", "without costs"
SAME_MEMORY = 0.01  # a smaller share of memory decides nothing
_NUMBERS = [
    *("time_s", "time_low_s", "time_high_s", "time_ratio", "time_ratio_low", "time_ratio_high"),
    *("memory_bytes", "memory_low_bytes", "memory_high_bytes", "score", "score_low", "score_high", "seeds"),
    *("pool_ratio", "pool_ratio_low", "pool_ratio_high"),
    *("score_difference", "score_difference_low", "score_difference_high"),
]
_TEXTS = [
    *("label", "mechanism", "options", "folder", "status", "place", "why", "missed", "unsure"),
    *("dominated_by", "noisy", "memory_left_out", "time_interval"),
]
# The order of records must not matter, to the last bit of a sum.
_ORDER = [*IDENTITY, *ORIGIN, "folder", "probe", "seed", "repeat", "started"]
_BLANK = {**dict.fromkeys(_TEXTS, ""), **dict.fromkeys(_NUMBERS, math.nan)}


@dataclass(frozen=True, kw_only=True)
class Most:
    """The limits of a choice: bytes and seconds of a call, and the distance from the best within these two.

    ``time_factor``, at least 1, is a multiple of the shortest time; ``points`` is a difference of scores.
    """

    memory_bytes: float | None = None
    time_s: float | None = None
    time_factor: float | None = None
    points: float | None = None


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A decision. ``rows`` has one row per mechanism; ``recommended`` are the labels to use, often one.

    ``place`` of a row is FRONT (on the Pareto front of time, memory and score), DOMINATED (by the label in
    ``dominated_by``), OUTSIDE (``missed`` names the limits) or FAILED (``why`` says it). ``unsure`` names the
    limits that lie inside the interval of the row's value. ``time_ratio`` is to ``quickest``, the fastest
    within all limits. ``pool_ratio`` is to ``pool_quickest`` and ``score_difference`` to ``pool_best``, the
    fastest and the best among those within the limits of bytes and seconds.

    ``tied`` are those within all limits that are not significantly slower than the quickest. ``undecided``
    says why no time can be called the shortest. ``worse`` are the tied ones that score significantly worse
    than another tied one, with the comparison. ``between`` are the two lengths of an interpolation, ``used``
    the rows of the summary that the costs come from. ``other_scores`` says why scores are left out.
    """

    seq_len: int
    mode: str
    setting: Mapping[str, Any]
    most: Most
    rows: pd.DataFrame
    between: tuple[int, int] | None = None
    scores: Scores | None = None
    other_scores: str = ""
    quickest: str = ""
    pool_quickest: str = ""
    pool_best: str = ""
    tied: Sequence[str] = ()
    worse: Mapping[str, pd.Series] = field(default_factory=dict)
    undecided: str = ""
    recommended: Sequence[str] = ()
    used: pd.DataFrame = field(default_factory=pd.DataFrame)

    def of(self, place: str) -> pd.DataFrame:
        """Return the rows in one place."""
        return self.rows[self.rows["place"] == place]

    def row(self, label: str) -> pd.Series:
        """Return the row of a label."""
        return self.rows[self.rows["label"] == label].iloc[0]

    def exit_code(self) -> Exit:
        """Return DONE with a recommendation, else UNDECIDED, or NOTHING if none is within the limits."""
        if self.recommended:
            return Exit.DONE
        return Exit.UNDECIDED if len(self.of(FRONT)) else Exit.NOTHING


def choose(
    raw: pd.DataFrame,
    *,
    seq_len: int,
    mode: str = "forward",
    most: Most | None = None,
    where: Mapping[str, Any] | None = None,
    task: str | None = None,
    task_seq_len: int | None = None,
) -> Choice:
    """Decide which mechanism to use at ``seq_len`` from the raw frame; docs/choose.md has the rules.

    ``where`` selects the setting of the costs (``choice_setting.SETTING``), ``task`` and ``task_seq_len``
    that of the scores, which are combined with the costs by label alone. Raises UsageError if several
    settings fit, and Untold if the length is outside of what was measured.
    """
    most = most or Most()
    raw = raw.sort_values([name for name in _ORDER if name in raw], kind="stable", ignore_index=True)
    measured = costs(raw, mode) if len(raw) else pd.DataFrame()
    if measured.empty:
        raise Untold(f"nothing can be told: these folders hold no cost of mode {mode}")
    rows = setting_of_costs(measured, seq_len, where or {})
    at = AtLength.of(rows, raw, seq_len)
    scores, other_scores = _scores(raw, task, task_seq_len, seq_len, most)
    table = _scored([{**_BLANK, **at.of_label(name)} for name in sorted(set(rows["label"]))], scores)
    table = table.sort_values(["time_s", "memory_bytes", "label"], ignore_index=True).set_index(
        "label", drop=False
    )
    table["place"] = np.where(table["why"] == "", "", FAILED)
    known = {
        "seq_len": seq_len, "mode": mode, "most": most, "scores": scores, "other_scores": other_scores,
        "setting": {name: plain(rows[name].iloc[0]) for name in SETTING},
        "between": tuple(at.weights) if len(at.weights) > 1 else None, "used": at.rows,
    }  # fmt: skip
    known |= _limited(table, at, scores, most)
    left = table[table["place"] == ""]
    if left.empty:
        return Choice(rows=table.reset_index(drop=True), **known)
    by = dominated(left, lower=scores is not None and scores.lower)
    table.loc[left.index, "place"] = [DOMINATED if by[name] else FRONT for name in left.index]
    table.loc[left.index, "dominated_by"] = [by[name] for name in left.index]
    known |= _decided(table, at, scores)
    return Choice(rows=table.reset_index(drop=True), **known)


def dominated(rows: pd.DataFrame, *, lower: bool = False) -> dict[str, str]:
    """Return for each label the first one that dominates it: no worse in anything and better in something.

    Time and memory are better if smaller, scores if larger; with ``lower``, scores if smaller too. Two rows
    of which only one has a value cannot be compared in it, and neither dominates the other.
    """
    cost = rows["score"] if lower else -rows["score"]
    values = rows.assign(cost=cost)[["time_s", "memory_bytes", "cost"]].to_numpy(dtype=float)
    known = ~np.isnan(values)
    found = {}
    for place, name in enumerate(rows["label"]):
        comparable = (known == known[place]).all(axis=1)
        ours, theirs = np.nan_to_num(values[place]), np.nan_to_num(values)
        better = comparable & (theirs <= ours).all(axis=1) & (theirs < ours).any(axis=1)
        found[str(name)] = str(rows["label"].iloc[int(np.argmax(better))]) if better.any() else ""
    return found


def _scores(
    raw: pd.DataFrame, task: str | None, task_seq_len: int | None, seq_len: int, most: Most
) -> tuple[Scores | None, str]:
    """Return the scores, or None and why they are left out; they are needed if an option asks for them."""
    try:
        scores = Scores.of(raw, task, task_seq_len, seq_len)
    except UsageError as error:
        if most.points is not None or task is not None or task_seq_len is not None:
            raise
        return None, str(error) if (raw["probe"] == "accuracy").any() else ""
    if most.points is not None and score_unit(scores.score) != "share":
        raise UsageError(f"a limit in points goes with scores that are shares, and {scores.score} is none")
    return scores, ""


def _scored(rows: Sequence[Mapping[str, Any]], scores: Scores | None) -> pd.DataFrame:
    table = pd.DataFrame(rows).astype(dict.fromkeys(_NUMBERS, float))
    if scores is None:
        return table
    means = scores.means.reindex(table["label"])
    names = {"score": "mean", "score_low": "low", "score_high": "high", "seeds": "seeds"}
    return table.assign(**{name: means[column].to_numpy(dtype=float) for name, column in names.items()})


def _limited(table: pd.DataFrame, at: AtLength, scores: Scores | None, most: Most) -> dict[str, Any]:
    """Mark the rows of the table outside the limits; return the standards of the relative limits."""
    _missed(table, table["place"] == "", "memory", "memory", most.memory_bytes, "_bytes")
    _missed(table, table["place"] == "", "time", "time", most.time_s, "_s")
    table.loc[table["missed"] != "", "place"] = OUTSIDE
    pool = table[table["place"] == ""]
    if pool.empty:
        return {}
    quickest = str(pool["label"].iloc[0])
    known = {"pool_quickest": quickest}
    for name in pool["label"]:
        table.loc[name, ["pool_ratio", "pool_ratio_low", "pool_ratio_high"]] = at.ratio(name, quickest)
    inside = table.index.isin(pool.index)
    # times of two hosts have no ratio: such a row may be within the limit
    compared = table["pool_ratio"].notna()
    _missed(table, inside & compared, "time_factor", "pool_ratio", most.time_factor)
    if most.time_factor is not None:
        table.loc[inside & ~compared, "unsure"] += "time_factor "
    if scores is not None and pool["score"].notna().any():
        best = scores.best(pool["score"])
        known["pool_best"] = best
        scored = [name for name in pool["label"] if pd.notna(pool.loc[name, "score"])]
        for name, row in scores.differences(scored, best).iterrows():
            ends = [row["difference"], row["low"], row["high"]]
            table.loc[name, _DIFFERENCE] = ends if scores.lower else [-ends[0], -ends[2], -ends[1]]
        table.loc[best, _DIFFERENCE] = 0.0
        # means of all seeds; the interval is that of the seeds in common
        behind = pool.loc[best, "score"] - pool["score"]
        table.loc[pool.index, "score_difference"] = -behind if scores.lower else behind
    _missed(table, inside, "points", "score_difference", most.points)
    table.loc[pool.index[table.loc[pool.index, "missed"] != ""], "place"] = OUTSIDE
    return known


_DIFFERENCE = ["score_difference", "score_difference_low", "score_difference_high"]


def _missed(
    table: pd.DataFrame, rows: Any, name: str, column: str, limit: float | None, unit: str = ""
) -> None:
    """Note the limit in ``missed`` of those rows that are above it, and in ``unsure`` if it is uncertain."""
    if limit is None:
        return
    limit *= 1 + 1e-12  # a difference of two scores has a rounding error
    value = table[f"{column}{unit}"]
    table.loc[rows & ~(value <= limit), "missed"] += f"{name} "
    sure = (table[f"{column}_high{unit}"] <= limit) | (table[f"{column}_low{unit}"] > limit) | value.isna()
    table.loc[rows & ~sure, "unsure"] += f"{name} "


def _decided(table: pd.DataFrame, at: AtLength, scores: Scores | None) -> dict[str, Any]:
    """Return the recommendation among the rows within all limits, and what it follows from."""
    left = table[table["place"].isin([FRONT, DOMINATED])]
    quickest = str(left["label"].iloc[0])
    ratio = ["time_ratio", "time_ratio_low", "time_ratio_high"]
    for name in left["label"]:
        table.loc[name, ratio] = at.ratio(name, quickest)
    left = table.loc[left.index].reset_index(drop=True)
    known: dict[str, Any] = {"quickest": quickest}
    why = undecided(left)
    if why:
        alone = why == ONE_MECHANISM
        return known | ({"recommended": [quickest]} if alone else {"undecided": why})
    if not at.together(list(left["label"])):
        left = left.assign(time_ratio=math.nan)
    tied = fastest(left)
    worse = scores.worse(tied) if scores is not None and len(tied) > 1 else {}
    equal = table.loc[[name for name in tied if name not in worse]]
    # one that is not tied can be faster than a tied one whose time is less well known
    sound = equal[(equal["place"] == FRONT) | equal["dominated_by"].isin(tied)]
    equal = equal if sound.empty else sound
    least = equal["memory_bytes"].min()
    recommended = equal if pd.isna(least) else equal[equal["memory_bytes"] <= least * (1 + SAME_MEMORY)]
    return known | {"tied": tied, "worse": worse, "recommended": list(recommended["label"])}
