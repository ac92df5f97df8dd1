"""Tables for people, as data: a title, rows of texts and sentences, written in any of the formats."""

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
    """One table with a title above it and sentences below it: ``notes``, and ``warnings`` to act on.

    A block without ``head`` has sentences only. ``left`` are the indices of text columns, which are aligned
    to the left and may be folded; with ``fold`` the columns of numbers may be folded too. On a terminal a
    text that ends with ``*`` is bold, and a status other than ok is red.
    """

    title: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    notes: Sequence[str] = field(default_factory=tuple)
    warnings: Sequence[str] = field(default_factory=tuple)
    left: Sequence[int] = (0,)
    fold: bool = False


def as_text(blocks: Iterable[Block], format: str) -> str:
    """Return the blocks as text in one of FORMATS except ``table``, which ``renderable`` is for.

    csv: each table after a line ``# title``, with an empty line between tables. json: a list of objects with
    title, columns, rows, notes and warnings.
    """
    form = {"csv": _csv, "json": _json, "markdown": _markdown, "latex": _latex}[format]
    return form(list(blocks))


def renderable(blocks: Iterable[Block]) -> RenderableType:
    """Return the blocks for a terminal; no information depends on colour alone."""
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
    """Return the block's table without title and sentences."""
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    for place, name in enumerate(block.head):
        left = place in block.left
        table.add_column(
            Text(name),
            justify="left" if left else "right",
            overflow="fold" if left or block.fold else "crop",
            no_wrap=not (left or block.fold),
        )
    for row in block.rows:
        table.add_row(*(Text(text, _style(text)) for text in row))
    return table


def _style(text: str) -> str:
    if text in _FAILED:
        return "red"
    return "bold" if text.endswith("*") else ""


def _csv(blocks: Sequence[Block]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    for place, block in enumerate(block for block in blocks if block.head):
        out.write("\n" if place else "")
        out.write(f"# {' '.join(block.title.split())}\n")
        writer.writerows([block.head, *block.rows])
    return out.getvalue()


def _json(blocks: Sequence[Block]) -> str:
    objects = [
        {
            "title": block.title,
            "columns": list(block.head),
            "rows": [list(row) for row in block.rows],
            "notes": list(block.notes),
            "warnings": list(block.warnings),
        }
        for block in blocks
    ]
    return json.dumps(objects, indent=1)


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


def _latex(blocks: Sequence[Block]) -> str:
    """Return one booktabs table per block, with its title and sentences as comments above and below it."""
    parts = []
    for block in blocks:
        parts += [f"% {' '.join(block.title.split())}"] if block.title else []
        if block.head:
            parts.append(latex_table(block.head, block.rows, block.left))
        parts += [f"% {' '.join(sentence.split())}" for sentence in (*block.notes, *block.warnings)]
    return "\n".join(parts)


_LATEX = {"\\": r"\textbackslash{}", **{sign: f"\\{sign}" for sign in "&%$#_{}"}, "~": r"\textasciitilde{}",
          "^": r"\textasciicircum{}", "µ": r"\textmu{}", "×": r"$\times$", "±": r"$\pm$",
          "\N{NO-BREAK SPACE}": "~"}  # fmt: skip


def latex_table(head: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int]) -> str:
    """Return a ``tabular`` with the rules of booktabs."""

    def row(values: Sequence[str]) -> str:
        return " & ".join("".join(_LATEX.get(sign, sign) for sign in value) for value in values) + r" \\"

    columns = "".join("l" if place in left else "r" for place in range(len(head)))
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", row(head), r"\midrule"]
    return "\n".join([*lines, *map(row, rows), r"\bottomrule", r"\end{tabular}"])
