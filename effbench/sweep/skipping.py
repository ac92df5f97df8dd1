"""The reason to skip a cell: a shorter one ran out of memory or time; with a prediction of the cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from effbench.common import registry
from effbench.common.growth import slope
from effbench.common.spec import Cell, Record
from effbench.sweep.estimate import whole_seconds


def reason_to_skip(cell: Cell, records: Sequence[Record]) -> str:
    """Return the reason to skip a cell, or "" to measure it.

    The reason is that this configuration already ran out of memory or time at this length or a shorter one.
    """
    setting = _without_length(cell)
    same = [record for record in records if _without_length(record.cell) == setting]
    for failed in same:
        if failed.status not in ("oom", "timeout"):
            continue
        again = failed.cell.seq_len == cell.seq_len and failed.cell.probe == cell.probe
        if failed.cell.seq_len < cell.seq_len or again:
            ending = "ran out of memory" if failed.status == "oom" else "ran out of time"
            return f"N={failed.cell.seq_len} {ending}; {_prediction(cell, failed, same)}"
    return ""


def _without_length(cell: Cell) -> Cell:
    """Return the cell without its length, its repeat and which cost is measured."""
    probe = "accuracy" if cell.probe == "accuracy" else "time"
    return replace(cell, seq_len=1, repeat=0, seconds=0.0, precision=0.0, probe=probe)


def _prediction(cell: Cell, failed: Record, same: Sequence[Record]) -> str:
    """Predict the cost of the cell from the shorter lengths that were measured; the text names its basis."""
    quantity = "peak_bytes" if failed.status == "oom" else "time_s"
    measured: dict[int, float] = {}
    for record in same:
        if quantity == "peak_bytes" and isinstance(record.values.get("peak_bytes"), int):
            measured[record.cell.seq_len] = float(record.values["peak_bytes"] or 0)
        if quantity == "time_s" and record.samples.get("time_s"):
            measured[record.cell.seq_len] = min(record.samples["time_s"])
        if quantity == "time_s" and record.cell.probe == "accuracy" and record.status == "ok":
            measured[record.cell.seq_len] = whole_seconds(record)
    lengths = sorted(n for n, value in measured.items() if value > 0)
    if len(lengths) >= 2:
        low, high = lengths[-2:]
        power = slope((low, high), (measured[low], measured[high]))
        basis = f"it grew as N^{power:.2f} from {low} to {high}"
    elif len(lengths) == 1 and (declared := registry.model(cell.mechanism).order):
        high = lengths[0]
        grown = declared.exponent((high, cell.seq_len)) if cell.seq_len > high else math.nan
        power = declared.power if math.isnan(grown) else grown
        basis = f"{high} measured, {declared} declared"
    else:
        return f"too few shorter lengths are measured to predict N={cell.seq_len}"
    value = measured[high] * (cell.seq_len / high) ** power
    shown = f"{value / 2**30:.2g} GiB" if quantity == "peak_bytes" else f"{value:.2g} s per call"
    if quantity == "time_s" and cell.probe == "accuracy":
        shown = f"{value:.2g} s"
    return f"predicted for N={cell.seq_len}: {shown} ({basis})"
