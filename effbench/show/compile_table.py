"""The table of compiled forms: their time over that of the plain form, the compile time and graph breaks."""

from __future__ import annotations

from typing import Any

import pandas as pd

from effbench.records.analyse.load import BESIDE_LOAD
from effbench.records.analyse.summary import label
from effbench.records.analyse.uncertainty import differs
from effbench.show import units
from effbench.show.blocks import Block

_MARKS = "the ratio differs from 1"


def compile_block(group: pd.DataFrame, kind: str) -> Block | None:
    """Return the table of one shape's compiled times, or None if none has a plain form beside it.

    ``*`` marks a time that differs from that of the plain form, unless it was measured beside other load.
    """
    rows = group[group["compile_ratio"].notna()]
    if rows.empty:
        return None
    lengths = sorted(rows["seq_len"].unique())
    texts = []
    for (mode, mechanism, options), own in rows.groupby(["mode", "mechanism", "options"], sort=False):
        at = own.set_index("seq_len")
        breaks, again = int(own["graph_breaks"].max()), int(own["recompiles"].max())
        texts.append(
            [
                label(mechanism, options),
                str(mode),
                *(_written(at.loc[n]) if n in at.index else "" for n in lengths),
                units.figure(float(own["compile_s"].max()), units.seconds),
                str(breaks),
                str(again),
            ]
        )
    head = ["mechanism", "mode", *map(units.length, lengths), "compile time", "breaks", "recompiles"]
    notes = [
        f"{label(row['mechanism'], row['options'])} breaks the graph: {row['graph_break_reasons']}."
        for row in rows.drop_duplicates(["mechanism", "options"]).to_dict(orient="records")
        if isinstance(row["graph_break_reasons"], str) and row["graph_break_reasons"]
    ]
    if any(isinstance(text, units.Figure) and text.best for row in texts for text in row):
        notes.insert(0, f"*: {_MARKS}")
    return Block(
        title=f"compiled ({kind}): time over that of the plain form",
        head=head,
        rows=texts,
        notes=notes,
        left=(0, 1),
        keys=(0, 1),
        marks=_MARKS,
    )


def _written(row: pd.Series[Any]) -> str:
    disturbed = BESIDE_LOAD in str(row["noisy"])
    ratio = (row["compile_ratio"], row["compile_ratio_low"], row["compile_ratio_high"])
    return units.figure(ratio[0], "{:.2f}".format, ratio[1:], best=differs(ratio) and not disturbed)
