"""Tables of the report: blocks as HTML with numbers to sort by, all configurations, crossovers, failures."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd

from effbench.records.analyse.scores import metric_of, with_score
from effbench.records.analyse.summary import label
from effbench.show.blocks import Block
from effbench.show.report.report_legend import Legend
from effbench.show.report.report_sources import Source
from effbench.show.report.report_text import breakable, escape, known, paragraphs
from effbench.show.tables import SHAPE, each_row

_NUMBER = re.compile(r"\D{0,3}?([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)\s*([A-Za-zµ%]*)")
_POWERS = {"T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "m": 1e-3, "µ": 1e-6, "n": 1e-9,
           "GiB": 2.0**30, "MiB": 2.0**20, "KiB": 2.0**10, "%": 0.01}  # fmt: skip
# Columns of the table of all configurations: name -> head.
_NUMBERS = {
    "seq_len": "length",
    "time_s": "time (s)",
    "time_low_s": "time low (s)",
    "time_high_s": "time high (s)",
    "tokens_per_s": "tokens/s",
    "prefill_s": "prefill (s)",
    "peak_bytes": "peak memory (B)",
    "state_bytes": "state (B)",
    "flops": "FLOPs",
    "energy_j": "energy (J)",
    "parameters": "parameters",
    "score": "score",
    "score_low": "score low",
    "score_high": "score high",
    "train_seconds": "training (s)",
    "repeats": "repeats",
}
_LONG = 40  # characters of a text that needs a wide column
_TEXTS = {"status": "status", "noisy": "noisy", "reason": "reason"}


def number_in(text: str) -> float | None:
    """Return the number that a cell begins with, in SI units; None if none. The inverse of show.units.

    At most three other signs may stand before it, such as ``~`` or ``N^``.
    """
    found = _NUMBER.match(text.replace("\N{NO-BREAK SPACE}", " "))
    if found is None:
        return None
    number, unit = float(found[1]), found[2]
    factor = _POWERS.get(unit)
    if factor is None:
        factor = _POWERS.get(unit[:1], 1.0) if len(unit) > 1 else 1.0
    return number * factor


def as_html(block: Block, legend: Legend, source: int) -> str:
    """Return the block: its title, its table with a number to sort by in each cell, and its sentences."""
    title = f"<h4>{escape(block.title)}</h4>" if block.title else ""
    notes = paragraphs(block.notes, "note") + paragraphs(block.warnings, "warning")
    table = _table(block, legend) if block.head else ""
    kind = "block" if block.head else "block words"
    return f'<div class="{kind}" data-source="{source}">{title}{table}{notes}</div>'


def _table(block: Block, legend: Legend) -> str:
    head = "".join(
        f'<th scope="col"{"" if place in block.left else " class=n"}>{escape(name)}</th>'
        for place, name in enumerate(block.head)
    )
    rows = "".join(_row(block, row, legend) for row in block.rows)
    caption = f"<caption>{escape(block.title)}</caption>" if block.title else ""
    name = escape(block.title or "table")
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{name}"><table>{caption}'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(block: Block, row: Sequence[str], legend: Legend) -> str:
    place = legend.place(row[block.head.index("mechanism")]) if "mechanism" in block.head else None
    cells = []
    for at, text in enumerate(row):
        if at in block.left:
            kind = " class=w" if len(text) > _LONG else ""
            cells.append(f"<td{kind}>{legend.swatch(text.partition(' (')[0])}{breakable(text)}</td>")
            continue
        number = number_in(text)
        value = "" if number is None else f' data-v="{number:.6g}"'
        cells.append(f"<td class=n{value}>{escape(text)}</td>")
    return f"<tr{'' if place is None else f' data-mechanism={place}'}>{''.join(cells)}</tr>"


def configurations(source: Source) -> Block:
    """Return all configurations, one per row, in SI numbers; what all have in common is in the notes."""
    frame = with_score(source.frame)
    names = [label(m, o) for m, o in zip(frame["mechanism"], frame["options"], strict=True)]
    table = pd.DataFrame({"mechanism": names}, index=frame.index)
    common = []
    for name in ("task", "mode", *SHAPE):
        if frame[name].nunique() > 1:
            table[name] = frame[name].astype(str)
        elif known(value := frame[name].iloc[0]) != "":
            common.append(f"{name}: {value}")
    left = list(range(table.shape[1]))
    for name, head in _NUMBERS.items():
        if frame[name].notna().any():
            table[head] = [f"{value:.6g}" if pd.notna(value) else "" for value in frame[name]]
    for name, head in _TEXTS.items():
        texts = [known(text) for text in frame[name]]
        if any(texts):
            left.append(table.shape[1])
            table[head] = texts
    if frame["score"].notna().any():
        trained = frame[frame["score"].notna()]
        common.append(f"score: {', '.join(sorted({metric_of(g) for _, g in trained.groupby('task')}))}")
    return Block(
        title=f"all configurations of {source.name}, in SI units",
        head=list(table.columns),
        rows=table.values.tolist(),
        notes=["; ".join(common)] if common else [],
        left=left,
    )


def crossover_block(crossings: pd.DataFrame, title: str) -> Block:
    """Return the crossovers of all pairs: who is faster from where on, the interval, and the statement.

    Of the shape, it has the columns in which crossovers differ.
    """
    shape = [name for name in ("mode", *SHAPE) if name == "mode" or crossings[name].nunique() > 1]
    rows = [
        [
            *(str(getattr(row, name)) for name in shape),
            known(row.faster_before),
            known(row.faster_after),
            "" if pd.isna(row.crossover) else f"{row.crossover:.0f}",
            _bound(row.crossover, row.crossover_low, "<", row.first),
            _bound(row.crossover, row.crossover_high, ">", row.last),
            row.statement,
        ]
        for row in each_row(crossings.sort_values(["crossover", "mode", "first_label", "second_label"]))
    ]
    head = [*shape, "faster before", "faster after", "crossover N", "low", "high", "in words"]
    numbers = range(len(shape) + 2, len(head) - 1)
    return Block(title=title, head=head, rows=rows, left=[p for p in range(len(head)) if p not in numbers])


def _bound(crossover: float, bound: float, sign: str, end: int) -> str:
    if pd.isna(crossover):
        return ""
    return f"{sign} {end}" if pd.isna(bound) else f"{bound:.0f}"


def failures(sources: Sequence[Source]) -> Block:
    """Return every record that failed, one row for all lengths of the same failure, with its reason."""
    several = len(sources) > 1
    rows = []
    for source in sources:
        raw = source.raw[source.raw["status"] != "ok"]
        named = raw.assign(
            name=[label(m, o) for m, o in zip(raw["mechanism"], raw["options"], strict=True)],
            subject=raw["task"].where(raw["task"] != "", raw["mode"]),
        )
        keys = ["status", "name", "subject", "probe", "reason"]
        for (status, name, subject, probe, reason), group in named.groupby(keys, sort=True, dropna=False):
            lengths = ", ".join(str(n) for n in sorted(set(group["seq_len"])))
            own = [source.name] if several else []
            rows.append([*own, name, subject, probe, lengths, str(len(group)), status, known(reason)])
    head = [*(["folder"] if several else []), "mechanism", "mode or task", "probe", "lengths", "records",
            "status", "reason"]  # fmt: skip
    records = head.index("records")
    left = [place for place in range(len(head)) if place != records]
    return Block(title="records without a result", head=head, rows=rows, left=left)
