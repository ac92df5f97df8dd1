"""Rows of results as text in five formats: one row per configuration or record."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from effbench.common.columns import Unit, column
from effbench.common.spec import UsageError
from effbench.common.wording import plural
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.blocks import FORMATS, latex_table, markdown_row

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
# Columns that identify a row, repeated in each part of a table that is too wide.
_KEY = {"mechanism", "options", "mode", "task", "seq_len", "probe", "repeat"}
# Columns of long text, and the width that they are folded to if a table is too wide.
_FOLDED = 28
_WIDE = {"reason", "noisy", "flops_left_out", "memory_left_out", "side_effects", "mechanism", "task"}


def render(frame: pd.DataFrame, format: str, width: int | None = None) -> str:
    """Return the frame as text: plain SI numbers in csv and json, rounded numbers in the other formats.

    ``width`` is that of a terminal: a wider table is split into parts below each other, each with the columns
    that identify the row. Raises UsageError for an unknown format.
    """
    if format not in FORMATS:
        raise UsageError(f"format {format!r} is not one of {', '.join(FORMATS)}")
    if format == "csv":
        return str(frame.to_csv(index=False))
    if format == "json":
        return json.dumps([plain(row) for row in frame.to_dict(orient="records")], indent=1)
    constant, varying = _split(frame)
    head = [f"{name}: {value}" for name, value in constant.items()]
    texts = [
        [_written(name, value) for name, value in zip(varying, row, strict=True)]
        for row in varying.itertuples(index=False)
    ]
    names = [_SHORT.get(str(name), str(name)) for name in varying]
    if format == "markdown":
        lines = [markdown_row(names), markdown_row(["---"] * len(names)), *map(markdown_row, texts)]
        return "\n".join([*head, "", *lines])
    if format == "latex":
        comments = [f"% {' '.join(line.split())}" for line in head]
        return "\n".join([*comments, latex_table(names, texts, range(len(names)))])
    return _terminal(head, [str(name) for name in varying], names, texts, width)


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


def _split(frame: pd.DataFrame) -> tuple[dict[str, str], pd.DataFrame]:
    """Return (columns with the same value in all rows, the frame of the other columns that are not empty)."""
    constant: dict[str, str] = {}
    keep = []
    for name in frame.columns:
        written = {_written(name, value) for value in frame[name]}
        if written <= {""}:
            continue
        if len(written) == 1 and len(frame) > 1 and name not in ("mechanism", "status"):
            constant[name] = written.pop()
        elif not str(name).startswith("samples_"):
            keep.append(name)
    return constant, frame[keep]


def _written(name: object, value: object) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        known = column(str(name))
        pretty = units.count if known.name in _LARGE_COUNTS else _PRETTY[known.unit]
        return pretty(float(value))
    return str(value)


def _terminal(
    head: Sequence[str],
    columns: Sequence[str],
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    width: int | None,
) -> str:
    places = list(range(len(columns)))
    whole = _table(places, columns, names, texts, folded=False)
    natural = _natural_width(whole)
    wide = natural if width is None else width  # a pipe or a file has no width
    parts = [whole] if natural <= wide else [
        _table(part, columns, names, texts) for part in _parts(places, columns, names, texts, wide)
    ]  # fmt: skip
    out = io.StringIO()
    console = Console(file=out, width=wide, highlight=False, color_system=None)
    for line in head:
        console.print(Text(line))
    for place, part in enumerate(parts):
        console.print(*([""] if place else []), part, sep="\n")
    return out.getvalue()


def _parts(
    places: Sequence[int],
    columns: Sequence[str],
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    width: int,
) -> list[list[int]]:
    """Return columns in groups that fit the width, each starting with those that identify the row."""
    key = [place for place in places if columns[place] in _KEY]
    groups: list[list[int]] = []
    for place in (place for place in places if place not in key):
        wider = [*(groups[-1] if groups else key), place]
        if groups and _natural_width(_table(wider, columns, names, texts)) <= width:
            groups[-1] = wider
        else:
            groups.append([*key, place])
    return groups or [list(places)]


def _table(
    places: Sequence[int],
    columns: Sequence[str],
    names: Sequence[str],
    texts: Sequence[Sequence[str]],
    *,
    folded: bool = True,
) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for place in places:
        wide = columns[place] in _WIDE
        table.add_column(
            names[place],
            overflow="fold",
            no_wrap=not wide,
            min_width=10 if wide else None,
            max_width=_FOLDED if wide and folded else None,
        )
    for row in texts:
        table.add_row(*(Text(row[place]) for place in places))
    return table


def _natural_width(table: Table) -> int:
    return Console(width=10_000, file=sys.stdout).measure(table).maximum + 1
