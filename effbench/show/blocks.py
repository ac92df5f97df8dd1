"""Tables as data: a title, rows of texts and numbers, and sentences, written in any of the formats."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from rich.console import Group, RenderableType
from rich.text import Text

from effbench.common.spec import Status
from effbench.show.latex import as_latex
from effbench.show.layout import Fitted
from effbench.show.units import Figure

FORMATS = ("table", "csv", "json", "markdown", "latex")
_FAILED = set(get_args(Status)) - {"ok"}


FASTEST = "the fastest of the column; several are ties: none of them is significantly slower than the fastest"


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table with a title above it and sentences below it: ``notes``, and ``warnings`` to act on.

    A block without ``head`` has sentences only. A cell is a text, or a ``units.Figure``, whose number csv,
    json and latex write. ``left`` are the indices of text columns, which are aligned to the left and may be
    folded. ``keys`` are the columns that identify a row: a table that is too wide for the terminal repeats
    them in each part. ``intervals`` are the columns that repeat the intervals of figures: csv and json write
    the ends as numbers instead, latex writes them beside the numbers. ``marks`` is what ``*``, or bold, says
    of a figure. On a terminal a text that ends with
    ``*`` is bold, and a status other than ok is red.
    """

    title: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    left: Sequence[int] = (0,)
    keys: Sequence[int] = (0,)
    intervals: Sequence[int] = ()
    marks: str = FASTEST


def as_text(blocks: Iterable[Block], format: str) -> str:
    """Return the blocks as text in one of FORMATS except ``table``, which ``renderable`` is for.

    csv: each table after a line ``# title``, with its sentences in such lines too and an empty line between
    tables. json: a list of objects with title, columns, rows, notes and warnings. Numbers are plain in both,
    in SI units, and the ends of intervals have columns of their own.
    """
    form = {"csv": _csv, "json": _json, "markdown": _markdown, "latex": as_latex}[format]
    return form(list(blocks))


def renderable(blocks: Iterable[Block]) -> RenderableType:
    """Return the blocks for a terminal; no information depends on colour alone."""
    parts: list[RenderableType] = []
    for block in blocks:
        if block.title:
            parts.append(Text(f"\n{block.title}", "bold"))
        if block.head:
            parts.append(_fitted(block))
        parts += [Text(note) for note in block.notes]
        parts += [Text(warning, "yellow") for warning in block.warnings]
    return Group(*parts)


def natural_width(blocks: Iterable[Block]) -> int:
    """Return the width at which no table of the blocks is folded or cut into parts."""
    return max((_fitted(block).width for block in blocks if block.head), default=0)


def _fitted(block: Block) -> Fitted:
    return Fitted(block.head, block.rows, left=block.left, keys=block.keys, style=_style)


def _style(text: str) -> str:
    if text in _FAILED:
        return "red"
    return "bold" if text.endswith("*") else ""


def _csv(blocks: Sequence[Block]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for place, block in enumerate(blocks):
        out.write("\n" if place else "")
        if block.title:
            out.write(f"# {' '.join(block.title.split())}\n")
        if block.head:
            writer.writerows(_plain(block))
        for sentence in (*block.notes, *block.warnings):
            out.write(f"# {' '.join(sentence.split())}\n")
    return out.getvalue()


def _json(blocks: Sequence[Block]) -> str:
    objects = []
    for block in blocks:
        head, *rows = _plain(block)
        objects.append(
            {
                "title": block.title,
                "columns": head,
                "rows": rows,
                "notes": list(block.notes),
                "warnings": list(block.warnings),
            }
        )
    return json.dumps(objects, indent=1)


def _plain(block: Block) -> list[list[Any]]:
    """Return the head and the rows with plain numbers, and two columns behind each that has intervals."""
    columns: list[list[Any]] = []
    for place, name in enumerate(block.head):
        if place in block.intervals:
            continue
        cells = [row[place] for row in block.rows]
        columns.append(
            [name, *(_number(cell.value) if isinstance(cell, Figure) else cell or None for cell in cells)]
        )
        for end in ("low", "high"):
            ends = [_number(getattr(cell, end, math.nan)) for cell in cells]
            columns += [[f"{name} {end}", *ends]] if any(known is not None for known in ends) else []
    return [list(row) for row in zip(*columns, strict=True)] or [[]]


def _number(value: float) -> float | None:
    """Return a number for csv and json: whole ones without a point, None for NaN."""
    if math.isnan(value):
        return None
    return int(value) if float(value).is_integer() else float(value)


def _markdown(blocks: Sequence[Block]) -> str:
    parts: list[str] = []
    for block in blocks:
        parts += [f"**{markdown_text(block.title)}**"] if block.title else []
        if block.head:
            rule = ["---" if place in block.left else "---:" for place in range(len(block.head))]
            parts.append("\n".join(map(markdown_row, [block.head, rule, *block.rows])))
        parts += [markdown_text(sentence) for sentence in (*block.notes, *block.warnings)]
    return "\n\n".join(parts)


def markdown_row(texts: Sequence[str]) -> str:
    """Return ``| a | b |`` in one line, with escaped bars."""
    return "| " + " | ".join(" ".join(text.split("\n")).replace("|", "\\|") for text in texts) + " |"


def markdown_text(text: str) -> str:
    """Escape the signs in a sentence that Markdown would read as emphasis."""
    return text.replace("*", "\\*")
