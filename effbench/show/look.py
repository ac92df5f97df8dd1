"""The look that all plots share: settings, ticks, marks of failures, names in several lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from effbench.common.columns import score_unit
from effbench.common.spec import UsageError
from effbench.records.analyse.pairs import several_hosts
from effbench.records.analyse.summary import label
from effbench.show import units
from effbench.show.palette import Style
from effbench.show.tables import each_row

GREY = "#666666"
TITLE_CHARACTERS_PER_INCH = 13
LABEL_WIDTH = 24  # characters, before a label goes on in another line
NARROW_LABEL_WIDTH = 14  # the same in a narrow column
RC: dict[Any, Any] = {
    "svg.hashsalt": "effbench",
    "pdf.fonttype": 42,  # letters stay letters: publishers refuse fonts of type 3
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


class NothingToDraw(UsageError):
    """The records lack what a kind of plot needs; the message says what."""


def hosts_note(rows: pd.DataFrame) -> str:
    """A caption's note if the times of these rows come from several hosts, empty if not."""
    hosts = several_hosts(rows)
    return f"measured on {hosts} of equal hardware" if hosts else ""


def span(values: Iterable[float]) -> str:
    """``64`` if all values are equal, ``64 to 512`` otherwise."""
    low, high = min(values := list(values)), max(values)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def percent(value: float, _: object = None) -> str:
    """Format a share as a tick label in per cent, with as many digits as it needs."""
    return f"{round(100 * value, 6):g} %"


def score_tick(score: str) -> Callable[..., str]:
    """Return the function that formats a tick label of a score: a share in per cent, others as numbers."""
    return percent if score_unit(score) == "share" else lambda value, _=None: units.ratio(value)


def minor_tick(value: float) -> str:
    """Format the minor ticks 2 and 5 of a decade, so that a narrow logarithmic axis has tick labels."""
    digit = round(value / 10 ** np.floor(np.log10(value)))
    return units.count(value) if digit in (2, 5) else ""


def set_length_axis(
    axes: Axes, lengths: Sequence[int], *, margin: float = 1.25, items: str = "tokens"
) -> None:
    """Make x a logarithmic axis of length with ticks at these lengths, in increasing order.

    ``items`` says what a length counts, ``tokens`` of a sequence or ``clicks`` of a history.
    """
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(lengths))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.length(value)))
    axes.set_xlabel(f"{'history' if items == 'clicks' else 'sequence'} length N ({items})")
    axes.set_xlim(lengths[0] / margin, lengths[-1] * margin)


def mark_failures(
    axes: Axes, rows: pd.DataFrame, column: str, styles: Mapping[str, Style], *, x: str = "seq_len"
) -> set[str]:
    """Draw an x at the upper edge for each row that failed and has no value; return their statuses."""
    statuses: set[str] = set()
    failed = rows[~rows["status"].isin(["ok", "interrupted"]) & rows[column].isna()]
    for at, group in failed.groupby(x):
        for place, row in enumerate(each_row(group)):
            statuses.add(str(row.status))
            axes.plot(
                float(at) * 1.09 ** (place - (len(group) - 1) / 2), 0.985, marker="x", markersize=6,
                markeredgewidth=1.6, linestyle="none", transform=axes.get_xaxis_transform(), clip_on=False,
                color=styles[label(row.mechanism, row.options)]["color"], gid=f"failed-{row.status}",
            )  # fmt: skip
    return statuses


def failures_note(statuses: Iterable[str]) -> str:
    """A caption's explanation of the x marks, empty if there are none."""
    return f"x at the upper edge: failed ({', '.join(sorted(statuses))})" if statuses else ""


def wrapped(name: str, width: int = LABEL_WIDTH) -> str:
    """Break a name longer than ``width`` into lines, after its colons, commas and spaces if it has any."""
    if len(name) <= width:
        return name
    pieces = name.replace(":", ":\0").replace(",", ",\0").replace(" ", " \0").split("\0")
    lines = [""]
    for piece in pieces:
        if lines[-1] and len(lines[-1] + piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join(line.rstrip() for line in lines)
