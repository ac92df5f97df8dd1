"""Records of trainings for the plots: the rows with a score, their intervals over seeds, their captions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from effbench.records.analyse.padding import padded_lengths
from effbench.records.analyse.scores import metric_of, with_score, within_scale
from effbench.records.analyse.statistics import mean_interval
from effbench.show import units
from effbench.show.look import NothingToDraw, span
from effbench.show.plots.sheet import Sheet, set_title
from effbench.show.tables import SHAPE, by_label, of_shape

Interval = tuple[float, float, float]  # mean, low, high

RANGE = 2  # seeds of which plots show the range, not an interval
_ONE_FIGURE = [*SHAPE, "task", "seq_len", "machine"]


def trainings(raw: pd.DataFrame, kind: str, needed: Sequence[str], *, keep_all: bool = False) -> pd.DataFrame:
    """Return the training records with their ``score``; figures without a value are left out.

    ``needed`` are the columns that a figure of this kind takes its values from. With ``keep_all`` the figures
    without a value stay. Raises NothingToDraw if no record has a value in all these columns.
    """
    trained = with_score(raw[raw["probe"] == "accuracy"])
    if trained.empty:
        raise NothingToDraw(f"there is nothing to draw for {kind}: no record is of the probe accuracy")
    if with_values(trained, needed).empty:
        metric = metric_of(trained)
        words = [c.replace("score", metric).replace("samples_", "samples of ") for c in needed]
        raise NothingToDraw(f"there is nothing to draw for {kind}: no training has {' and '.join(words)}")
    if keep_all:
        return trained
    return pd.concat([group for group in per_figure(trained) if len(with_values(group, needed))])


def with_values(trained: pd.DataFrame, needed: Sequence[str]) -> pd.DataFrame:
    """Return the records that ended well and have values in all these columns."""
    if not set(needed) <= set(trained.columns):
        return trained.iloc[:0]
    return trained[(trained["status"] == "ok") & trained[list(needed)].notna().all(axis=1)]


def per_figure(trained: pd.DataFrame) -> list[pd.DataFrame]:
    """Split records into those of one task, length, shape and machine."""
    return [group for _, group in trained.groupby(_ONE_FIGURE, sort=False)]


def absent(trained: pd.DataFrame, by: str, places: str, why: Callable[[pd.DataFrame], str]) -> list[str]:
    """Name the mechanisms without a point, or their values of column ``by`` that lack one, and say why.

    ``why`` gets the rows of one value and says what they lack, or nothing. ``places`` words the values:
    ``d_model {}``.
    """
    named = []
    for name, mine in by_label(trained):
        lacking: dict[str, list[str]] = {}
        for value, rows in mine.groupby(by):
            if reason := why(rows):
                lacking.setdefault(reason, []).append(f"{value:g}")
        for reason, values in lacking.items():
            everywhere = len(values) == mine[by].nunique()
            where = "" if everywhere else f" at {places.format(', '.join(values))}"
            named.append(f"{name}{where} ({reason})")
    return named


def failure_of(rows: pd.DataFrame) -> str:
    """The status of the first record that failed, or ``no value``."""
    failed = rows.loc[rows["status"] != "ok", "status"]
    return str(failed.iloc[0]) if len(failed) else "no value"


def metric_words(trained: pd.DataFrame) -> str:
    """The metric of rows of one task in words."""
    return units.score_words(metric_of(trained))


def over_seeds(values: Sequence[float], *, log: bool = False) -> Interval:
    """Return (mean, low, high): the 95 % t interval, of two seeds their range. NaN bounds for one seed.

    The mean and the interval are geometric with ``log``. A t interval of two values is 6.4 times as wide on
    each side as they are apart: it fills a panel and hides the values of the others.
    """
    numbers = np.asarray(values, dtype=float)
    numbers = np.log(numbers) if log else numbers
    if len(numbers) == RANGE:
        interval = (float(numbers.mean()), float(numbers.min()), float(numbers.max()))
    elif len(numbers) > 1:
        interval = mean_interval(list(numbers))
    else:
        interval = (float(numbers[0]), math.nan, math.nan)
    return (math.exp(interval[0]), math.exp(interval[1]), math.exp(interval[2])) if log else interval


def score_over_seeds(values: Sequence[float], score: str) -> Interval:
    """Return the same as :func:`over_seeds`; the bounds of a share are cut to 0 and 1."""
    return within_scale(over_seeds(values), score)


def seeds_note(counts: Iterable[int], bars: str = "bars") -> str:
    """A caption's explanation of the bars, from the number of seeds of each value."""
    counts = set(counts)
    many = sorted(n for n in counts if n > RANGE)
    notes = [f"95 % confidence interval (Student's t, {span(many)} seeds)"] if many else []
    notes += ["range of 2 runs"] if RANGE in counts else []
    if not notes:
        return "one seed: no confidence interval" if 1 in counts else ""
    note = f"{bars}: {', or '.join(notes)}"
    return f"{note}; no {bars}: one seed" if 1 in counts else note


def drawn_scores(rows: pd.DataFrame, raw: pd.DataFrame) -> pd.DataFrame:
    """Return rows of a summary with the ends of what a plot draws around their ``score``: ``low``, ``high``.

    ``how`` says what that is, None where it is nothing. It is the row's interval, of two seeds their range,
    from the records ``raw`` of the same task.
    """
    trained = with_score(raw[(raw["probe"] == "accuracy") & (raw["status"] == "ok")])
    low, high, how = [], [], []
    for row in rows.to_dict(orient="records"):
        mine = of_shape(trained, {name: row[name] for name in ("mechanism", "options", "seq_len", "code")})
        scores = mine["score"].dropna()
        ranged = len(scores) == RANGE
        low.append(scores.min() if ranged else row["score_low"])
        high.append(scores.max() if ranged else row["score_high"])
        kind = row["score_interval"]
        how.append(
            "range of 2 runs" if ranged else f"95 % confidence interval ({kind})" if pd.notna(kind) else None
        )
    # one step: assigned one by one, many columns are slow
    return pd.concat([rows, pd.DataFrame({"low": low, "high": high, "how": how}, index=rows.index)], axis=1)


def intervals_note(rows: pd.DataFrame) -> str:
    """A caption's explanation of the bars of :func:`drawn_scores`."""
    kinds = sorted(set(rows["how"].dropna()))
    return f"bars: {', or '.join(kinds)}" if kinds else "no confidence interval"


def shape_of(rows: pd.DataFrame) -> dict[str, Any]:
    """The values that a caption names: one value, or a range where the records have several."""
    shape: dict[str, Any] = {name: rows[name].iloc[0] for name in (*SHAPE, "task", "machine")}
    for name in ("batch_size", "d_model", "heads", "seq_len"):
        shape[name] = span(rows[name])
    return {**shape, "padding": padding_note(rows)}


def padding_note(rows: pd.DataFrame) -> str:
    """A note on the lengths whose rows are mostly padding, empty if there is none."""
    lengths = [f"{units.count(mean)} tokens at {units.length(n)}" for n, mean in padded_lengths(rows).items()]
    return f"mostly padding: on average {', '.join(lengths)}" if lengths else ""


def set_training_title(figure: Sheet, shape: dict[str, Any], notes: Sequence[str]) -> None:
    """Set a caption with the task, its length, the shape (``shape_of``), the machine and the notes."""
    task = f"{shape['task']} at {shape['seq_len']} tokens"
    set_title(figure, {**shape, "task": task}, "; ".join(filter(None, [shape["padding"], *notes])))


def not_drawn(absent: Sequence[str]) -> str:
    """A note that names the mechanisms without a value, if there are any."""
    return f"not drawn: {', '.join(absent)}" if absent else ""
