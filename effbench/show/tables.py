"""Rows of results as text in five formats: one row per configuration or record."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
from rich.console import Console, Group
from rich.text import Text

from effbench.common.columns import Unit, column
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.blocks import FASTEST, FORMATS, Block, as_text, natural_width, renderable
from effbench.show.units import Figure, figure

if TYPE_CHECKING:
    from effbench.show.shaping import Shaped

# The shape of a row: only configurations of the same shape are compared.
SHAPE = [
    "scope",
    "batch_size",
    "d_model",
    "heads",
    "layers",
    "dtype",
    "device",
    "threads",
    "allocator",
    "compile",
]


def compiled_in_words(shape: Mapping[str, Any]) -> str:
    """Return ``, compiled (default)``, or nothing for a plain form."""
    kind = shape.get("compile", "none")
    return "" if kind == "none" else f", compiled ({kind})"


_PRETTY: dict[Unit, Callable[[float], str]] = {
    "seconds": units.seconds,
    "bytes": units.size,
    "share": units.share,
    "flops": lambda value: units.count(value, "FLOP"),
    "flops_per_s": lambda value: units.count(value, "FLOP/s"),
    "per_s": units.count,
    "number": lambda value: f"{value:.6g}",
    "count": lambda value: f"{value:.6g}",
    "text": lambda value: f"{value:.6g}",
}
_LARGE_COUNTS = {"parameters"}
_SHORT = {"batch_size": "batch", "d_model": "d", "tokens_per_s": "tokens/s", "peak_bytes": "memory"}
_NO_INTERVAL = (math.nan, math.nan)
# Columns that identify a row, repeated in each part of a table that is too wide.
_KEY = {"mechanism", "options", "mode", "task", "seq_len", "probe", "repeat"}


def render(frame: pd.DataFrame, format: str, width: int | None = None, shaped: Shaped | None = None) -> str:
    """Return the frame as text: plain SI numbers in csv and json, rounded numbers in the other formats.

    ``width`` is that of a terminal: a wider table is folded, or cut into parts with the columns that identify
    the row. In these formats a column with one value in all rows is a line above the table, and empty columns
    are left out, unless the columns were chosen: ``shaped``. Raises UsageError for an unknown format.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if format == "csv":
        return str(frame.to_csv(index=False))
    if format == "json":
        return json.dumps([plain(row) for row in frame.to_dict(orient="records")], indent=1)
    constant, varying = ({}, frame) if shaped else _split(frame)
    lines = [f"{name}: {value}" for name, value in constant.items()]
    block = _block(varying, shaped)
    if format == "markdown":
        return "\n".join([*lines, "", as_text([block], format)])
    if format == "latex":
        return "\n".join([*(f"% {' '.join(line.split())}" for line in lines), as_text([block], format)])
    out = io.StringIO()
    longest = max(map(len, [*lines, *block.notes]), default=0)
    wide = max(natural_width([block]), longest, 1) if width is None else width  # a pipe has no width
    console = Console(file=out, width=wide, highlight=False, color_system=None)
    console.print(Group(*map(Text, lines), renderable([block])))
    return out.getvalue()


def what_was_measured(shape: Mapping[str, Any]) -> str:
    """Return ``one attention layer``, ``an encoder of 2 blocks`` or ``a user encoder of 1 layer``."""
    if shape["scope"] == "attention":
        return "one attention layer"
    if shape["scope"] == "user-encoder":
        return f"a user encoder of {plural(int(shape['layers']), 'layer')}"
    return f"an encoder of {plural(int(shape['layers']), 'block')}"


def items_in_words(shape: Mapping[str, Any]) -> str:
    """Return what ``seq_len`` counts: ``clicks`` of a user encoder, else ``tokens``."""
    return "clicks" if shape["scope"] == "user-encoder" else "tokens"


def of_shape(frame: pd.DataFrame, shape: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows that have these values in these columns."""
    inside = pd.Series(True, index=frame.index)
    for name, value in shape.items():
        inside &= frame[name] == value
    return frame[inside]


def each_row(frame: pd.DataFrame) -> list[Any]:
    """Return the rows as named tuples, typed as Any because a checker cannot know their fields."""
    return list(frame.itertuples())


def by_label(rows: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Split rows by mechanism and options: (label, rows)."""
    return [(str(name), group) for name, group in rows.groupby(labels(rows))]


def labels(rows: pd.DataFrame) -> pd.Series:
    """Return the label of each row: its mechanism with its options."""
    names = map(label, rows["mechanism"], rows["options"])
    return pd.Series(list(names), index=rows.index, dtype=object)


def plain(row: Mapping[Any, object]) -> dict[str, object]:
    """Return a row for JSON: None for a missing value."""
    return {
        str(name): None if isinstance(value, float) and pd.isna(value) else value
        for name, value in row.items()
    }


def pretty(name: str) -> Callable[[float], str]:
    """Return the function that formats the numbers of a column."""
    return units.count if name in _LARGE_COUNTS else _PRETTY[column(name).unit]


def interval_columns(name: str) -> tuple[str, str]:
    """Return the names of an interval's ends: ``time_low_s``, ``time_high_s`` of ``time_s``."""
    stem, unit = (name[:-2], "_s") if name.endswith("_s") else (name, "")
    return f"{stem}_low{unit}", f"{stem}_high{unit}"


def _split(frame: pd.DataFrame) -> tuple[dict[str, str], pd.DataFrame]:
    """Return (columns with the same value in all rows, the frame of the other columns that are not empty)."""
    constant: dict[str, str] = {}
    keep = []
    for name in frame.columns:
        written = {_written(str(name), value) for value in frame[name]}
        if written <= {""}:
            continue
        if len(written) == 1 and len(frame) > 1 and name not in ("mechanism", "status"):
            constant[name] = written.pop()
        elif not str(name).startswith("samples_"):
            keep.append(name)
    return constant, frame[keep]


def _block(frame: pd.DataFrame, shaped: Shaped | None) -> Block:
    if frame.empty:
        return Block(notes=["no rows"])
    names = [str(name) for name in frame]
    ends = {name: low_high for name in names if {*(low_high := interval_columns(name))} <= {*names}}
    rows = []
    for place, row in enumerate(frame.to_dict(orient="records")):
        values = {str(name): value for name, value in row.items()}
        intervals = {name: (float(values[low]), float(values[high])) for name, (low, high) in ends.items()}
        rows.append(
            [_cell(place, name, values[name], intervals.get(name, _NO_INTERVAL), shaped) for name in names]
        )
    figures = [[isinstance(row[place], Figure) for row in rows] for place in range(len(names))]
    keys = shaped.keys if shaped else _KEY
    notes = [f"*: {FASTEST}"] if shaped and shaped.best else []
    return Block(
        title=shaped.title if shaped else "",
        head=[_SHORT.get(name, name) for name in names],
        rows=rows,
        left=[place for place, known in enumerate(figures) if not any(known)],
        keys=[place for place, name in enumerate(names) if name in keys],
        intervals=[names.index(end) for low_high in ends.values() for end in low_high],
        notes=[*notes, "~: noisy"] if shaped and shaped.noisy else notes,
    )


def _cell(place: int, name: str, value: object, interval: tuple[float, float], shaped: Shaped | None) -> str:
    if shaped is None:
        return _written(name, value, interval)
    at = (place, name)
    return _written(
        shaped.quantity.get(name, name), value, shaped.intervals.get(at, interval),
        best=at in shaped.best, noisy=at in shaped.noisy,
    )  # fmt: skip


def _written(
    name: str,
    value: object,
    interval: tuple[float, float] = _NO_INTERVAL,
    *,
    best: bool = False,
    noisy: bool = False,
) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return figure(float(value), pretty(name), interval, best=best, noisy=noisy)
    return str(value)
