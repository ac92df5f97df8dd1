"""Target badge: one number of one configuration as a small SVG picture, or the reason why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

import pandas as pd

from effbench.common import columns
from effbench.common.spec import UsageError
from effbench.common.wording import one_line
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.export.selection import Selection
from effbench.show.shaping import check_columns, differences
from effbench.show.tables import interval_columns, items_in_words, pretty

COLUMN, MODE = "time_s", "forward"  # if none are asked for
_SVG = "http://www.w3.org/2000/svg"
_MOST = 100  # characters of the badge's left half
# White text has a contrast of at least 4.5 on each of these.
_COLOURS = {"measured": "#0969a8", "noisy": "#946000", "failed": "#b3261e", "not measured": "#5f6368"}
_TIMED = ("time_s", "tokens_per_s", "time_ratio")
_NOT_TRIED = ("ok", "skipped", "interrupted")
_WORDS = {"oom": "out of memory", "incorrect": "wrong results"}


def svg(selection: Selection) -> bytes:
    """Return the picture of ``wish.column`` (by default ``time_s``) of the one configuration that is chosen.

    Its text says if the number is noisy, if the configuration failed, or if it was not measured; its title
    and description have the interval, the machine and the code. Raises UsageError if several configurations
    or none are chosen, or the column has no numbers.
    """
    import anybadge

    column = selection.wish.column or COLUMN
    check_columns("--column", selection.rows, [column])
    if not pd.api.types.is_numeric_dtype(selection.rows[column]):
        raise UsageError(f"--column {column} has texts: a badge shows a number")
    row = _row(selection, column)
    left = one_line(_left(row, column), _MOST)
    right, kind = _right(row, column)
    picture = anybadge.Badge(left, right, default_color=_COLOURS[kind], num_padding_chars=1)
    ElementTree.register_namespace("", _SVG)
    root = ElementTree.fromstring(picture.badge_svg_text.encode())
    root.set("role", "img")
    for place, (name, words) in enumerate((("title", f"{left}: {right}"), ("desc", _about(row, column)))):
        element = ElementTree.Element(f"{{{_SVG}}}{name}")
        element.text = words
        root.insert(place, element)
    return bytes(ElementTree.tostring(root, encoding="utf-8")) + b"\n"


def _row(selection: Selection, column: str) -> dict[str, Any]:
    """Return the row to show: a training for a score, else a cost if there is one; in mode forward."""
    rows = selection.rows
    if _is_score(rows, column):
        rows = rows[rows["task"] != ""]
        if rows.empty:
            raise UsageError(f"--column {column} is a score, and no training is chosen")
    elif (rows["task"] == "").any():
        rows = rows[rows["task"] == ""]
        if selection.wish.mode is None and (rows["mode"] == MODE).any():
            rows = rows[rows["mode"] == MODE]
    known = rows[rows[column].notna()]
    rows = known if len(known) else rows
    if len(rows) != 1:
        raise UsageError(
            f"a badge shows one configuration, and {len(rows)} are chosen, which differ in "
            f"{', '.join(differences(rows).values())}: choose one with --mechanism, --seq-len, --mode "
            "or --where"
        )
    return {str(name): value for name, value in rows.iloc[0].items()}


def _is_score(rows: pd.DataFrame, column: str) -> bool:
    return columns.column(column).role == "score" or columns.bounds(column)[2] in rows


def _left(row: dict[str, Any], column: str) -> str:
    """Return ``fastformer at 4,096 tokens``, with the task, mode and column if these are not usual."""
    name = label(row["mechanism"], row["options"])
    task = f" on {row['task'].partition(':')[0]}" if row["task"] else ""
    mode = f", {row['mode']}" if row["mode"] != MODE and not task else ""
    what = "" if column == COLUMN else f", {units.score_words(column)}"
    return f"{name}{task} at {int(row['seq_len']):,} {items_in_words(row)}{mode}{what}"


def _right(row: dict[str, Any], column: str) -> tuple[str, str]:
    """Return the text of the right half, and the kind of colour."""
    if pd.isna(row[column]):
        status = str(row["status"])
        return ("not measured",) * 2 if status in _NOT_TRIED else (_WORDS.get(status, status), "failed")
    written = _written(row, column)
    text = f"{written(row[column])}{_interval(row, column, written)}"
    if _noisy(row, column):
        return f"~{text}, noisy", "noisy"
    return text, "measured"


def _noisy(row: dict[str, Any], column: str) -> str:
    """Return why a time is noisy, "" if it is not; a row of a training or a failure does not say."""
    return row["noisy"] if column in _TIMED and isinstance(row["noisy"], str) else ""


def _written(row: dict[str, Any], column: str) -> Callable[[float], str]:
    return units.written_score(column) if columns.bounds(column)[2] in row else pretty(column)


def _interval(row: dict[str, Any], column: str, written: Callable[[float], str]) -> str:
    """Return `` ± 11 %``, or `` ± 0.7`` for a score in per cent: the distance to the farther end."""
    ends = [row.get(name, float("nan")) for name in interval_columns(column)]
    if any(pd.isna(ends)) or not row[column]:
        return ""
    half = max(abs(end - row[column]) for end in ends)
    return f" ± {100 * half:.1f}" if written == units.share else f" ± {100 * half / abs(row[column]):.0f} %"


def _about(row: dict[str, Any], column: str) -> str:
    """Return the number, its interval and their doubts in full, the machine and the code."""
    parts = [f"{column} {row[column]}" if pd.notna(row[column]) else f"{column} unknown"]
    low, high = (row.get(name, float("nan")) for name in interval_columns(column))
    if pd.notna(low) and pd.notna(high):
        how = row.get(columns.bounds(column)[2]) or row.get("time_interval")
        parts.append(f"95 % interval {low} to {high} ({how})" if how else f"95 % interval {low} to {high}")
    if noisy := _noisy(row, column):
        parts.append(f"noisy: {noisy}")
    if row["status"] != "ok":
        parts.append(f"{row['status']}: {row['reason']}")
    parts += [f"machine: {row['machine']}", f"code: {row['code']}"]
    return one_line("; ".join(parts), 1000)
