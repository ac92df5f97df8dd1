"""Tables for reading, as data: a title, rows of texts and sentences, written in any of the formats."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import get_args

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from effbench.common.spec import Status

FORMATS = ("table", "csv", "json", "markdown", "latex")
_FAILED = set(get_args(Status)) - {"ok"}


@dataclass(frozen=True, kw_only=True)
class Block:
    """One table with a title above, and below it sentences: ``notes``, and ``warnings`` to act on.

    A block without ``head`` has sentences only. ``left`` are the places of columns of text, which are aligned
    to the left and may be folded; with ``fold`` the columns of numbers may be too. A cell that ends with
    ``*`` is bold on a terminal, and a status other than ok is red.
    """

    title: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    left: Sequence[int] = (0,)
    fold: bool = False


def as_text(blocks: Iterable[Block], format: str) -> str:
    """The blocks as text in one of FORMATS but ``table``, for which ``renderable`` is made.

    csv: each table behind a line ``# title``, an empty line between two. json: a list of objects with title,
    columns, rows, notes and warnings.
    """
    form = {"csv": _csv, "json": _json, "markdown": _markdown, "latex": _latex}[format]
    return form(list(blocks))


def renderable(blocks: Iterable[Block]) -> RenderableType:
    """The blocks for a terminal; nothing that matters depends on colour."""
    parts: list[RenderableType] = []
    for block in blocks:
        if block.title:
            parts.append(Text(f"\n{block.title}", "bold"))
        if block.head:
            parts.append(as_table(block))
        parts += [Text(note) for note in block.notes]
        parts += [Text(warning, "yellow") for warning in block.warnings]
    return Group(*parts)


def as_table(block: Block) -> Table:
    """The block's table alone."""
    found = Table(box=None, pad_edge=False, padding=(0, 1))
    for place, name in enumerate(block.head):
        left = place in block.left
        found.add_column(
            Text(name),
            justify="left" if left else "right",
            overflow="fold" if left or block.fold else "crop",
            no_wrap=not (left or block.fold),
        )
    for row in block.rows:
        found.add_row(*(Text(cell, _style(cell)) for cell in row))
    return found


def _style(cell: str) -> str:
    if cell in _FAILED:
        return "red"
    return "bold" if cell.endswith("*") else ""


def _csv(blocks: Sequence[Block]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for place, block in enumerate(block for block in blocks if block.head):
        out.write("\n" if place else "")
        out.write(f"# {' '.join(block.title.split())}\n")
        writer.writerows([block.head, *block.rows])
    return out.getvalue()


def _json(blocks: Sequence[Block]) -> str:
    found = [
        {
            "title": block.title,
            "columns": list(block.head),
            "rows": [list(row) for row in block.rows],
            "notes": list(block.notes),
            "warnings": list(block.warnings),
        }
        for block in blocks
    ]
    return json.dumps(found, indent=1)


def _markdown(blocks: Sequence[Block]) -> str:
    parts: list[str] = []
    for block in blocks:
        parts += [f"**{markdown_text(block.title)}**"] if block.title else []
        if block.head:
            rule = ["---" if place in block.left else "---:" for place in range(len(block.head))]
            parts.append("\n".join(map(markdown_row, [block.head, rule, *block.rows])))
        parts += [markdown_text(line) for line in (*block.notes, *block.warnings)]
    return "\n\n".join(parts)


def markdown_row(cells: Sequence[str]) -> str:
    """``| a | b |`` with each cell on one line."""
    return "| " + " | ".join(" ".join(cell.split("\n")).replace("|", "\\|") for cell in cells) + " |"


def markdown_text(text: str) -> str:
    """A sentence without what Markdown would take for emphasis."""
    return text.replace("*", "\\*")


def _latex(blocks: Sequence[Block]) -> str:
    """A booktabs table a block, with its title and sentences as comments above and below it."""
    parts = []
    for block in blocks:
        said = [block.title] if block.title else []
        parts += [f"% {' '.join(line.split())}" for line in said]
        if block.head:
            parts.append(latex_table(block.head, block.rows, block.left))
        parts += [f"% {' '.join(line.split())}" for line in (*block.notes, *block.warnings)]
    return "\n".join(parts)


_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "µ": r"\textmu{}", "×": r"$\times$", "±": r"$\pm$",
          "\N{NO-BREAK SPACE}": "~"}  # fmt: skip


def latex_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int]) -> str:
    """A ``tabular`` with booktabs' rules."""

    def row(values: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(sign, sign) for sign in value) for value in values) + r" \\"

    columns = "".join("l" if place in left else "r" for place in range(len(head)))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(head), r"\midrule"]
    return "\n".join([*lines, *map(row, rows), r"\bottomrule", r"\end{tabular}"])
